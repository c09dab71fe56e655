// The chunked head against PyTorch's own dense cross-entropy.
#include <doctest.h>

#include "core/train/gradients.h"
#include "core/train/linears.h"
#include "core/train/loss.h"
#include "random_model.h"
#include "train_batches.h"

using namespace cft;
using namespace cft_test;

namespace {

struct Rows {
  at::Tensor hidden, targets, weights;
};

Rows random_rows(int64_t count, const Model& model) {
  at::Generator generator = at::detail::createCPUGenerator(9);
  Rows rows;
  rows.hidden = at::empty({count, model.config().hidden_size}, at::kFloat).normal_(0, 1, generator);
  rows.targets = at::randint(model.config().vocab_size, {count}, generator, at::TensorOptions(at::kLong));
  rows.weights = at::rand({count}, generator, at::TensorOptions(at::kFloat)).div_(count);
  return rows;
}

}  // namespace

// 2,500 rows: two full chunks and a part of one.
TEST_CASE("loss and gradients of the head equal dense weighted cross-entropy") {
  const Model model = random_model(Structure::kQwen2);
  const at::Tensor& head = model.head().weight;
  const Rows rows = random_rows(2500, model);

  Gradients gradients({head});
  HeadGradient found;
  {
    const Gradients::Recording recording(gradients, [] {});
    found = head_loss_and_gradient(model, rows.hidden, rows.targets, rows.weights, {});
  }

  const at::Tensor hidden = rows.hidden.detach().clone().requires_grad_(true);
  const at::Tensor weight = head.detach().clone().requires_grad_(true);
  const at::Tensor nll =
      at::cross_entropy_loss(at::linear(hidden, weight), rows.targets, {}, at::Reduction::None);
  const at::Tensor loss = (nll * rows.weights).sum();
  loss.backward();
  CHECK(found.loss == doctest::Approx(loss.item<double>()).epsilon(1e-6));
  CHECK(relative_error(found.hidden_gradient, hidden.grad()) < 1e-5);
  CHECK(relative_error(gradients.sum(0), weight.grad()) < 1e-5);
}

TEST_CASE("scores are the negative log-likelihood and the entropy of each row") {
  const Model model = random_model(Structure::kQwen2);
  const Rows rows = random_rows(1100, model);
  const HeadScores scores = head_scores(model, rows.hidden, rows.targets, {});
  const at::Tensor logits = at::linear(rows.hidden, model.head().weight).to(at::kDouble);
  const at::Tensor log_probs = at::log_softmax(logits, 1);
  const at::Tensor nll = -log_probs.gather(1, rows.targets.unsqueeze(1)).squeeze(1);
  const at::Tensor entropies = -(log_probs.exp() * log_probs).sum(1);
  REQUIRE(scores.nll.size() == 1100);
  REQUIRE(scores.entropies.size() == 1100);
  CHECK(relative_error(at::tensor(scores.nll).to(at::kDouble), nll) < 1e-6);
  CHECK(relative_error(at::tensor(scores.entropies).to(at::kDouble), entropies) < 1e-6);
  const at::Tensor correct = log_probs.argmax(1).eq(rows.targets).to(at::kFloat);
  CHECK(at::equal(at::tensor(scores.correct), correct));
}

TEST_CASE("units for bf16 round neither logits nor the loss") {
  const Model model = random_model(Structure::kQwen2, at::kBFloat16);
  const at::Tensor& head = model.head().weight;
  const Rows rows = random_rows(50, model);
  const Linears with(model, nullptr, std::nullopt, true), without(model, nullptr, std::nullopt, false);
  const LinearGroup group{head, model.head().bias, {&model.head()}};
  CHECK(!at::equal(with.forward(group, rows.hidden, {}), without.forward(group, rows.hidden, {})));

  CHECK(head_scores(model, with, rows.hidden, rows.targets).nll ==
        head_scores(model, without, rows.hidden, rows.targets).nll);
  const auto loss = [&](const Linears& linears) {
    Gradients gradients({head});
    return head_loss_and_gradient(model, linears, rows.hidden, rows.targets, rows.weights, RowNumbers(50),
                                  gradients);
  };
  const HeadGradient found = loss(with), expected = loss(without);
  CHECK(found.loss == expected.loss);
  CHECK(relative_error(found.hidden_gradient, expected.hidden_gradient) < 1e-2);
}
