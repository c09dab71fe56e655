#include "core/rollout/branch_queue.h"

#include <algorithm>

#include "core/errors.h"

namespace cft {

void BranchQueue::submit(std::vector<Branch> branches) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::unordered_set<int64_t> fresh;
  for (const Branch& branch : branches) {
    if (live_.count(branch.spec.id) != 0 || !fresh.insert(branch.spec.id).second)
      throw Error("ERR_CFT_BAD_DATA", "branch " + std::to_string(branch.spec.id) + ": its id is in use");
  }
  for (Branch& branch : branches) {
    branch.key = {branch.spec.priority, next_order_++};
    live_[branch.spec.id] = branch.key;
    waiting_.emplace(branch.key, std::move(branch));
  }
}

void BranchQueue::cancel(const std::vector<int64_t>& branch_ids) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (int64_t id : branch_ids) {
    const auto live = live_.find(id);
    if (live == live_.end()) continue;
    if (waiting_.erase(live->second) > 0) {
      live_.erase(live);
    } else {
      cancelled_.insert(id);
    }
  }
}

std::optional<Branch> BranchQueue::next(StepResult* result) {
  const std::lock_guard<std::mutex> lock(mutex_);
  while (!waiting_.empty()) {
    Branch branch = std::move(waiting_.extract(waiting_.begin()).mapped());
    if (branch.spec.max_new_tokens > 0) return branch;
    live_.erase(branch.spec.id);
    result->finished.push_back({branch.spec.id, {}, -1});
  }
  return std::nullopt;
}

void BranchQueue::put_back(Branch branch) {
  branch.own.reset();
  branch.fed = 0;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (cancelled_.erase(branch.spec.id) > 0) {
    live_.erase(branch.spec.id);
    return;
  }
  waiting_.emplace(branch.key, std::move(branch));
}

void BranchQueue::finish(int64_t branch_id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  live_.erase(branch_id);
  cancelled_.erase(branch_id);
}

std::unordered_set<int64_t> BranchQueue::take_cancelled() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (int64_t id : cancelled_) live_.erase(id);
  return std::exchange(cancelled_, {});
}

int64_t BranchQueue::waiting() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(waiting_.size());
}

bool BranchQueue::goes_before(const Branch::Key& key) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return !waiting_.empty() && waiting_.begin()->first < key;
}

int64_t BranchQueue::most_positions() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  int64_t most = 0;
  for (const auto& [key, branch] : waiting_) most = std::max(most, branch.most_positions());
  return most;
}

bool BranchQueue::clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool busy = !live_.empty();
  waiting_.clear();
  live_.clear();
  cancelled_.clear();
  return busy;
}

}  // namespace cft
