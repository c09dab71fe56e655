#include <cuda_runtime.h>

#include "kernels/rms_norm.cuh"
#include "kernels/rms_norm.h"

namespace cft::kernels {
namespace {

template <class T, int N>
int run(const void* x, void* residual, const void* weight, void* y, int64_t rows, int64_t width, float eps,
        cudaStream_t stream) {
  const int threads = add_rms_norm_threads(width / N);
  add_rms_norm_kernel<T, N><<<static_cast<unsigned>(rows), threads, threads / 32 * sizeof(float), stream>>>(
      static_cast<const T*>(x), static_cast<T*>(residual), static_cast<const T*>(weight), static_cast<T*>(y),
      width, eps);
  return cudaGetLastError();
}

// Moves 16 bytes at a time where rows and pointers allow it.
template <class T>
int choose(const void* x, void* residual, const void* weight, void* y, int64_t rows, int64_t width, float eps,
           void* stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  constexpr int kPack = 16 / sizeof(T);
  const uintptr_t pointers = reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(residual) |
                             reinterpret_cast<uintptr_t>(weight) | reinterpret_cast<uintptr_t>(y);
  const bool packed = width % kPack == 0 && pointers % 16 == 0;
  return (packed ? run<T, kPack> : run<T, 1>)(x, residual, weight, y, rows, width, eps,
                                              static_cast<cudaStream_t>(stream));
}

}  // namespace
}  // namespace cft::kernels

int cft_add_rms_norm_float32(const void* x, void* residual, const void* weight, void* y, int64_t rows,
                             int64_t width, float eps, void* stream) {
  return cft::kernels::choose<float>(x, residual, weight, y, rows, width, eps, stream);
}

int cft_add_rms_norm_bfloat16(const void* x, void* residual, const void* weight, void* y, int64_t rows,
                              int64_t width, float eps, void* stream) {
  return cft::kernels::choose<cft::kernels::Bf16>(x, residual, weight, y, rows, width, eps, stream);
}
