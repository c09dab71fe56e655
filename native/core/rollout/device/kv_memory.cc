#include "core/rollout/device/kv_memory.h"

#include <c10/util/Exception.h>

#include <algorithm>

namespace cft {
namespace {

constexpr int64_t kFirstPositions = 1024;
constexpr int64_t kSlotsAtOnce = 64;  // bounds the copy that moving slots makes

}  // namespace

std::unique_ptr<PooledTrunk> TrunkPool::take(int64_t length, int64_t most_positions) {
  auto range = ranges_->take(length, positions_);
  if (!range && ranges_->used() + length > most_positions) return nullptr;
  try {
    if (!range && (ranges_->used() + length <= positions_ || ranges_->end() + length > most_positions)) {
      pack();
      range = ranges_->take(length, positions_);
    }
    if (!range) {
      const int64_t needed = ranges_->end() + length;
      // Twice as many, so that trunks one by one do not copy the pool each time.
      const int64_t wanted = std::min(std::max({needed, 2 * positions_, kFirstPositions}), most_positions);
      if (!resize(wanted) && (wanted == needed || !resize(needed))) return nullptr;
      range = ranges_->take(length, positions_);
    }
  } catch (const c10::OutOfMemoryError&) {
    return nullptr;  // of pack(), which had not begun
  }
  auto trunk = std::make_unique<PooledTrunk>();
  trunk->range = std::move(range);
  return trunk;
}

void TrunkPool::write(const PooledTrunk& trunk, int64_t layer, const at::Tensor& keys,
                      const at::Tensor& values) {
  const int64_t start = trunk.range->start(), length = trunk.range->length();
  keys_[layer].narrow(1, start, length).copy_(keys.transpose(0, 1));
  values_[layer].narrow(1, start, length).copy_(values.transpose(0, 1));
}

bool TrunkPool::trim() {
  if (ranges_->used() == positions_) return false;
  try {
    if (ranges_->end() > ranges_->used()) pack();
  } catch (const c10::OutOfMemoryError&) {
    return false;
  }
  return resize(ranges_->end());
}

void TrunkPool::pack() {
  // All that has to be allocated, before anything moves. Trunks may be given back meanwhile, none is added.
  const at::Tensor scratch =
      runtime_.empty({layout_.kv_heads, ranges_->used(), layout_.head_dim}, layout_.dtype);
  const at::Tensor places = runtime_.empty({ranges_->used()}, at::kLong);
  const std::vector<int64_t> from = ranges_->pack();
  const auto count = static_cast<int64_t>(from.size());
  if (count == 0) return;
  const at::Tensor index = places.narrow(0, 0, count);
  index.copy_(at::tensor(from, at::kLong));
  for (auto* side : {&keys_, &values_}) {
    for (at::Tensor& tensor : *side) {
      at::Tensor moved = scratch.view({-1}).narrow(0, 0, layout_.kv_heads * count * layout_.head_dim);
      moved = moved.view({layout_.kv_heads, count, layout_.head_dim});
      at::index_select_out(moved, tensor, 1, index);
      tensor.narrow(1, 0, count).copy_(moved);
    }
  }
  ++version_;
}

// Layer by layer, so that only one is there twice. Ranges stay where they are. False where the device has no
// memory for it: the layers before are larger then, which does no harm.
bool TrunkPool::resize(int64_t positions) {
  ++version_;
  const int64_t kept = std::min(positions, ranges_->end());
  for (int64_t i = 0; i < layout_.layers; ++i) {
    if (keys_[i].defined() && keys_[i].size(1) == positions) continue;
    at::Tensor fresh[2];
    try {
      for (at::Tensor& tensor : fresh)
        tensor = runtime_.empty({layout_.kv_heads, positions, layout_.head_dim}, layout_.dtype);
    } catch (const c10::OutOfMemoryError&) {
      return false;
    }
    if (keys_[i].defined() && kept > 0) {
      fresh[0].narrow(1, 0, kept).copy_(keys_[i].narrow(1, 0, kept));
      fresh[1].narrow(1, 0, kept).copy_(values_[i].narrow(1, 0, kept));
    }
    keys_[i] = fresh[0];
    values_[i] = fresh[1];
    // A pool that shrinks is as small as its smallest layer.
    positions_ = std::min(positions_, positions);
  }
  positions_ = positions;
  return true;
}

void TrunkPool::place(int64_t layer, CftLayerCache* cache) const {
  if (!keys_[layer].defined()) return;
  cache->trunk_keys = keys_[layer].data_ptr();
  cache->trunk_values = values_[layer].data_ptr();
  cache->trunk_positions = keys_[layer].size(1);
}

void SuffixArena::release() {
  for (auto* side : {&keys_, &values_})
    for (at::Tensor& tensor : *side) tensor.reset();
  slots_ = capacity_ = 0;
}

void SuffixArena::reshape(int64_t slots, int64_t capacity, const std::vector<int64_t>& keep) {
  if (keep.empty()) release();  // nothing to copy: never both at once
  const int64_t kept = std::min(capacity, capacity_), count = static_cast<int64_t>(keep.size());
  bool in_place = true;
  for (int64_t i = 0; i < count; ++i) in_place = in_place && keep[i] == i;
  for (int64_t i = 0; i < layout_.layers; ++i) {
    for (auto* side : {&keys_, &values_}) {
      at::Tensor& old = (*side)[i];
      const at::Tensor fresh =
          runtime_.empty({slots, layout_.kv_heads, capacity, layout_.head_dim}, layout_.dtype);
      for (int64_t first = 0; first < count; first += kSlotsAtOnce) {
        const int64_t some = in_place ? count : std::min(kSlotsAtOnce, count - first);
        const at::Tensor from =
            in_place
                ? old.narrow(0, 0, count)
                : old.index_select(0, at::tensor(at::ArrayRef<int64_t>(keep.data() + first, some), at::kLong)
                                          .to(old.device()));
        fresh.narrow(0, first, some).narrow(2, 0, kept).copy_(from.narrow(2, 0, kept));
        if (in_place) break;
      }
      old = fresh;
    }
  }
  slots_ = slots;
  capacity_ = capacity;
}

void SuffixArena::place(int64_t layer, CftLayerCache* cache) const {
  if (!keys_[layer].defined()) return;
  cache->arena_keys = keys_[layer].data_ptr();
  cache->arena_values = values_[layer].data_ptr();
}

}  // namespace cft
