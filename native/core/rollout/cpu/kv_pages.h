// Keys and values on the CPU, in pages of kPagePositions positions of all layers and heads.
//
// In a page, per layer and key head: keys in panels as the score kernel reads them, [panel][dim][panel size],
// then values as rows [position][width], width = dim rounded up to whole panels and filled with zeros.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/rollout/backend.h"

namespace cft::cpu {

constexpr int64_t kPagePositions = 64;

struct KvShape {
  int64_t layers = 0, heads = 0, dim = 0, panel = 0;
  int64_t width() const { return (dim + panel - 1) / panel * panel; }
  int64_t head_floats() const { return kPagePositions * (dim + width()); }
  int64_t page_floats() const { return layers * heads * head_floats(); }
};

// Pages of one size under a budget. Freed pages are kept for the next taker.
class PagePool {
 public:
  PagePool(KvShape shape, int64_t budget_bytes) : shape_(shape), budget_bytes_(budget_bytes) {}
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  float* take();  // null where the budget is used up
  void give_back(float* page);

  const KvShape& shape() const { return shape_; }
  int64_t page_bytes() const { return shape_.page_floats() * static_cast<int64_t>(sizeof(float)); }
  int64_t used_bytes() const;
  int64_t budget_bytes() const { return budget_bytes_; }

 private:
  const KvShape shape_;
  const int64_t budget_bytes_;
  mutable std::mutex mutex_;  // a trunk may be released on the JavaScript thread
  std::vector<float*> free_;
  int64_t allocated_ = 0;
};

class PagedSequence : public KvSequence {
 public:
  explicit PagedSequence(std::shared_ptr<PagePool> pool) : pool_(std::move(pool)) {}
  ~PagedSequence() override;

  bool reserve(int64_t length);

  float* keys(int64_t page, int64_t layer, int64_t head) const {
    const KvShape& s = pool_->shape();
    return pages_[page] + (layer * s.heads + head) * s.head_floats();
  }
  float* values(int64_t page, int64_t layer, int64_t head) const {
    return keys(page, layer, head) + kPagePositions * pool_->shape().dim;
  }
  // Key and value (dim floats each) of one position.
  void write(int64_t index, int64_t layer, int64_t head, const float* key, const float* value);

 private:
  std::shared_ptr<PagePool> pool_;
  std::vector<float*> pages_;
};

}  // namespace cft::cpu
