#include "core/train/loss.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "core/ops/cpu/train_kernels.h"

namespace cft {
namespace {

// Logits of one chunk; fp32 logits and log-probabilities together take eight bytes each.
constexpr int64_t kLogitsPerChunk = int64_t{1} << 26;
constexpr int64_t kMostRows = 1024;
// By hand they take four, and on the CPU memory is dearer: 64 MB. Fewer rows would read the head too often.
constexpr int64_t kLogitsPerOwnChunk = int64_t{1} << 24;
// Scores are made of four tensors of a chunk's size: as much memory as a chunk by hand.
constexpr int64_t kLogitsPerScoredChunk = kLogitsPerOwnChunk / 4;

int64_t chunk_rows(const Model& model, int64_t logits = kLogitsPerChunk) {
  return std::clamp<int64_t>(logits / model.config().vocab_size, 1, kMostRows);
}

// Logits (rows, vocab), written over by their gradients where these have the same dtype. Returns the
// gradients; nll (rows).
at::Tensor run_kernel(const TrainDevice& device, const at::Tensor& logits, at::ScalarType dtype,
                      const at::Tensor& targets, const at::Tensor& weights, const at::Tensor& nll) {
  const at::Tensor slopes =
      logits.scalar_type() == dtype ? logits : at::empty(logits.sizes(), logits.options().dtype(dtype));
  const CftTrainLoss work{ops::dtype_of(logits),
                          ops::dtype_of(slopes),
                          logits.size(0),
                          logits.size(1),
                          logits.const_data_ptr(),
                          slopes.mutable_data_ptr(),
                          targets.const_data_ptr<int64_t>(),
                          weights.const_data_ptr<float>(),
                          nll.mutable_data_ptr<float>()};
  ops::launch(device, device.loss, work, logits.device(), "train_loss");
  return slopes;
}

// fp32 whatever the dtype of the factors: logits rounded to bf16 would round the loss.
at::Tensor wide_product(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() == at::kFloat) return at::mm(a, b);
  if (a.is_cuda()) return at::mm(a, b, at::kFloat);
  return at::mm(a.to(at::kFloat), b.to(at::kFloat));  // the emulator's
}

int64_t own_chunk_rows(const Model& model) {
  return std::clamp<int64_t>(kLogitsPerOwnChunk / model.config().vocab_size, 64, kMostRows);
}

}  // namespace

HeadGradient head_loss_and_gradient(const Model& model, const at::Tensor& hidden, const at::Tensor& targets,
                                    const at::Tensor& weights, const ForwardHooks& hooks) {
  const int64_t rows = hidden.size(0);
  const int64_t step = chunk_rows(model);
  HeadGradient result;
  result.hidden_gradient = at::empty_like(hidden.detach());
  ForwardHooks of_chunk = hooks;
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    if (hooks.rows.defined()) of_chunk.rows = hooks.rows.narrow(0, begin, count);
    const at::Tensor h = hidden.detach().narrow(0, begin, count).requires_grad_(true);
    at::Tensor logits, slope;
    {
      const at::AutoGradMode grad(true);
      logits = forward_head(model, h, of_chunk);
    }
    {
      const at::NoGradGuard no_grad;
      // d loss / d logits = weight * (softmax - onehot), written over the logits, which no backward reads.
      slope = logits.detach();
      if (hooks.kernels != nullptr) {
        const at::Tensor nll = at::empty({count}, weights.options());
        const at::Tensor weight = weights.narrow(0, begin, count);
        run_kernel(*hooks.kernels, slope, at::kFloat, targets.narrow(0, begin, count), weight, nll);
        result.loss += nll.to(at::kDouble).mul_(weight).sum().item<double>();
      } else {
        const at::Tensor target = targets.narrow(0, begin, count).unsqueeze(1);
        const at::Tensor weight = weights.narrow(0, begin, count).unsqueeze(1);
        const at::Tensor log_probs = at::log_softmax(slope, 1);
        result.loss -= (log_probs.gather(1, target) * weight).sum().item<double>();
        at::exp_out(slope, log_probs);
        slope.scatter_add_(1, target, at::full_like(weight, -1)).mul_(weight);
      }
    }
    torch::autograd::backward({logits}, {slope});
    result.hidden_gradient.narrow(0, begin, count).copy_(h.grad());
  }
  return result;
}

HeadGradient head_loss_and_gradient(const TrainDevice& device, const Model& model, const at::Tensor& hidden,
                                    const at::Tensor& targets, const at::Tensor& weights,
                                    Gradients& gradients) {
  const at::NoGradGuard no_grad;
  const int64_t rows = hidden.size(0), step = chunk_rows(model);
  const Linear& head = model.head();
  const bool half = hidden.scalar_type() != at::kFloat;
  const at::Tensor states = hidden.detach();
  const at::Tensor nll = at::empty({rows}, weights.options());
  HeadGradient result;
  result.hidden_gradient = at::empty_like(states);
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    const at::Tensor h = states.narrow(0, begin, count);
    at::Tensor logits = wide_product(h, head.weight.t());
    if (head.bias.defined()) logits.add_(head.bias);
    const at::Tensor slopes =
        run_kernel(device, logits, hidden.scalar_type(), targets.narrow(0, begin, count),
                   weights.narrow(0, begin, count), nll.narrow(0, begin, count));
    logits.reset();
    gradients.add_product(head.weight, slopes, h, half);
    if (head.bias.defined() && gradients.has(head.bias))
      gradients.add(head.bias, slopes.sum(0, /*keepdim=*/false, at::kFloat));
    at::Tensor d = result.hidden_gradient.narrow(0, begin, count);
    at::mm_out(d, slopes, head.weight);
  }
  result.loss = nll.to(at::kDouble).mul_(weights).sum().item<double>();
  return result;
}

HeadGradient head_loss_and_gradient(const Model& model, const Linears& linears, const at::Tensor& hidden,
                                    const at::Tensor& targets, const at::Tensor& weights,
                                    const RowNumbers& rows, Gradients& gradients) {
  const int64_t count = hidden.size(0), vocabulary = model.config().vocab_size;
  const int64_t step = own_chunk_rows(model);
  const LinearGroup head{model.head().weight, model.head().bias, {&model.head()}};
  HeadGradient result;
  result.hidden_gradient = at::empty_like(hidden);
  std::vector<float> nll(count);
  for (int64_t begin = 0; begin < count; begin += step) {
    const int64_t size = std::min(step, count - begin);
    const RowNumbers numbers(rows.begin() + begin, rows.begin() + begin + size);
    const at::Tensor h = hidden.narrow(0, begin, size);
    const at::Tensor slopes = linears.forward_wide(head, h, numbers);  // logits at first
    at::parallel_for(0, size, 1, [&](int64_t first, int64_t last) {
      cpu::train_kernels().cross_entropy(slopes.mutable_data_ptr<float>() + first * vocabulary, last - first,
                                         vocabulary, targets.const_data_ptr<int64_t>() + begin + first,
                                         weights.const_data_ptr<float>() + begin + first,
                                         nll.data() + begin + first);
    });
    linears.add_weight_gradients(head, slopes, h, numbers, gradients);
    result.hidden_gradient.narrow(0, begin, size).copy_(linears.input_gradient(head, slopes, numbers));
  }
  for (int64_t i = 0; i < count; ++i)
    result.loss += static_cast<double>(weights.const_data_ptr<float>()[i]) * nll[i];
  return result;
}

namespace {

// logits(begin, count) gives the fp32 logits of a chunk of rows.
template <class Logits>
HeadScores scores_of(const Model& model, const at::Tensor& targets, const Logits& logits) {
  const at::NoGradGuard no_grad;
  const int64_t rows = targets.size(0);
  const int64_t step = chunk_rows(model, model.device().is_cpu() ? kLogitsPerScoredChunk : kLogitsPerChunk);
  HeadScores scores;
  const auto append = [](std::vector<float>& to, const at::Tensor& values) {
    const at::Tensor host = values.to(at::kCPU, at::kFloat).contiguous();
    to.insert(to.end(), host.const_data_ptr<float>(), host.const_data_ptr<float>() + host.numel());
  };
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    const at::Tensor log_probs = at::log_softmax(logits(begin, count), 1);
    append(scores.nll, -log_probs.gather(1, targets.narrow(0, begin, count).unsqueeze(1)).squeeze(1));
    append(scores.entropies, -(log_probs.exp() * log_probs).sum(1));
    append(scores.correct, log_probs.argmax(1).eq(targets.narrow(0, begin, count)));
  }
  return scores;
}

}  // namespace

HeadScores head_scores(const Model& model, const at::Tensor& hidden, const at::Tensor& targets,
                       const ForwardHooks& hooks) {
  return scores_of(model, targets, [&](int64_t begin, int64_t count) {
    return forward_head(model, hidden.narrow(0, begin, count), hooks);
  });
}

HeadScores head_scores(const Model& model, const Linears& linears, const at::Tensor& hidden,
                       const at::Tensor& targets) {
  const at::NoGradGuard no_grad;
  const int64_t count = hidden.size(0), vocabulary = model.config().vocab_size;
  const int64_t step = own_chunk_rows(model);
  const LinearGroup head{model.head().weight, model.head().bias, {&model.head()}};
  HeadScores scores{std::vector<float>(count), std::vector<float>(count), std::vector<float>(count)};
  for (int64_t begin = 0; begin < count; begin += step) {
    const int64_t size = std::min(step, count - begin);
    const at::Tensor logits = linears.forward_wide(head, hidden.narrow(0, begin, size), {});
    at::parallel_for(0, size, 1, [&](int64_t first, int64_t last) {
      const int64_t row = begin + first;
      cpu::train_kernels().token_scores(logits.const_data_ptr<float>() + first * vocabulary, last - first,
                                        vocabulary, targets.const_data_ptr<int64_t>() + row,
                                        scores.nll.data() + row, scores.entropies.data() + row,
                                        scores.correct.data() + row);
    });
  }
  return scores;
}

}  // namespace cft
