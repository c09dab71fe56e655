#include "core/train/gradients.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>

#include "core/ops/cpu/product.h"
#include "core/ops/cpu/train_kernels.h"

namespace cft {
namespace {

// Moves a leaf's complete gradient into its fp32 sum.
struct AddToSum : torch::autograd::PostAccumulateGradHook {
  AddToSum(at::Tensor& sum, char& written, std::function<void()> check)
      : sum(sum), written(written), check(std::move(check)) {}

  void operator()(const at::Tensor& leaf) override {
    check();
    const at::NoGradGuard no_grad;
    at::Tensor gradient = std::move(leaf.mutable_grad());
    leaf.mutable_grad().reset();
    if (written) {
      sum.add_(gradient);
    } else {
      sum = gradient.to(at::kFloat);
      written = 1;
    }
  }

  at::Tensor& sum;
  char& written;
  std::function<void()> check;
};

}  // namespace

Gradients::Gradients(std::vector<at::Tensor> leaves)
    : leaves_(std::move(leaves)), sums_(leaves_.size()), written_(leaves_.size()) {
  for (size_t i = 0; i < leaves_.size(); ++i) index_.emplace(leaves_[i].unsafeGetTensorImpl(), i);
}

Gradients::Recording::Recording(Gradients& gradients, const std::function<void()>& check)
    : gradients_(gradients) {
  for (size_t i = 0; i < gradients_.size(); ++i) {
    const at::Tensor& leaf = gradients_.leaves_[i];
    leaf.requires_grad_(true);
    torch::autograd::impl::set_post_acc_grad_hooks(
        leaf, std::make_unique<AddToSum>(gradients_.sums_[i], gradients_.written_[i], check));
  }
}

Gradients::Recording::~Recording() {
  for (const at::Tensor& leaf : gradients_.leaves_) {
    torch::autograd::impl::set_post_acc_grad_hooks(leaf, nullptr);
    leaf.mutable_grad().reset();
    leaf.requires_grad_(false);
  }
}

at::Tensor* Gradients::find(const at::Tensor& leaf, bool& written) {
  const auto found = index_.find(leaf.unsafeGetTensorImpl());
  if (found == index_.end()) return nullptr;
  at::Tensor& sum = sums_[found->second];
  written = written_[found->second] != 0;
  written_[found->second] = 1;
  if (!sum.defined()) sum = at::empty(leaf.sizes(), leaf.options().dtype(at::kFloat));
  return &sum;
}

void Gradients::add_product(const at::Tensor& leaf, const at::Tensor& a, const at::Tensor& b, bool half) {
  bool written = false;
  at::Tensor* sum = find(leaf, written);
  if (sum == nullptr) return;
  if (half && a.is_cuda()) {
    // In fp32 from the product on.
    if (written)
      sum->add_(at::mm(a.t(), b, at::kFloat));
    else
      at::mm_out(*sum, a.t(), b, at::kFloat);
  } else if (half) {
    const at::Tensor product = at::mm(a.to(at::kBFloat16).t(), b.to(at::kBFloat16));
    written ? sum->add_(product) : sum->copy_(product);
  } else if (a.is_cpu()) {
    const int64_t rows = a.size(1), columns = b.size(1);
    cpu::multiply(cpu::view_of(a.t()), cpu::view_of(b), rows, a.size(0), columns,
                  sum->mutable_data_ptr<float>(), columns, written);
  } else {
    at::addmm_out(*sum, *sum, a.t(), b, written ? 1 : 0);
  }
}

void Gradients::add(const at::Tensor& leaf, const at::Tensor& gradient) {
  bool written = false;
  at::Tensor* sum = find(leaf, written);
  if (sum == nullptr) return;
  written ? sum->add_(gradient) : sum->copy_(gradient);
}

void Gradients::add_rows(const at::Tensor& leaf, const std::vector<int64_t>& indices,
                         const at::Tensor& rows) {
  bool written = false;
  at::Tensor* sum = find(leaf, written);
  if (sum == nullptr) return;
  if (!written) sum->zero_();
  // One thread after the other would change the order of the sums, so one does it all.
  const int64_t width = rows.size(1);
  const at::Tensor source = rows.contiguous();
  const auto* from = source.const_data_ptr<float>();
  auto* to = sum->mutable_data_ptr<float>();
  for (size_t r = 0; r < indices.size(); ++r) {
    for (int64_t i = 0; i < width; ++i) to[indices[r] * width + i] += from[r * width + i];
  }
}

void Gradients::take(Gradients& other) {
  for (size_t i = 0; i < leaves_.size(); ++i) {
    if (other.written_[i]) add(leaves_[i], other.sums_[i]);
  }
  other.clear();
}

double Gradients::norm() const {
  const at::NoGradGuard no_grad;
  if (!leaves_.empty() && leaves_.front().is_cpu()) {
    // In stretches of one size, so that the order of the sums does not depend on the threads.
    constexpr int64_t kStretch = 1 << 18;
    std::vector<std::pair<const float*, int64_t>> stretches;
    for (size_t i = 0; i < sums_.size(); ++i) {
      if (!written_[i]) continue;
      const int64_t count = sums_[i].numel();
      for (int64_t begin = 0; begin < count; begin += kStretch)
        stretches.emplace_back(sums_[i].const_data_ptr<float>() + begin, std::min(kStretch, count - begin));
    }
    std::vector<double> squares(stretches.size());
    at::parallel_for(0, static_cast<int64_t>(stretches.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        squares[i] = cpu::train_kernels().sum_of_squares(stretches[i].first, stretches[i].second);
    });
    return std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
  }
  std::vector<at::Tensor> norms;
  for (size_t i = 0; i < sums_.size(); ++i) {
    if (written_[i]) norms.push_back(at::linalg_vector_norm(sums_[i]));
  }
  return norms.empty() ? 0.0 : at::linalg_vector_norm(at::stack(norms)).item<double>();
}

void Gradients::clear() { std::ranges::fill(written_, 0); }

}  // namespace cft
