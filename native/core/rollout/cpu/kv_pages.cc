#include "core/rollout/cpu/kv_pages.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace cft::cpu {

PagePool::~PagePool() {
  for (float* page : free_) std::free(page);
}

float* PagePool::take() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!free_.empty()) {
    float* page = free_.back();
    free_.pop_back();
    return page;
  }
  if ((allocated_ + 1) * page_bytes() > budget_bytes_) return nullptr;
  float* page = static_cast<float*>(std::aligned_alloc(64, (page_bytes() + 63) / 64 * 64));
  if (page == nullptr) return nullptr;
  ++allocated_;
  // The padding behind each value must be zero, and nothing may be a NaN that a zero weight would not hide.
  std::fill_n(page, shape_.page_floats(), 0.0f);
  return page;
}

void PagePool::give_back(float* page) {
  const std::lock_guard<std::mutex> lock(mutex_);
  free_.push_back(page);
}

int64_t PagePool::used_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return (allocated_ - static_cast<int64_t>(free_.size())) * page_bytes();
}

PagedSequence::~PagedSequence() {
  for (float* page : pages_) pool_->give_back(page);
}

bool PagedSequence::reserve(int64_t length) {
  const size_t before = pages_.size();
  const size_t wanted = static_cast<size_t>((length + kPagePositions - 1) / kPagePositions);
  while (pages_.size() < wanted) {
    float* page = pool_->take();
    if (page == nullptr) {
      while (pages_.size() > before) {
        pool_->give_back(pages_.back());
        pages_.pop_back();
      }
      return false;
    }
    pages_.push_back(page);
  }
  return true;
}

void PagedSequence::write(int64_t index, int64_t layer, int64_t head, const float* key, const float* value) {
  const KvShape& s = pool_->shape();
  const int64_t page = index / kPagePositions, at = index % kPagePositions;
  float* keys_of_panel = keys(page, layer, head) + at / s.panel * s.panel * s.dim + at % s.panel;
  for (int64_t d = 0; d < s.dim; ++d) keys_of_panel[d * s.panel] = key[d];
  std::copy_n(value, s.dim, values(page, layer, head) + at * s.width());
}

}  // namespace cft::cpu
