// The rollout engine: decodes many branches of many trunks in one batch. A trunk's keys and values are
// computed once; a branch keeps a prefix of them and adds its own suffix in an arena of slots. This is the
// simple version: one libtorch operation after the other, slots refilled in the order of submission.
//
// Each row's arithmetic is independent of the other rows (see row_linear in decode.h), so tokens do not
// depend on what else is in the batch.
//
// add_trunk and step run on the compute thread; submit, cancel, release_trunk and interrupt may be called
// from any thread.
#pragma once
#include <ATen/ATen.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "core/model/model.h"
#include "core/rollout/trunk.h"
#include "core/rollout/types.h"

namespace cft {

class RolloutEngine {
 public:
  // The model must outlive the engine. Throws Error ERR_CFT_BAD_OPTION for max_branches < 1 or end tokens
  // outside the vocabulary.
  RolloutEngine(Model& model, int64_t max_branches, std::vector<int32_t> end_token_ids);

  // Returns the new trunk's number. See prefill_trunk for scores and errors.
  int64_t add_trunk(std::vector<int32_t> token_ids, int64_t score_from, int64_t alternatives,
                    TrunkScores* scores);

  // Queues branches. Throws Error ERR_CFT_BAD_DATA, and queues none, where one names an unknown trunk, a
  // length outside 1..T, an id that is still in use, a token outside the vocabulary, or needs more than the
  // model's positions.
  void submit(const std::vector<BranchSpec>& branches);

  // Decodes up to max_steps tokens per branch; returns early once branches have finished, or on interrupt().
  StepResult step(int64_t max_steps);

  void cancel(const std::vector<int64_t>& branch_ids);
  void release_trunk(int64_t trunk);
  void interrupt() { interrupted_ = true; }

 private:
  struct Branch {
    BranchSpec spec;
    std::shared_ptr<const Trunk> trunk;
    std::vector<int32_t> input;  // tokens to feed before the first decoded one; the last of them predicts it
    size_t fed = 0;              // how many of them are in the arena
    std::vector<int32_t> decoded;  // without the end token
    int64_t prefix = 0;            // trunk tokens whose KV it reads
    int64_t suffix() const { return static_cast<int64_t>(fed); }
    int64_t position() const { return prefix + suffix(); }  // of the next token to feed
  };

  void follow_weights();
  void admit(StepResult* result);
  void drop_cancelled();
  void reserve_arena();
  void decode_block(int64_t first, int64_t last, at::Tensor& logits);
  void decode_once(StepResult* result);
  void accept(size_t slot, int32_t token, StepResult* result);
  void finish(size_t slot, int32_t end_token, StepResult* result);

  Model& model_;
  const size_t max_branches_;
  const std::unordered_set<int32_t> end_tokens_;
  uint64_t weight_version_;

  std::mutex mutex_;  // guards what other threads touch: the four below
  std::unordered_map<int64_t, std::shared_ptr<const Trunk>> trunks_;
  std::deque<Branch> waiting_;
  std::unordered_set<int64_t> live_;       // ids of waiting and active branches
  std::unordered_set<int64_t> cancelled_;  // active branches to drop
  int64_t next_trunk_ = 1;

  // Compute thread only. Branch i owns arena slot i.
  std::vector<Branch> active_;
  std::vector<at::Tensor> arena_keys_, arena_values_;  // per layer (slots, capacity, kv_heads, head_dim)
  int64_t arena_slots_ = 0, arena_capacity_ = 0;
  std::atomic<bool> interrupted_{false};
};

}  // namespace cft
