// The rollout engine: decodes many branches of many trunks in one continuous batch. A trunk's keys and values
// are computed once; a branch keeps a prefix of them and adds its own. This file checks what is asked for and
// keeps trunks and queue; decode_loop.h decodes.
//
// On the CPU each row's arithmetic is independent of the other rows, so tokens do not depend on what else is
// in the batch, on drafts, or on branches that had to be taken out for memory and decoded again.
//
// add_trunk and step run on the compute thread; submit, cancel, release_trunk and interrupt may be called
// from any thread.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/model/model.h"
#include "core/rollout/branch_queue.h"
#include "core/rollout/decode_loop.h"
#include "core/rollout/types.h"

namespace cft {

struct DeviceParts;

struct EngineOptions {
  int64_t max_branches = 64;  // decoded together; fewer where memory is short
  std::vector<int32_t> end_token_ids;
  int64_t memory_bytes = 0;                             // for keys and values; 0 = planned from what is free
  bool reference = false;                               // plain libtorch operations (tests)
  std::shared_ptr<const DeviceParts> device = nullptr;  // tests: kernels under the emulator
};

class RolloutEngine {
 public:
  // The model must outlive the engine. Throws Error ERR_CFT_BAD_OPTION for max_branches < 1 or end tokens
  // outside the vocabulary.
  RolloutEngine(Model& model, EngineOptions options);
  RolloutEngine(Model& model, int64_t max_branches, std::vector<int32_t> end_token_ids)
      : RolloutEngine(model, EngineOptions{max_branches, std::move(end_token_ids)}) {}

  // Runs a prefix through the model and returns its number. scores describes tokens [score_from, T) with
  // `alternatives` each; score_from = T for none. Throws Error ERR_CFT_BAD_DATA for an empty prefix, ids
  // outside the vocabulary, one that is too long, or a score_from outside [1, T]; ERR_CFT_OUT_OF_MEMORY where
  // the budget has no room now.
  int64_t add_trunk(std::vector<int32_t> token_ids, int64_t score_from, int64_t alternatives,
                    TrunkScores* scores);

  // Queues branches. Throws Error ERR_CFT_BAD_DATA, and queues none, where one names an unknown trunk, a
  // length outside 1..T, an id that is still in use, a token outside the vocabulary, or needs more than the
  // model's positions.
  void submit(const std::vector<BranchSpec>& branches);

  // Up to max_steps forward passes; returns early where finished branches leave room that no waiting ones
  // fill, or on interrupt(). Throws Error ERR_CFT_OUT_OF_MEMORY where not even one branch fits.
  StepResult step(int64_t max_steps);

  void cancel(const std::vector<int64_t>& branch_ids);
  void release_trunk(int64_t trunk);
  void interrupt() { interrupted_ = true; }

  int64_t used_bytes() const { return loop_ ? loop_->used_bytes() : 0; }

 private:
  Branch make_branch(const BranchSpec& spec) const;
  DecodeLoop& loop();
  void follow_weights();

  Model& model_;
  const EngineOptions options_;
  const EndTokens end_tokens_;
  uint64_t weight_version_;

  mutable std::mutex mutex_;  // guards the trunks
  std::unordered_map<int64_t, std::shared_ptr<const Trunk>> trunks_;
  int64_t next_trunk_ = 1;
  BranchQueue queue_;
  std::unique_ptr<DecodeLoop> loop_;  // made when first needed: packing weights is work of the compute thread
  std::atomic<bool> interrupted_{false};
};

}  // namespace cft
