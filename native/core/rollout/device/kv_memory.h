// Keys and values on the device, per layer: one pool for all trunks, and an arena with a part for each slot.
// Shapes are those that native/kernels/decode.h wants.
#pragma once
#include <memory>
#include <vector>

#include "core/model/config.h"
#include "core/rollout/backend.h"
#include "core/rollout/device/range_list.h"
#include "core/rollout/device/runtime.h"
#include "kernels/decode.h"

namespace cft {

struct KvLayout {
  int64_t layers = 0, kv_heads = 0, head_dim = 0;
  at::ScalarType dtype = at::kFloat;

  KvLayout(const ModelConfig& config, at::ScalarType type)
      : layers(config.layers), kv_heads(config.kv_heads), head_dim(config.head_dim), dtype(type) {}
  int64_t position_bytes() const {  // of all layers, keys and values
    return 2 * layers * kv_heads * head_dim * static_cast<int64_t>(c10::elementSize(dtype));
  }
};

// A trunk's place in the pool.
struct PooledTrunk : KvSequence {
  std::unique_ptr<RangeList::Range> range;
};

class TrunkPool {
 public:
  TrunkPool(KvLayout layout, DeviceRuntime& runtime) : layout_(layout), runtime_(runtime) {
    keys_.resize(layout.layers);
    values_.resize(layout.layers);
  }

  // Makes room by packing and by growing to at most `most_positions`; null where that is not enough, and
  // where the device has no more memory.
  std::unique_ptr<PooledTrunk> take(int64_t length, int64_t most_positions);
  // keys and values (length, kv_heads, head_dim) of a whole trunk.
  void write(const PooledTrunk& trunk, int64_t layer, const at::Tensor& keys, const at::Tensor& values);
  // Gives back what no trunk uses. False where there was nothing.
  bool trim();

  int64_t positions() const { return positions_; }
  int64_t used() const { return ranges_->used(); }
  void place(int64_t layer, CftLayerCache* cache) const;
  // Grows whenever a trunk or the memory has moved.
  uint64_t version() const { return version_; }

 private:
  void pack();
  bool resize(int64_t positions);

  const KvLayout layout_;
  DeviceRuntime& runtime_;
  std::shared_ptr<RangeList> ranges_ = std::make_shared<RangeList>();
  std::vector<at::Tensor> keys_, values_;  // (kv_heads, positions of the layer, head_dim)
  int64_t positions_ = 0;                  // that every layer has
  uint64_t version_ = 0;
};

class SuffixArena {
 public:
  SuffixArena(KvLayout layout, DeviceRuntime& runtime) : layout_(layout), runtime_(runtime) {
    keys_.resize(layout.layers);
    values_.resize(layout.layers);
  }

  // Slot i keeps what slot keep[i] held; the rest is free. Throws c10::OutOfMemoryError, after which only
  // release() is allowed.
  void reshape(int64_t slots, int64_t capacity, const std::vector<int64_t>& keep);
  void release();

  int64_t slots() const { return slots_; }
  int64_t capacity() const { return capacity_; }
  int64_t positions() const { return slots_ * capacity_; }
  void place(int64_t layer, CftLayerCache* cache) const;

 private:
  const KvLayout layout_;
  DeviceRuntime& runtime_;
  std::vector<at::Tensor> keys_, values_;  // (slots, kv_heads, capacity, head_dim)
  int64_t slots_ = 0, capacity_ = 0;
};

}  // namespace cft
