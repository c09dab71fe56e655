// One decode step: the kernels of native/kernels in the order of docs/decisions/0005, matrix products by
// libtorch into fixed buffers between them. Nothing here looks at what the device holds, so a step can be
// captured.
#pragma once
#include <vector>

#include "core/model/model.h"
#include "core/rollout/device/device_slots.h"
#include "core/rollout/device/kernels.h"
#include "core/rollout/device/runtime.h"

namespace cft {

// A bucket: what is fixed in a captured step.
struct StepShape {
  int64_t rows = 0;
  int64_t chunks = 0;    // of chunk_positions: cover the longest prefix
  int64_t capacity = 0;  // of the arena's slots
};

class DecodeStep {
 public:
  DecodeStep(const Model& model, const DecodeKernels& kernels, DeviceRuntime& runtime,
             int64_t chunk_positions);

  // Of the buffers for a bucket.
  static int64_t bytes(const Model& model, int64_t rows, int64_t chunks);
  // Room for so many. True where addresses have changed. Throws c10::OutOfMemoryError, after which there is
  // no room for any.
  bool reserve(int64_t rows, int64_t chunks);

  // Everything up to the logits; then with `moves_on` argmax and the slots' next tokens, else argmax alone,
  // into chosen().
  void run(const StepShape& shape, const DeviceSlots& slots, const std::vector<CftLayerCache>& caches,
           bool moves_on, void* stream) const;
  // Moves the slots on with chosen().
  void advance(const StepShape& shape, const DeviceSlots& slots, void* stream) const;

  at::Tensor logits(int64_t rows) const { return logits_.narrow(0, 0, rows); }  // (rows, vocab)
  at::Tensor chosen() const { return chosen_; }                                 // (most rows) int32

 private:
  CftEndStep end_step(const DeviceSlots& slots) const;

  const Model& model_;
  const DecodeKernels& kernels_;
  DeviceRuntime& runtime_;
  const int64_t chunk_positions_;
  at::Tensor frequencies_, rope_scales_;  // (ropes, head_dim / 2), (ropes)
  int64_t rows_ = 0, row_chunks_ = 0;
  at::Tensor residual_, x_, qkv_, queries_, mixed_, added_, gate_up_, inner_, logits_;
  at::Tensor cos_sin_, partial_, partial_stats_, argmax_values_, argmax_indices_, chosen_;
};

}  // namespace cft
