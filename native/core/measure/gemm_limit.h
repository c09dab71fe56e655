// How fast the matrix products of one decode step alone would be: the limit that an engine is measured
// against.
#pragma once
#include <cstdint>

#include "core/model/model.h"

namespace cft {

struct GemmLimit {
  double tokens_per_second = 0;
  int64_t steps = 0;  // timed
  const char* kernel = "";
};

// Runs the fused QKV, output, gate-up and down projections of all layers and the head on `rows` rows, each
// layer's weights once per step as decoding does, so that weights larger than the cache come from memory. The
// threads share each product, or for a small model the rows, whichever is faster; libtorch's products, or on
// the CPU the engine's own (fp32 activations, or tiles), whichever are faster. The median step of `seconds`.
GemmLimit gemm_limit(Model& model, int64_t rows, double seconds = 0.5);

// The same of a training step with `rows` tokens, of which `head_rows` pass the head: each product of the
// forward and the two of its backward. Products in fp32 (bf16 weights are widened first, which is not timed)
// by one operation after the other.
GemmLimit train_gemm_limit(const Model& model, int64_t rows, int64_t head_rows, double seconds = 1.0);

// What a device can do at best, measured: products of large square matrices in the model's dtype, and copies
// of a block of memory much larger than its caches.
struct DeviceLimits {
  double flops_per_second = 0;
  double bytes_per_second = 0;  // read and written
};
DeviceLimits device_limits(const Model& model, double seconds = 0.5);

}  // namespace cft
