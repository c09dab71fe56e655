#include "core/rollout/device/range_list.h"

namespace cft {

std::unique_ptr<RangeList::Range> RangeList::take(int64_t length, int64_t positions) {
  const std::lock_guard<std::mutex> lock(mutex_);
  int64_t start = 0;
  for (const auto& [at, range] : ranges_) {
    if (at - start >= length) break;
    start = at + range->length_;
  }
  if (start + length > positions) return nullptr;
  std::unique_ptr<Range> range(new Range(shared_from_this(), start, length));
  ranges_.emplace(start, range.get());
  return range;
}

int64_t RangeList::used() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  int64_t sum = 0;
  for (const auto& [start, range] : ranges_) sum += range->length_;
  return sum;
}

int64_t RangeList::end() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return ranges_.empty() ? 0 : ranges_.rbegin()->first + ranges_.rbegin()->second->length_;
}

std::vector<int64_t> RangeList::pack() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<int64_t> from;
  std::map<int64_t, Range*> packed;
  for (const auto& [start, range] : ranges_) {
    range->start_ = static_cast<int64_t>(from.size());
    packed.emplace(range->start_, range);
    for (int64_t i = 0; i < range->length_; ++i) from.push_back(start + i);
  }
  ranges_ = std::move(packed);
  return from;
}

void RangeList::give_back(const Range& range) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ranges_.erase(range.start_);
}

}  // namespace cft
