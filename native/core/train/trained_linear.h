// A linear layer for autograd that adds the gradients of its weights to the fp32 sums itself: autograd would
// hand them over in the weights' dtype, as tensors of their own.
#pragma once
#include <ATen/ATen.h>

#include <functional>

#include "core/model/model.h"
#include "core/train/gradients.h"

namespace cft {

// x W^T + b, (N, in) -> (N, out). All must outlive the backward pass; `check` runs before each addition, and
// what it throws ends the backward.
at::Tensor trained_linear(const Linear& linear, const at::Tensor& x, Gradients& gradients,
                          const std::function<void()>& check);

}  // namespace cft
