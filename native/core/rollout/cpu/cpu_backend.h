// The CPU's forward pass for rollouts: own kernels over packed weights, one parallel region per pass.
//
// Two ways to share the work, chosen per pass by the number of rows: lanes (each thread takes rows of its own
// through all layers and meets nobody) and teams (threads share the columns of each product and meet after
// it). Results have the same bits either way.
#pragma once
#include <memory>
#include <vector>

#include "core/rollout/backend.h"
#include "core/rollout/cpu/attention.h"
#include "core/rollout/cpu/kv_pages.h"
#include "core/rollout/cpu/packed_model.h"
#include "core/rollout/cpu/team.h"

namespace cft::cpu {

class CpuBackend : public Backend {
 public:
  // threads: at most this many; 0 = libtorch's number.
  CpuBackend(Model& model, int64_t budget_bytes, int64_t threads = 0);
  ~CpuBackend() override;

  std::unique_ptr<KvSequence> create_sequence() override;
  bool reserve(KvSequence& sequence, int64_t length) override;
  void forward(const std::vector<ForwardRow>& rows, ForwardOutput* output) override;
  void prefill(KvSequence& sequence, const std::vector<int32_t>& tokens, int64_t score_from, int64_t k,
               TrunkScores* scores) override;
  int64_t cheap_rows() const override;
  int64_t used_bytes() const override { return pool_->used_bytes(); }
  int64_t budget_bytes() const override { return pool_->budget_bytes(); }

 private:
  struct Lane;

  void plan_lanes(const std::vector<ForwardRow>& rows, int64_t threads);
  void prepare_lane(Lane& lane, const std::vector<int64_t>& logits_place, ForwardOutput* output);
  void run_lane(Lane& lane, const Team& team, ForwardOutput* output);
  void run_layer(Lane& lane, const Team& team, int64_t layer);
  void place_keys(Lane& lane, const Team& team, int64_t layer);
  void run_head(Lane& lane, const Team& team, ForwardOutput* output);

  const Model& model_;
  const ModelConfig& config_;
  const int64_t threads_;
  std::shared_ptr<const PackedModel> packed_;
  std::shared_ptr<PagePool> pool_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  int64_t lane_count_ = 0, team_size_ = 1;
};

}  // namespace cft::cpu
