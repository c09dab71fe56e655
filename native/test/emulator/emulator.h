// Runs CUDA C++ kernels on the CPU, one block after the other, each thread of a block a fiber. For tests
// only: slow and deterministic, on any machine. The kernel's source is the one that nvcc compiles.
//
// Works: threadIdx, blockIdx, blockDim, gridDim, dynamic shared memory, __syncthreads, __syncwarp, full-warp
// shuffles, atomicAdd, asynchronous copies. Shared memory is exactly as large as asked and starts as NaNs, so
// that reads before writes show in results and reads out of bounds under AddressSanitizer. Fibers switch at
// barriers only and run in either order, so a missing barrier shows as poison; true races, tensor cores and
// speed do not show here.
#pragma once
#ifndef __x86_64__
#include <ucontext.h>
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

// A test may include CUDA's headers for the host before this one.
#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define CFT_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(::emulator::shared_memory())

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

enum class Order { kForward, kBackward };

// Calls `kernel` once per thread of the grid. Throws std::runtime_error where the threads of a block wait at
// different barriers for ever. Grid and block are as in CUDA; `shared_bytes` is the dynamic shared memory.
void launch(Dim3 grid, Dim3 block, size_t shared_bytes, Order order, const std::function<void()>& kernel);

// Of the launches that kernels/launch.cuh makes.
inline Order launch_order = Order::kForward;

unsigned char* shared_memory();

// The calling fiber waits for its warp or its block.
void sync_warp();
void sync_block();

// Value that lane `source` of the caller's warp passed to the same call; the caller's own where there is no
// such lane.
uint64_t exchange(uint64_t value, unsigned source);

unsigned lane();

// The values that the lanes of the caller's warp passed to the same call. They stay until the caller's next
// exchange but one.
const uint64_t* warp_values(uint64_t own);

// Asynchronous copies of the calling thread, which arrive at wait_copies() and not before: committed ones in
// groups, all but the latest `pending` groups of which have arrived after it. A null source stands for zeros.
// From the call on the target is poisoned.
void copy_later(void* target, const void* source, size_t bytes);
void commit_copies();
void wait_copies(size_t pending);

}  // namespace emulator

inline void __syncthreads() { emulator::sync_block(); }
inline void __syncwarp(unsigned = ~0u) { emulator::sync_warp(); }
inline void __threadfence() {}

template <class T>
T emulated_shuffle(T value, unsigned source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = emulator::exchange(bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulated_shuffle(value, emulator::lane() ^ static_cast<unsigned>(mask));
}

template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  return emulated_shuffle(value, emulator::lane() + delta);
}

template <class T>
T __shfl_sync(unsigned, T value, int source) {
  return emulated_shuffle(value, static_cast<unsigned>(source) % 32);
}

template <class T>
T atomicAdd(T* place, T value) {
  const T old = *place;
  *place = old + value;
  return old;
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

// Operations that round once, to nearest.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
