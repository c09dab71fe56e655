// Residual add fused with RMSNorm: residual += x; y = residual / rms(residual) * weight. One block per row.
// It rounds to T where the separate operations would: after the sum, after the scaling and after the weight.
#pragma once
#include "kernels/device.cuh"

namespace cft::kernels {

// x, residual, y (rows, width), weight (width), all contiguous; width a multiple of N. Grid: rows. Block:
// whole warps. Dynamic shared memory: one float per warp.
template <class T, int N>
__global__ void add_rms_norm_kernel(const T* __restrict__ x, T* __restrict__ residual,
                                    const T* __restrict__ weight, T* __restrict__ y, int64_t width,
                                    float eps) {
  CFT_DYNAMIC_SHARED(float, scratch);
  using Values = Pack<T, N>;
  const int64_t packs = width / N, row = static_cast<int64_t>(blockIdx.x) * packs;
  const Values* x_row = reinterpret_cast<const Values*>(x) + row;
  Values* residual_row = reinterpret_cast<Values*>(residual) + row;
  Values* y_row = reinterpret_cast<Values*>(y) + row;
  const Values* weights = reinterpret_cast<const Values*>(weight);

  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    const Values add = x_row[i];
    Values sum = residual_row[i];
    for (int j = 0; j < N; ++j) {
      sum.values[j] = from_float<T>(to_float(sum.values[j]) + to_float(add.values[j]));
      const float rounded = to_float(sum.values[j]);
      squares += rounded * rounded;
    }
    residual_row[i] = sum;
  }
  const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(width) + eps);
  // Each thread reads back only what it wrote itself.
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    const Values sum = residual_row[i], factor = weights[i];
    Values out;
    for (int j = 0; j < N; ++j) {
      const float scaled = to_float(from_float<T>(to_float(sum.values[j]) * scale));
      out.values[j] = from_float<T>(scaled * to_float(factor.values[j]));
    }
    y_row[i] = out;
  }
}

// Threads per block for rows of `packs` packs.
inline int add_rms_norm_threads(int64_t packs) {
  const int64_t warps = (packs + 31) / 32;
  return static_cast<int>(warps < 32 ? warps : 32) * 32;
}

}  // namespace cft::kernels
