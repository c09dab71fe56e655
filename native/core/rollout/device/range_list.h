// Ranges of positions in a pool: handed out first fit, given back from any thread, packed without gaps where
// a large one needs room. Only numbers; trunk_pool.h moves the data.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace cft {

class RangeList : public std::enable_shared_from_this<RangeList> {
 public:
  // A range; gives itself back.
  class Range {
   public:
    ~Range() { list_->give_back(*this); }
    Range(const Range&) = delete;
    Range& operator=(const Range&) = delete;
    int64_t start() const { return start_; }  // changes by pack()
    int64_t length() const { return length_; }

   private:
    friend class RangeList;
    Range(std::shared_ptr<RangeList> list, int64_t start, int64_t length)
        : list_(std::move(list)), start_(start), length_(length) {}
    const std::shared_ptr<RangeList> list_;
    int64_t start_;
    const int64_t length_;
  };

  // Null where no gap below `positions` is long enough.
  std::unique_ptr<Range> take(int64_t length, int64_t positions);
  int64_t used() const;  // positions in ranges
  int64_t end() const;   // behind the last range
  // Moves all ranges to the front, in their order. [i]: the old place of the position that is now i.
  std::vector<int64_t> pack();

 private:
  void give_back(const Range& range);

  mutable std::mutex mutex_;
  std::map<int64_t, Range*> ranges_;  // by start
};

}  // namespace cft
