#include "core/train/trained_linear.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

namespace cft {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct TrainedLinear : torch::autograd::Function<TrainedLinear> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const Linear* linear,
                            Gradients* gradients, const std::function<void()>* check) {
    context->save_for_backward({x});
    context->saved_data["linear"] = reinterpret_cast<int64_t>(linear);
    context->saved_data["gradients"] = reinterpret_cast<int64_t>(gradients);
    context->saved_data["check"] = reinterpret_cast<int64_t>(check);
    return at::linear(x, linear->weight, linear->bias);
  }

  static variable_list backward(AutogradContext* context, const variable_list& slopes) {
    const at::NoGradGuard no_grad;
    const auto& linear = *reinterpret_cast<const Linear*>(context->saved_data["linear"].toInt());
    auto& gradients = *reinterpret_cast<Gradients*>(context->saved_data["gradients"].toInt());
    const auto& check = *reinterpret_cast<const std::function<void()>*>(context->saved_data["check"].toInt());
    const at::Tensor x = context->get_saved_variables()[0], d = slopes[0].contiguous();
    check();
    gradients.add_product(linear.weight, d, x, x.scalar_type() != at::kFloat);
    if (linear.bias.defined() && gradients.has(linear.bias))
      gradients.add(linear.bias, d.sum(0, /*keepdim=*/false, at::kFloat));
    const at::Tensor dx = context->needs_input_grad(0) ? at::mm(d, linear.weight) : at::Tensor();
    return {dx, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor trained_linear(const Linear& linear, const at::Tensor& x, Gradients& gradients,
                          const std::function<void()>& check) {
  return TrainedLinear::apply(x, &linear, &gradients, &check);
}

}  // namespace cft
