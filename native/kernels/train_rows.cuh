// SwiGLU, rotary embedding and dropout of training, forward and backward.
#pragma once
#include "kernels/launch.cuh"
#include "kernels/train.h"

namespace cft::kernels {

constexpr int kRowThreads = 256;
constexpr int kRopeThreads = 128;

// Grid: (rows, blocks of a row). width and strides multiples of N.
template <class T, int N, bool kBackward>
__global__ void __launch_bounds__(kRowThreads) train_swiglu_kernel(CftTrainSwiglu work) {
  using Values = Pack<T, N>;
  const int64_t row = blockIdx.x, packs = work.width / N;
  const int64_t i = static_cast<int64_t>(blockIdx.y) * kRowThreads + threadIdx.x;
  if (i >= packs) return;
  const int64_t place = row * (work.stride / N) + i;
  const Values gate = static_cast<const Values*>(work.gate)[place];
  const Values up = static_cast<const Values*>(work.up)[place];
  if (!kBackward) {
    Values act;
    CFT_UNROLL for (int j = 0; j < N; ++j) {
      const float x = to_float(gate.values[j]);
      const float silu = to_float(from_float<T>(x / (1.0f + expf(-x))));
      act.values[j] = from_float<T>(silu * to_float(up.values[j]));
    }
    static_cast<Values*>(work.act)[row * packs + i] = act;
    return;
  }
  const Values slopes = static_cast<const Values*>(work.d_act)[row * packs + i];
  Values d_gate, d_up;
  CFT_UNROLL for (int j = 0; j < N; ++j) {
    const float x = to_float(gate.values[j]), d = to_float(slopes.values[j]);
    const float sigmoid = 1.0f / (1.0f + expf(-x));
    d_gate.values[j] = from_float<T>(d * to_float(up.values[j]) * sigmoid * (1.0f + x * (1.0f - sigmoid)));
    d_up.values[j] = from_float<T>(d * x * sigmoid);
  }
  const int64_t target = row * (work.d_stride / N) + i;
  static_cast<Values*>(work.d_gate)[target] = d_gate;
  static_cast<Values*>(work.d_up)[target] = d_up;
}

// Grid: rows. head_dim / 2 and strides multiples of N.
template <class T, int N>
__global__ void __launch_bounds__(kRopeThreads) train_rope_kernel(CftTrainRope work) {
  using Values = Pack<T, N>;
  const int64_t row = blockIdx.x;
  const int half = static_cast<int>(work.head_dim / 2), packs = half / N;
  const int64_t angles = work.positions[row] * half;
  const float* cos = work.cos + angles;
  const float* sin = work.sin + angles;
  const T* x = static_cast<const T*>(work.x) + row * work.x_stride;
  T* y = static_cast<T*>(work.y) + row * work.y_stride;
  for (int p = static_cast<int>(threadIdx.x); p < static_cast<int>(work.heads) * packs; p += kRopeThreads) {
    const int64_t first = static_cast<int64_t>(p / packs) * work.head_dim + p % packs * N;
    const Values a = *reinterpret_cast<const Values*>(x + first);
    const Values b = *reinterpret_cast<const Values*>(x + first + half);
    Values turned_a, turned_b;
    CFT_UNROLL for (int j = 0; j < N; ++j) {
      const int k = p % packs * N + j;
      const float c = cos[k], s = work.back != 0 ? -sin[k] : sin[k];
      const float u = to_float(a.values[j]), v = to_float(b.values[j]);
      turned_a.values[j] = from_float<T>(u * c - v * s);
      turned_b.values[j] = from_float<T>(v * c + u * s);
    }
    *reinterpret_cast<Values*>(y + first) = turned_a;
    *reinterpret_cast<Values*>(y + first + half) = turned_b;
  }
}

// Chris Wellons' "lowbias32", as on the CPU.
__device__ __forceinline__ uint32_t mix_bits(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352dU;
  x ^= x >> 15;
  x *= 0x846ca68bU;
  return x ^ (x >> 16);
}

// `limit`: of 2^32, the share that becomes zero. Grid: (rows, blocks of a row).
template <class T, int N>
__global__ void __launch_bounds__(kRowThreads)
    train_dropout_kernel(CftTrainDropout work, uint32_t limit, float scale) {
  using Values = Pack<T, N>;
  const int64_t row = blockIdx.x, packs = work.width / N;
  const int64_t i = static_cast<int64_t>(blockIdx.y) * kRowThreads + threadIdx.x;
  if (i >= packs) return;
  Values x = static_cast<const Values*>(work.x)[row * packs + i];
  const uint64_t first = static_cast<uint64_t>(work.numbers[row] * work.width + i * N);
  CFT_UNROLL for (int j = 0; j < N; ++j) {
    const uint64_t index = first + static_cast<uint64_t>(j);
    const uint32_t high = mix_bits(work.key ^ static_cast<uint32_t>(index >> 32));
    const bool drop = mix_bits(high ^ static_cast<uint32_t>(index)) < limit;
    x.values[j] = from_float<T>(to_float(x.values[j]) * (drop ? 0.0f : scale));
  }
  static_cast<Values*>(work.y)[row * packs + i] = x;
}

}  // namespace cft::kernels
