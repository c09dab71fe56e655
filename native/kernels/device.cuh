// What every kernel includes: CUDA's language under nvcc, the emulator of the tests under a plain C++
// compiler. Loads, stores and conversions that differ between the two stand here, so that a kernel is one
// source.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
// 16 bytes: what asynchronous copies and matrix loads want.
#define CFT_DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#define CFT_UNROLL _Pragma("unroll")
#else
#include <cstring>

#include "test/emulator/emulator.h"
#define CFT_UNROLL
#endif

namespace cft::kernels {

// Storage of a bfloat16: the upper half of a float.
struct Bf16 {
  uint16_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(Bf16 x) {
#ifdef __CUDACC__
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
#else
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
#endif
}

template <class T>
__device__ T from_float(float x);

template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}

// Rounds to nearest even.
template <>
__device__ __forceinline__ Bf16 from_float<Bf16>(float x) {
#ifdef __CUDACC__
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};  // NaN
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}

// N neighbouring values, moved in one access.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  T values[N];
};

template <class T>
__host__ __device__ __forceinline__ T smaller(T a, T b) {
  return b < a ? b : a;
}

template <class T>
__host__ __device__ __forceinline__ T larger(T a, T b) {
  return a < b ? b : a;
}

// Two neighbouring bf16 in a register, the first in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float first, float second) {
#ifdef __CUDACC__
  const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&both);
#else
  return from_float<Bf16>(first).bits | static_cast<uint32_t>(from_float<Bf16>(second).bits) << 16;
#endif
}

__device__ __forceinline__ float warp_sum(float x) {
  for (int mask = 16; mask > 0; mask >>= 1) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

// Sum over the block, for all its threads. `scratch` holds one float per warp; at most 1024 threads, whole
// warps.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  x = warp_sum(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / 32;
  return warp_sum(lane < warps ? scratch[lane] : 0.0f);
}

}  // namespace cft::kernels
