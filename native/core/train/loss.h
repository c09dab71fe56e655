// Weighted cross-entropy of selected rows through the head, a chunk of rows at a time, so that logits of
// [selected, vocabulary] never exist at once.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/model/decoder.h"
#include "core/model/model.h"
#include "core/ops/train_device.h"
#include "core/train/linears.h"

namespace cft {

struct HeadGradient {
  double loss = 0;             // sum(weights * nll)
  at::Tensor hidden_gradient;  // (M, hidden), dtype of hidden
};

// hidden (M, hidden) of the selected positions, targets (M) int64, weights (M) fp32, all on the model's
// device. Runs the head forward and backward at once: parameters of the head that require gradients have
// theirs added (backward into the leaves), and the gradient of `hidden` comes back for the body's backward.
// nll is computed from fp32 logits.
HeadGradient head_loss_and_gradient(const Model& model, const at::Tensor& hidden, const at::Tensor& targets,
                                    const at::Tensor& weights, const ForwardHooks& hooks);

// The same without autograd, by a device's kernels, for a head without an adapter: the head's gradients are
// added in place.
HeadGradient head_loss_and_gradient(const TrainDevice& device, const Model& model, const at::Tensor& hidden,
                                    const at::Tensor& targets, const at::Tensor& weights,
                                    Gradients& gradients);

// The same by hand, without autograd, on the CPU: hidden (M, hidden) fp32, gradients of what is trained added
// in place. `rows` are the rows' numbers in their batch.
HeadGradient head_loss_and_gradient(const Model& model, const Linears& linears, const at::Tensor& hidden,
                                    const at::Tensor& targets, const at::Tensor& weights,
                                    const RowNumbers& rows, Gradients& gradients);

struct HeadScores {
  std::vector<float> nll;        // (M), nats
  std::vector<float> entropies;  // (M), nats, of the whole distribution
  std::vector<float> correct;    // (M), 1 where the target is the most probable token, else 0
};

// The same rows, forward only.
HeadScores head_scores(const Model& model, const at::Tensor& hidden, const at::Tensor& targets,
                       const ForwardHooks& hooks);
HeadScores head_scores(const Model& model, const Linears& linears, const at::Tensor& hidden,
                       const at::Tensor& targets);

}  // namespace cft
