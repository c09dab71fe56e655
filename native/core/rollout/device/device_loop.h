// The decode loop whose inner part runs on the device: branches sit in slots, a captured step moves all of
// them on by a token, and the host looks every few steps: takes the tokens, refills slots, makes room.
// docs/decisions/0005-cuda-rollout-kernels.md holds the buffers and the order of launches.
//
// The host keeps a mirror of every slot and replays from the ring of decoded tokens what the device did, so
// at a look it knows all without asking, and can write any slot anew.
#pragma once
#include <map>
#include <optional>
#include <vector>

#include "core/model/model.h"
#include "core/rollout/decode_loop.h"
#include "core/rollout/device/decode_step.h"
#include "core/rollout/device/device_slots.h"
#include "core/rollout/device/kv_memory.h"

namespace cft {

// What a device brings.
struct DeviceParts {
  const DecodeKernels* kernels = nullptr;
  std::shared_ptr<DeviceRuntime> runtime;
  int64_t chunk_positions = 256;  // a multiple of 64
  int64_t first_capacity = 128;   // positions of a slot at first
  int64_t least_steps = 4;        // between two looks while branches wait
  int64_t most_steps = 16;        // between two looks
};

#ifdef CFT_CUDA
// Null where there are no kernels for the model's dtype.
std::shared_ptr<const DeviceParts> cuda_parts(const Model& model);
#endif

// Whether the kernels take the model's shape.
bool device_loop_takes(const Model& model, const DeviceParts& parts);

// The rows that steps are captured for: the smallest bucket that holds `rows`.
int64_t row_bucket(int64_t rows);

class DeviceLoop : public DecodeLoop {
 public:
  // budget_bytes for keys and values; 0: planned from what is free. All references must outlive it. Throws
  // Error ERR_CFT_OUT_OF_MEMORY where nothing is left for any.
  DeviceLoop(const Model& model, std::shared_ptr<const DeviceParts> parts, const EndTokens& end_tokens,
             int64_t max_branches, int64_t budget_bytes, BranchQueue& queue);

  std::unique_ptr<KvSequence> prefill(const std::vector<int32_t>& tokens, int64_t score_from, int64_t k,
                                      TrunkScores* scores) override;
  void run(int64_t max_steps, const std::atomic<bool>& interrupted, StepResult* result) override;
  int64_t active() const override;
  int64_t used_bytes() const override { return (pool_.positions() + arena_.positions()) * position_bytes_; }

 private:
  // A slot's mirror; free without a branch. branch.fed is its positions in the arena.
  struct Slot {
    std::optional<Branch> branch;
    bool dirty = false;  // the device has to be told
  };
  // Rows that sample, of one kind: with top_p below 1 or not.
  struct Sampled {
    at::Tensor rows, slots, temperatures, top_p, seeds;
    bool cut = false;
  };
  struct Bucket {
    int64_t rows, chunks, capacity;
    bool moves_on;
    auto operator<=>(const Bucket&) const = default;
  };

  // device_memory.cc
  void plan_memory(int64_t budget_bytes);
  void drop_cancelled();
  void make_room();
  void admit(StepResult* result);
  int64_t slots_that_fit(int64_t capacity) const;
  int64_t positions_left() const;
  int64_t positions_for_trunks();
  void shape_arena(int64_t slots, int64_t capacity);
  void park(size_t slot);
  void shrink_batch();
  [[noreturn]] void no_room(int64_t positions) const;

  // device_loop.cc
  void fit_step();
  void fit_slots();
  void choose_rows();
  std::vector<Sampled> sampled_rows() const;
  void tell_slots();
  int64_t steps_of_look(int64_t most) const;
  void launch(int64_t steps);
  void replay(int64_t steps, StepResult* result);
  void forget_addresses();

  const Model& model_;
  const std::shared_ptr<const DeviceParts> parts_;
  DeviceRuntime& runtime_;
  const EndTokens& end_tokens_;
  BranchQueue& queue_;
  int64_t most_slots_;  // fewer than max_branches where not even the buffers of a step fit
  const KvLayout layout_;
  const int64_t position_bytes_;
  int64_t budget_positions_ = 0;
  int64_t longest_ = 0;  // most positions of a branch since no trunk was held

  TrunkPool pool_;
  SuffixArena arena_;
  DecodeStep step_;
  DeviceSlots device_slots_;
  std::vector<CftLayerCache> caches_;
  uint64_t pool_version_ = 0;
  std::map<Bucket, std::unique_ptr<DeviceGraph>> graphs_;

  std::vector<Slot> slots_;
  std::vector<int32_t> slot_of_row_;  // of the bucket, as the device has it
  StepShape shape_;
  std::vector<Sampled> sampled_;
  bool rows_dirty_ = true;
  double mean_steps_ = 64;  // of a branch, over the latest
};

}  // namespace cft
