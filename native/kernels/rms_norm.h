// C interface of the fused residual add and RMSNorm on CUDA: residual += x; y = residual / rms(residual) *
// weight. Device pointers to contiguous x, residual, y (rows, width) and weight (width); `stream` is a
// cudaStream_t. Returns a cudaError_t. Nothing is synchronised.
#pragma once
#include <cstdint>

extern "C" {
int cft_add_rms_norm_float32(const void* x, void* residual, const void* weight, void* y, int64_t rows,
                             int64_t width, float eps, void* stream);
int cft_add_rms_norm_bfloat16(const void* x, void* residual, const void* weight, void* y, int64_t rows,
                              int64_t width, float eps, void* stream);
}
