#include "core/train/loss.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

namespace cft {
namespace {

// Logits of one chunk; fp32 logits and log-probabilities together take eight bytes each.
constexpr int64_t kLogitsPerChunk = int64_t{1} << 26;
constexpr int64_t kMostRows = 1024;

int64_t chunk_rows(const Model& model) {
  return std::clamp<int64_t>(kLogitsPerChunk / model.config().vocab_size, 1, kMostRows);
}

}  // namespace

HeadGradient head_loss_and_gradient(const Model& model, const at::Tensor& hidden, const at::Tensor& targets,
                                    const at::Tensor& weights, const ForwardHooks& hooks) {
  const int64_t rows = hidden.size(0);
  const int64_t step = chunk_rows(model);
  HeadGradient result;
  result.hidden_gradient = at::empty_like(hidden.detach());
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    const at::Tensor h = hidden.detach().narrow(0, begin, count).requires_grad_(true);
    at::Tensor logits, slope;
    {
      const at::AutoGradMode grad(true);
      logits = forward_head(model, h, hooks);
    }
    {
      const at::NoGradGuard no_grad;
      const at::Tensor target = targets.narrow(0, begin, count).unsqueeze(1);
      const at::Tensor weight = weights.narrow(0, begin, count).unsqueeze(1);
      // d loss / d logits = weight * (softmax - onehot), written over the logits, which no backward reads.
      slope = logits.detach();
      const at::Tensor log_probs = at::log_softmax(slope, 1);
      result.loss -= (log_probs.gather(1, target) * weight).sum().item<double>();
      at::exp_out(slope, log_probs);
      slope.scatter_add_(1, target, at::full_like(weight, -1)).mul_(weight);
    }
    torch::autograd::backward({logits}, {slope});
    result.hidden_gradient.narrow(0, begin, count).copy_(h.grad());
  }
  return result;
}

HeadScores head_scores(const Model& model, const at::Tensor& hidden, const at::Tensor& targets,
                       const ForwardHooks& hooks) {
  const at::NoGradGuard no_grad;
  const int64_t rows = hidden.size(0);
  const int64_t step = chunk_rows(model);
  HeadScores scores;
  const auto append = [](std::vector<float>& to, const at::Tensor& values) {
    const at::Tensor host = values.to(at::kCPU, at::kFloat).contiguous();
    to.insert(to.end(), host.const_data_ptr<float>(), host.const_data_ptr<float>() + host.numel());
  };
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    const at::Tensor log_probs =
        at::log_softmax(forward_head(model, hidden.narrow(0, begin, count), hooks), 1);
    append(scores.nll, -log_probs.gather(1, targets.narrow(0, begin, count).unsqueeze(1)).squeeze(1));
    append(scores.entropies, -(log_probs.exp() * log_probs).sum(1));
    append(scores.correct, log_probs.argmax(1).eq(targets.narrow(0, begin, count)));
  }
  return scores;
}

}  // namespace cft
