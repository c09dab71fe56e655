#include "core/ops/rms_norm.h"

#include "core/model/decoder.h"

#ifdef CFT_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/rms_norm.h"
#endif

namespace cft::ops {
namespace {

#ifdef CFT_CUDA
at::Tensor add_rms_norm_cuda(const at::Tensor& x, at::Tensor& residual, const at::Tensor& weight,
                             double eps) {
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor y = at::empty_like(x);
  const auto kernel = x.scalar_type() == at::kFloat ? cft_add_rms_norm_float32 : cft_add_rms_norm_bfloat16;
  const int status =
      kernel(x.const_data_ptr(), residual.mutable_data_ptr(), weight.const_data_ptr(), y.mutable_data_ptr(),
             x.size(0), x.size(1), static_cast<float>(eps), c10::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_CHECK(static_cast<cudaError_t>(status));
  return y;
}
#endif

}  // namespace

at::Tensor add_rms_norm(const at::Tensor& x, at::Tensor& residual, const at::Tensor& weight, double eps) {
  TORCH_CHECK(
      x.dim() == 2 && x.sizes() == residual.sizes() && weight.dim() == 1 && weight.size(0) == x.size(1),
      "add_rms_norm: expected x and residual (rows, width) and weight (width), found ", x.sizes(), ", ",
      residual.sizes(), " and ", weight.sizes());
  TORCH_CHECK(x.scalar_type() == residual.scalar_type() && x.scalar_type() == weight.scalar_type(),
              "add_rms_norm: one dtype expected, found ", x.scalar_type(), ", ", residual.scalar_type(),
              " and ", weight.scalar_type());
  const at::NoGradGuard no_grad;
#ifdef CFT_CUDA
  const bool has_kernel = x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16;
  if (x.is_cuda() && has_kernel && residual.is_contiguous())
    return add_rms_norm_cuda(x.contiguous(), residual, weight.contiguous(), eps);
#endif
  residual.add_(x);
  return rms_norm(residual, weight, eps);
}

}  // namespace cft::ops
