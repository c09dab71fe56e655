// The rollout engine: decodes many branches of many trunks in one continuous batch. A trunk's keys and values
// are computed once; a branch keeps a prefix of them and adds its own. This file decides which rows go into a
// forward pass; backend.h computes it.
//
// On the CPU each row's arithmetic is independent of the other rows, so tokens do not depend on what else is
// in the batch, on drafts, or on branches that had to be taken out for memory and decoded again.
//
// add_trunk and step run on the compute thread; submit, cancel, release_trunk and interrupt may be called
// from any thread.
#pragma once
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/model/model.h"
#include "core/rollout/backend.h"
#include "core/rollout/draft.h"
#include "core/rollout/types.h"

namespace cft {

struct EngineOptions {
  int64_t max_branches = 64;  // decoded together; fewer where memory is short
  std::vector<int32_t> end_token_ids;
  int64_t memory_bytes = 0;  // for keys and values; 0 = planned from what is free
  bool reference = false;    // plain libtorch operations (tests)
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

  int64_t used_bytes() const { return backend_ ? backend_->used_bytes() : 0; }

 private:
  struct Trunk {
    std::vector<int32_t> token_ids;
    std::unique_ptr<KvSequence> kv;
  };
  using Key = std::pair<double, uint64_t>;  // priority, then order of submission

  struct Branch {
    BranchSpec spec;
    Key key;
    std::shared_ptr<const Trunk> trunk;
    int64_t prefix = 0;          // trunk tokens whose KV it reads
    std::vector<int32_t> input;  // tokens after the prefix: forced ones, then decoded ones
    size_t forced = 0;           // how many of them were there at the start
    size_t fed = 0;              // how many of them are in `own`
    std::unique_ptr<KvSequence> own;
    TrunkDraft draft;
    int64_t left() const {  // tokens that may still be decoded
      return spec.max_new_tokens - static_cast<int64_t>(input.size() - forced);
    }
  };
  // The rows of one branch in a forward pass.
  struct Span {
    size_t branch, first_row, rows, drafts;
  };

  Branch make_branch(const BranchSpec& spec) const;
  void ensure_backend();
  void follow_weights();
  void admit(StepResult* result);
  void drop_cancelled();
  void compose();
  bool make_room(size_t index, int64_t length);
  void park(size_t index);
  void pick_tokens();
  void decode_once(StepResult* result);
  void accept_rows(const Span& span, StepResult* result);
  bool accept(Branch& branch, int32_t token, StepResult* result);

  Model& model_;
  const EngineOptions options_;
  const std::unordered_set<int32_t> end_tokens_;
  uint64_t weight_version_;
  std::unique_ptr<Backend> backend_;  // made when first needed: packing weights is work of the compute thread

  std::mutex mutex_;  // guards what other threads touch: the five below
  std::unordered_map<int64_t, std::shared_ptr<const Trunk>> trunks_;
  std::map<Key, Branch> waiting_;
  std::unordered_map<int64_t, Key> live_;  // waiting and active branches
  std::unordered_set<int64_t> cancelled_;  // active branches to drop
  int64_t next_trunk_ = 1;
  uint64_t next_order_ = 0;

  // Compute thread only.
  std::vector<Branch> active_;
  size_t limit_;  // of active branches: below max_branches after memory was short
  std::vector<ForwardRow> rows_;
  std::vector<Span> spans_;
  ForwardOutput output_;
  std::vector<int32_t> picked_;  // per row: the next token
  std::atomic<bool> interrupted_{false};
};

}  // namespace cft
