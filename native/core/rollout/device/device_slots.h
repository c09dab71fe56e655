// The slots' state on the device and the staging memory through which the host speaks to it: one copy there
// before the steps of a look, one back after them.
#pragma once
#include <vector>

#include "core/rollout/decode_loop.h"
#include "core/rollout/device/kernels.h"
#include "core/rollout/device/runtime.h"
#include "kernels/trunk_tiles.h"

namespace cft {

class DeviceSlots {
 public:
  DeviceSlots(DeviceRuntime& runtime, const EndTokens& end_tokens, int64_t ring_steps);

  // New memory; every slot and the rows have to be written again. Throws c10::OutOfMemoryError.
  void resize(int64_t slots, int64_t most_rows, int64_t forced_capacity);
  int64_t slots() const { return slots_; }
  int64_t most_rows() const { return most_rows_; }
  int64_t forced_capacity() const { return forced_capacity_; }
  int64_t ring_steps() const { return ring_steps_; }

  // The slots of the bucket's rows, -1 for padding, and how their trunks are attended; sent by upload().
  void set_rows(const std::vector<int32_t>& slot_of_row, const cft::kernels::TrunkTiles& tiles);
  // Takes back what was set since the last upload() but the rows.
  void forget_slots() { records_ = 0; }
  // A slot that begins or goes on at tokens[fed]; sent by upload().
  void set_slot(const CftSlotRecord& record, const std::vector<int32_t>& tokens, size_t fed);
  void upload(const DecodeKernels& kernels, const CftDecodeState& state, void* stream);

  CftDecodeState state(int64_t rows, int64_t capacity) const;
  void place(CftAttention* attention) const;
  void place(CftEndStep* end) const;
  // Absolute positions (n), int64, of the tokens that slots (n), int64, feed next.
  at::Tensor positions(const at::Tensor& slots) const;

  // What came of the steps since the upload; valid until the next one.
  struct Report {
    const int32_t* status;  // (slots)
    const int32_t* ring;    // (steps, slots)
  };
  Report download(int64_t steps);

 private:
  int32_t* plan() const { return static_cast<int32_t*>(plan_.data_ptr()); }
  int32_t* staged() const { return static_cast<int32_t*>(plan_staging_.data_ptr()); }

  DeviceRuntime& runtime_;
  const int64_t ring_steps_;
  at::Tensor end_tokens_;
  int64_t slots_ = 0, most_rows_ = 0, forced_capacity_ = 0;
  at::Tensor state_;   // (6, slots)
  at::Tensor report_;  // status (slots), then the ring (ring_steps, slots)
  at::Tensor report_staging_;
  at::Tensor forced_, forced_staging_;  // (slots, forced_capacity)
  at::Tensor plan_, plan_staging_;      // see the offsets in the source
  int64_t records_ = 0;                 // staged
  bool rows_changed_ = false, forced_changed_ = false;
};

}  // namespace cft
