// AdamW in one pass over memory, and the norm that its gradients are clipped by.
#pragma once
#include "kernels/train_rows.cuh"

namespace cft::kernels {

constexpr int kAdamWThreads = 256;
constexpr int kSquaresThreads = 256;
constexpr int64_t kSquaresPerBlock = int64_t{1} << 16;  // elements, at least
constexpr int64_t kSquaresParts = 1024;                 // at most

__device__ __forceinline__ uint32_t float_bits(float x) {
#ifdef __CUDACC__
  return __float_as_uint(x);
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
#endif
}

// Up with the probability of the part that is cut off.
__device__ __forceinline__ Bf16 round_stochastic(float x, uint32_t random) {
  const uint32_t bits = float_bits(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return from_float<Bf16>(x);
  return {static_cast<uint16_t>((bits + (random & 0xffffu)) >> 16)};
}

template <int N>
__device__ __forceinline__ void load_floats(const void* from, CftDtype dtype, int64_t pack, float* to) {
  if (dtype == CFT_FLOAT32) {
    const Pack<float, N> x = static_cast<const Pack<float, N>*>(from)[pack];
    CFT_UNROLL for (int j = 0; j < N; ++j) to[j] = x.values[j];
  } else {
    const Pack<Bf16, N> x = static_cast<const Pack<Bf16, N>*>(from)[pack];
    CFT_UNROLL for (int j = 0; j < N; ++j) to[j] = to_float(x.values[j]);
  }
}

template <int N>
__device__ __forceinline__ void store_floats(void* to, int64_t pack, const float* from) {
  Pack<float, N> x;
  CFT_UNROLL for (int j = 0; j < N; ++j) x.values[j] = from[j];
  static_cast<Pack<float, N>*>(to)[pack] = x;
}

// Each rounding is written out, so that the compiler joins none and the bits are those of the CPU's kernel.
// count a multiple of N. Grid: any.
template <int N>
__global__ void __launch_bounds__(kAdamWThreads) train_adamw_kernel(CftTrainAdamW t) {
  const float scale = t.gradient_scale == nullptr ? 1.0f : *t.gradient_scale;
  if (scale - scale != 0.0f) return;
  const float rest1 = 1.0f - t.beta1, rest2 = 1.0f - t.beta2;
  const int64_t packs = t.count / N, step = static_cast<int64_t>(gridDim.x) * kAdamWThreads;
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * kAdamWThreads + threadIdx.x; p < packs; p += step) {
    float g[N] = {}, w[N], m[N], v[N];
    if (t.gradient != nullptr) load_floats<N>(t.gradient, t.gradient_dtype, p, g);
    if (t.weight != nullptr)
      load_floats<N>(t.weight, CFT_FLOAT32, p, w);
    else
      load_floats<N>(t.half_weight, CFT_BFLOAT16, p, w);
    load_floats<N>(t.m, t.moment_dtype, p, m);
    load_floats<N>(t.v, t.moment_dtype, p, v);
    CFT_UNROLL for (int j = 0; j < N; ++j) {
      const float gradient = __fmul_rn(g[j], scale);
      m[j] = __fmaf_rn(__fsub_rn(gradient, m[j]), rest1, m[j]);
      v[j] = __fmaf_rn(__fmul_rn(gradient, gradient), rest2, __fmul_rn(v[j], t.beta2));
      const float denominator = __fmaf_rn(__fsqrt_rn(v[j]), t.root_correction, t.epsilon);
      w[j] = __fsub_rn(__fmul_rn(w[j], t.decay), __fdiv_rn(__fmul_rn(t.step_size, m[j]), denominator));
    }
    Pack<Bf16, N> half_w, half_m, half_v;
    CFT_UNROLL for (int j = 0; j < N; ++j) {
      const uint32_t random = mix_bits(t.random_key ^ static_cast<uint32_t>(p * N + j));
      half_w.values[j] = t.weight != nullptr ? from_float<Bf16>(w[j]) : round_stochastic(w[j], random);
      half_m.values[j] = round_stochastic(m[j], random >> 16);
      half_v.values[j] = round_stochastic(v[j], mix_bits(random + 0x9e3779b9U));
    }
    if (t.weight != nullptr) store_floats<N>(t.weight, p, w);
    if (t.half_weight != nullptr) static_cast<Pack<Bf16, N>*>(t.half_weight)[p] = half_w;
    if (t.moment_dtype == CFT_FLOAT32) {
      store_floats<N>(t.m, p, m);
      store_floats<N>(t.v, p, v);
    } else {
      static_cast<Pack<Bf16, N>*>(t.m)[p] = half_m;
      static_cast<Pack<Bf16, N>*>(t.v)[p] = half_v;
    }
  }
}

// Sum over the block, for its first thread, always in the same order. Scratch: one double per warp.
__device__ __forceinline__ double block_sum_double(double x, double* scratch) {
  for (int mask = 16; mask > 0; mask >>= 1) x += __shfl_xor_sync(0xffffffffu, x, mask);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0.0;
  if (threadIdx.x == 0)
    for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) sum += scratch[w];
  return sum;
}

// Grid: cft_train_squares_parts(count). Dynamic shared memory: a double per warp.
template <int N>
__global__ void __launch_bounds__(kSquaresThreads) train_squares_kernel(CftTrainSquares work) {
  CFT_DYNAMIC_SHARED(double, totals);
  const int64_t packs = work.count / N, step = static_cast<int64_t>(gridDim.x) * kSquaresThreads;
  double sum = 0.0;
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * kSquaresThreads + threadIdx.x; p < packs; p += step) {
    float x[N], squares = 0.0f;
    load_floats<N>(work.x, work.dtype, p, x);
    CFT_UNROLL for (int j = 0; j < N; ++j) squares += x[j] * x[j];
    sum += squares;
  }
  sum = block_sum_double(sum, totals);
  if (threadIdx.x == 0) work.partial[blockIdx.x] = sum;
}

// Grid: 1. Block: kThreads. Dynamic shared memory: a double per warp.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) train_clip_kernel(CftTrainClip work) {
  CFT_DYNAMIC_SHARED(double, totals);
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < work.count; i += kThreads) sum += work.partial[i];
  sum = block_sum_double(sum, totals);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum);
  double scale = work.max_norm > 0 && work.max_norm < norm + 1e-6 ? work.max_norm / (norm + 1e-6) : 1.0;
  if (norm - norm != 0.0) scale = NAN;
  *work.norm = norm;
  *work.scale = static_cast<float>(scale);
}

}  // namespace cft::kernels
