// Branches on their way through the engine: what waits for a place in the batch, what is being decoded, and
// what was cancelled meanwhile.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/rollout/backend.h"
#include "core/rollout/draft.h"
#include "core/rollout/types.h"

namespace cft {

// A prefix whose keys and values are held.
struct Trunk {
  std::vector<int32_t> token_ids;
  std::unique_ptr<KvSequence> kv;
  // What its branches say, made when the first of them may draft. The compute thread's.
  mutable std::unique_ptr<DraftBook> book;

  DraftBook& drafts() const {
    if (!book) book = std::make_unique<DraftBook>(token_ids);
    return *book;
  }
};

struct Branch {
  using Key = std::pair<double, uint64_t>;  // priority, then order of submission

  BranchSpec spec;
  Key key;
  std::shared_ptr<const Trunk> trunk;
  int64_t prefix = 0;          // trunk tokens whose KV it reads
  std::vector<int32_t> input;  // tokens after the prefix: forced ones, then decoded ones
  size_t forced = 0;           // how many of them were there at the start
  size_t fed = 0;              // how many of them have keys and values
  std::unique_ptr<KvSequence> own;
  Draft draft;

  int64_t left() const {  // tokens that may still be decoded
    return spec.max_new_tokens - static_cast<int64_t>(input.size() - forced);
  }
  // Positions of its own that it takes where no end token comes: the last token is never fed.
  int64_t most_positions() const { return static_cast<int64_t>(input.size()) + left() - 1; }
};

// Any thread may submit and cancel; the rest is the compute thread's.
class BranchQueue {
 public:
  // All or none. Throws Error ERR_CFT_BAD_DATA for an id that is in use.
  void submit(std::vector<Branch> branches);
  void cancel(const std::vector<int64_t>& branch_ids);

  // The one that goes next. Those without a budget are finished at once.
  std::optional<Branch> next(StepResult* result);
  // A branch that lost its place, and with it its keys and values; it keeps its tokens.
  void put_back(Branch branch);
  void finish(int64_t branch_id);
  // Branches outside the queue that were cancelled; named once.
  std::unordered_set<int64_t> take_cancelled();
  int64_t waiting() const;
  // Whether one that waits goes before a branch of this key.
  bool goes_before(const Branch::Key& key) const;
  // The most positions of its own that one of those that wait may take; 0 where none waits.
  int64_t most_positions() const;
  // Forgets all. False where there were none.
  bool clear();

 private:
  mutable std::mutex mutex_;
  std::map<Branch::Key, Branch> waiting_;
  std::unordered_map<int64_t, Branch::Key> live_;  // waiting and active branches
  std::unordered_set<int64_t> cancelled_;          // active branches to drop
  uint64_t next_order_ = 0;
};

}  // namespace cft
