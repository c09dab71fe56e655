#include "core/train/gradients.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <utility>

namespace cft {
namespace {

// Moves a leaf's complete gradient into its fp32 sum.
struct AddToSum : torch::autograd::PostAccumulateGradHook {
  AddToSum(at::Tensor& sum, std::function<void()> check) : sum(sum), check(std::move(check)) {}

  void operator()(const at::Tensor& leaf) override {
    check();
    const at::NoGradGuard no_grad;
    at::Tensor gradient = std::move(leaf.mutable_grad());
    leaf.mutable_grad().reset();
    if (sum.defined()) {
      sum.add_(gradient);
    } else {
      sum = gradient.to(at::kFloat);
    }
  }

  at::Tensor& sum;
  std::function<void()> check;
};

}  // namespace

Gradients::Gradients(std::vector<at::Tensor> leaves) : leaves_(std::move(leaves)), sums_(leaves_.size()) {}

Gradients::Recording::Recording(Gradients& gradients, const std::function<void()>& check)
    : gradients_(gradients) {
  for (size_t i = 0; i < gradients_.size(); ++i) {
    const at::Tensor& leaf = gradients_.leaves_[i];
    leaf.requires_grad_(true);
    torch::autograd::impl::set_post_acc_grad_hooks(leaf,
                                                   std::make_unique<AddToSum>(gradients_.sums_[i], check));
  }
}

Gradients::Recording::~Recording() {
  for (const at::Tensor& leaf : gradients_.leaves_) {
    torch::autograd::impl::set_post_acc_grad_hooks(leaf, nullptr);
    leaf.mutable_grad().reset();
    leaf.requires_grad_(false);
  }
}

double Gradients::norm() const {
  std::vector<at::Tensor> norms;
  for (const at::Tensor& sum : sums_) {
    if (sum.defined()) norms.push_back(at::linalg_vector_norm(sum));
  }
  return norms.empty() ? 0.0 : at::linalg_vector_norm(at::stack(norms)).item<double>();
}

void Gradients::scale(double factor) {
  for (at::Tensor& sum : sums_) {
    if (sum.defined()) sum.mul_(factor);
  }
}

void Gradients::clear() {
  for (at::Tensor& sum : sums_) sum.reset();
}

}  // namespace cft
