// Launches that are one source under nvcc and under the emulator, so that what chooses grids, shared memory
// and the width of accesses is tested with the kernels.
#pragma once
#include "kernels/device.cuh"

#ifdef __CUDACC__
#include <cuda_runtime.h>

// CFT_LAUNCH(kernel, blocks (dim3), threads, bytes of dynamic shared memory, stream, arguments...)
#define CFT_LAUNCH(kernel, blocks, threads, shared, stream, ...)                                             \
  do {                                                                                                       \
    const auto launched = kernel;                                                                            \
    if ((shared) > 48 * 1024)                                                                                \
      cudaFuncSetAttribute(launched, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)); \
    launched<<<blocks, threads, shared, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__);                   \
  } while (false)
#define CFT_LAUNCH_STATUS static_cast<int>(cudaGetLastError())
using CftGrid = dim3;
#else
#define CFT_LAUNCH(kernel, blocks, threads, shared, stream, ...)                                   \
  (static_cast<void>(stream), ::emulator::launch(blocks, {static_cast<unsigned>(threads)}, shared, \
                                                 ::emulator::launch_order, [&] { kernel(__VA_ARGS__); }))
#define CFT_LAUNCH_STATUS 0
using CftGrid = ::Dim3;
#endif

namespace cft::kernels {

inline unsigned blocks_for(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

// Whether all of the addresses are multiples of `bytes`.
template <class... Pointers>
bool aligned(int64_t bytes, const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) | ... | uintptr_t{0}) % static_cast<uintptr_t>(bytes)) == 0;
}

}  // namespace cft::kernels
