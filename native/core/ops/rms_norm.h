// Residual add fused with RMSNorm. Inference only: no gradients flow through it.
#pragma once
#include <ATen/ATen.h>

namespace cft::ops {

// residual += x, in place; returns residual / rms(residual) * weight, the mean over the last dimension in
// fp32, rounded to the dtype of x where separate operations would round. x and residual (rows, width), weight
// (width), one dtype and device. On CUDA one kernel for float32 and bfloat16; elsewhere libtorch's
// operations.
at::Tensor add_rms_norm(const at::Tensor& x, at::Tensor& residual, const at::Tensor& weight, double eps);

}  // namespace cft::ops
