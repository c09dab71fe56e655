// SwiGLU, and RMSNorm without the residual add before it.
#pragma once
#include "kernels/device.cuh"

namespace cft::kernels {

constexpr int kSwigluThreads = 256;

// y (rows, width) = silu(gate) * up of gate_up (rows, 2 * width), rounded to T after silu and after the
// product, as the separate operations do. width a multiple of N. Grid: (blocks of a row, rows).
template <class T, int N>
__global__ void swiglu_kernel(const T* __restrict__ gate_up, T* __restrict__ y, int64_t width) {
  using Values = Pack<T, N>;
  const int64_t packs = width / N, row = blockIdx.y;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= packs) return;
  const Values* in = reinterpret_cast<const Values*>(gate_up) + 2 * packs * row;
  const Values gate = in[i], up = in[packs + i];
  Values out;
  CFT_UNROLL for (int j = 0; j < N; ++j) {
    const float x = to_float(gate.values[j]);
    const float silu = to_float(from_float<T>(x / (1.0f + expf(-x))));
    out.values[j] = from_float<T>(silu * to_float(up.values[j]));
  }
  reinterpret_cast<Values*>(y)[packs * row + i] = out;
}

// kAdd: y += x / rms(x) * weight; else y = it. x, y (rows, width), weight (width); width a multiple of N.
// Grid: rows. Block: whole warps. Dynamic shared memory: one float per warp.
template <class T, int N, bool kAdd>
__global__ void rms_norm_kernel(const T* __restrict__ x, const T* __restrict__ weight, T* __restrict__ y,
                                int64_t width, float eps) {
  CFT_DYNAMIC_SHARED(float, scratch);
  using Values = Pack<T, N>;
  const int64_t packs = width / N, row = static_cast<int64_t>(blockIdx.x) * packs;
  const Values* in = reinterpret_cast<const Values*>(x) + row;
  const Values* weights = reinterpret_cast<const Values*>(weight);
  Values* out = reinterpret_cast<Values*>(y) + row;

  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    const Values values = in[i];
    CFT_UNROLL for (int j = 0; j < N; ++j) squares += to_float(values.values[j]) * to_float(values.values[j]);
  }
  const float scale = rsqrtf(block_sum(squares, scratch) / static_cast<float>(width) + eps);
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) {
    const Values values = in[i], factor = weights[i];
    Values result;
    if (kAdd) result = out[i];
    CFT_UNROLL for (int j = 0; j < N; ++j) {
      const float scaled = to_float(from_float<T>(to_float(values.values[j]) * scale));
      const T normed = from_float<T>(scaled * to_float(factor.values[j]));
      result.values[j] = kAdd ? from_float<T>(to_float(result.values[j]) + to_float(normed)) : normed;
    }
    out[i] = result;
  }
}

// Threads per block for rows of `packs` packs.
inline int row_threads(int64_t packs) {
  const int64_t warps = (packs + 31) / 32;
  return static_cast<int>(warps < 32 ? warps : 32) * 32;
}

}  // namespace cft::kernels
