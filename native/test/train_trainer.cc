// Full fine-tuning: gradients, accumulation, clipping, saved state.
#include <doctest.h>

#include <cmath>

#include "core/errors.h"
#include "core/model/decoder.h"
#include "core/train/trainer.h"
#include "random_model.h"
#include "train_batches.h"

using namespace cft;
using namespace cft_test;

namespace {

std::vector<at::Tensor> gradients_of(const Trainer& trainer) {
  std::vector<at::Tensor> all;
  for (const std::string& name : trainer.parameter_names()) all.push_back(trainer.gradient(name).clone());
  return all;
}

double worst_error(const std::vector<at::Tensor>& found, const std::vector<at::Tensor>& expected) {
  double worst = 0;
  for (size_t i = 0; i < found.size(); ++i) worst = std::max(worst, relative_error(found[i], expected[i]));
  return worst;
}

// Gradients of all parameters and the loss by dense logits of every position and cross-entropy with
// ignore_index.
std::pair<std::vector<at::Tensor>, double> dense_gradients(const Model& model, const TrainBatch& batch) {
  const at::AutoGradMode grad(true);
  std::vector<at::Tensor> leaves;
  for (const auto& [name, tensor] : model.parameters()) leaves.push_back(tensor.requires_grad_(true));
  const PackedTokens tokens = PackedTokens::make(model, batch.token_ids, batch.sequence_starts);
  const at::Tensor logits = forward_head(model, forward_hidden(model, tokens));
  const at::Tensor labels = at::full({logits.size(0)}, -100, at::kLong);
  for (size_t i = 0; i < batch.selected.size(); ++i) labels[batch.selected[i]].fill_(batch.targets[i]);
  const at::Tensor loss = at::cross_entropy_loss(logits, labels, {}, at::Reduction::Mean, -100);
  loss.backward();
  std::vector<at::Tensor> all;
  for (const at::Tensor& leaf : leaves) {
    all.push_back(leaf.grad().clone());
    leaf.mutable_grad().reset();
    leaf.requires_grad_(false);
  }
  return {all, loss.item<double>()};
}

std::vector<at::Tensor> weights_of(const Model& model) {
  std::vector<at::Tensor> all;
  for (const auto& [name, tensor] : model.parameters()) all.push_back(tensor.clone());
  return all;
}

bool same_weights(const Model& a, const Model& b) {
  for (size_t i = 0; i < a.parameters().size(); ++i) {
    if (!same_bits(a.parameters()[i].second, b.parameters()[i].second)) return false;
  }
  return true;
}

std::string refusal(Trainer& trainer, const std::vector<TensorEntry>& entries) {
  try {
    trainer.load_state(entries);
  } catch (const Error& error) {
    return std::string(error.code()) + " " + error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("loss and gradients of a pruned sparse batch equal dense cross-entropy with ignore_index") {
  for (const Structure structure : kStructures) {
    Model model = random_model(structure);
    const TrainBatch batch = make_batch({11, 3, 17, 1, 8}, 4);
    REQUIRE(prune_batch(batch).token_ids.size() < batch.token_ids.size());
    const auto [expected, loss] = dense_gradients(model, batch);
    Trainer trainer(model, {});
    CHECK(trainer.accumulate(batch) == doctest::Approx(loss).epsilon(1e-6));
    CHECK(worst_error(gradients_of(trainer), expected) < 1e-5);
    for (const auto& [name, tensor] : model.parameters()) CHECK(!tensor.requires_grad());
  }
}

TEST_CASE("packed and one by one, accumulated 8x1, 2x4 and 1x8 give the same gradients and loss") {
  Model model = random_model(Structure::kLlama);
  const TrainBatch batch = make_batch({5, 9, 2, 12, 7, 4, 10, 6}, 5);
  Trainer whole(model, {});
  const double loss = whole.accumulate(batch);
  for (const size_t size : {1, 4}) {
    Trainer parts(model, {});
    double sum = 0;
    for (size_t s = 0; s < 8; s += size) sum += parts.accumulate(slice(batch, s, s + size));
    CHECK(sum == doctest::Approx(loss).epsilon(1e-6));
    CHECK(worst_error(gradients_of(parts), gradients_of(whole)) < 1e-5);
  }
}

TEST_CASE("tokens after the last selected position do not reach the gradient") {
  Model model = random_model(Structure::kLlama);
  TrainBatch batch = make_batch({14, 9}, 6);
  batch.selected = {2, 6, 16};
  batch.targets = {1, 2, 3};
  batch.weights = {0.2f, 0.3f, 0.5f};
  Trainer trainer(model, {});
  const double loss = trainer.accumulate(batch);
  const auto expected = gradients_of(trainer);
  for (const size_t i : {7, 13, 17, 22}) batch.token_ids[i] = (batch.token_ids[i] + 1) % 67;
  Trainer other(model, {});
  CHECK(other.accumulate(batch) == loss);
  const auto found = gradients_of(other);
  for (size_t i = 0; i < found.size(); ++i) CHECK(same_bits(found[i], expected[i]));
}

TEST_CASE(
    "a batch with nothing selected does nothing, and a step without gradients is a step with zero "
    "gradients") {
  Model model = random_model(Structure::kLlama);
  Trainer trainer(model, {});
  TrainBatch batch = make_batch({6, 3}, 7);
  batch.selected.clear();
  batch.targets.clear();
  batch.weights.clear();
  CHECK(trainer.accumulate(batch) == 0.0);
  CHECK(trainer.accumulate(TrainBatch{{}, {0}, {}, {}, {}, 0}) == 0.0);
  for (const at::Tensor& gradient : gradients_of(trainer)) CHECK(gradient.abs().max().item<float>() == 0.0f);
  CHECK(trainer.score(batch).nll.empty());

  const auto before = weights_of(model);
  OptimizerStep result = trainer.step(1e-2);
  CHECK(result.applied);
  CHECK(result.grad_norm == 0.0);
  for (size_t i = 0; i < before.size(); ++i) CHECK(same_bits(before[i], model.parameters()[i].second));

  // After a step with a gradient, momentum goes on without one.
  trainer.accumulate(make_batch({6, 3}, 7));
  trainer.step(1e-2);
  const auto moved = weights_of(model);
  trainer.step(1e-2);
  CHECK(!same_bits(moved[0], model.parameters()[0].second));
}

TEST_CASE("training lowers the loss and tells engines that the weights changed") {
  Model model = random_model(Structure::kLlama);
  TrainerOptions options;
  options.max_grad_norm = 1;
  Trainer trainer(model, options);
  const TrainBatch batch = make_batch({12, 9, 15}, 8);
  const uint64_t version = model.weight_version();
  const double first = trainer.accumulate(batch);
  CHECK(trainer.step(1e-2).applied);
  CHECK(model.weight_version() == version + 1);
  for (int i = 0; i < 8; ++i) {
    trainer.accumulate(batch);
    trainer.step(1e-2);
  }
  CHECK(trainer.accumulate(batch) < 0.5 * first);
  int64_t count = 0;
  for (const auto& [name, tensor] : model.parameters()) count += tensor.numel();
  CHECK(trainer.trainable_parameters() == count);
}

TEST_CASE("gradients are clipped to their global norm as torch.nn.utils.clip_grad_norm_ does") {
  // Without momentum and with a huge epsilon AdamW is plain gradient descent with rate / epsilon.
  TrainerOptions options;
  options.adamw.beta1 = 0;
  options.adamw.beta2 = 0;
  options.adamw.epsilon = 1e6;
  const TrainBatch batch = make_batch({12, 9}, 9);
  for (const double limit : {0.0, 0.01, 1e9}) {
    Model model = random_model(Structure::kLlama);
    options.max_grad_norm = limit;
    Trainer trainer(model, options);
    trainer.accumulate(batch);
    const auto gradients = gradients_of(trainer);
    double squares = 0;
    for (const at::Tensor& gradient : gradients) squares += gradient.square().sum().item<double>();
    const auto before = weights_of(model);
    const OptimizerStep result = trainer.step(1e5);
    CHECK(result.grad_norm == doctest::Approx(std::sqrt(squares)).epsilon(1e-5));
    REQUIRE(result.grad_norm > 0.1);
    const double factor = limit == 0.01 ? limit / (result.grad_norm + 1e-6) : 1;
    for (size_t i = 0; i < before.size(); ++i) {
      const at::Tensor moved = before[i] - model.parameters()[i].second;
      CHECK((moved - gradients[i] * (0.1 * factor)).abs().max().item<double>() < 1e-6);
    }
  }
}

TEST_CASE("a gradient that is not finite changes nothing") {
  Model model = random_model(Structure::kLlama);
  Trainer trainer(model, {});
  const TrainBatch batch = make_batch({12, 9}, 10);
  trainer.accumulate(batch);
  trainer.step(1e-3);

  const auto before = weights_of(model);
  const uint64_t version = model.weight_version();
  TrainBatch wild = batch;
  wild.weights.assign(wild.weights.size(), 3e38f);
  trainer.accumulate(wild);
  const OptimizerStep result = trainer.step(1e-3);
  CHECK(!result.applied);
  CHECK(!std::isfinite(result.grad_norm));
  CHECK(model.weight_version() == version);
  for (size_t i = 0; i < before.size(); ++i) CHECK(same_bits(before[i], model.parameters()[i].second));

  // The next step is as if it had not been.
  Model untouched = random_model(Structure::kLlama);
  Trainer other(untouched, {});
  for (Trainer* each : {&other, &other, &trainer}) {
    each->accumulate(batch);
    each->step(1e-3);
  }
  CHECK(same_weights(model, untouched));
  CHECK_THROWS_AS(trainer.step(std::nan("")), Error);
  CHECK_THROWS_AS(trainer.step(-1), Error);
}

TEST_CASE("a refused batch leaves the gradients alone") {
  Model model = random_model(Structure::kLlama);
  Trainer trainer(model, {});
  const TrainBatch batch = make_batch({12}, 11);
  trainer.accumulate(batch);
  const auto before = gradients_of(trainer);
  TrainBatch bad = batch;
  bad.token_ids[0] = 67;
  CHECK_THROWS_AS(trainer.accumulate(bad), Error);
  CHECK_THROWS_AS(trainer.score(bad), Error);
  CHECK_THROWS_AS(trainer.accumulate(make_batch({520}, 1)), Error);  // 512 positions
  const auto after = gradients_of(trainer);
  for (size_t i = 0; i < before.size(); ++i) CHECK(same_bits(before[i], after[i]));
  CHECK_THROWS_AS(trainer.gradient("model.nothing.weight"), Error);
  CHECK_THROWS_AS(trainer.save_adapter("nowhere"), Error);
}

TEST_CASE("an interrupted trainer fails in the middle of a forward or a backward") {
  Model model = random_model(Structure::kLlama);
  const TrainBatch batch = make_batch({12, 20}, 12);
  const auto code = [&](Trainer& trainer) {
    try {
      trainer.accumulate(batch);
    } catch (const Error& error) {
      return std::string(error.code());
    }
    return std::string();
  };
  Trainer before(model, {});
  before.interrupt();
  CHECK(code(before) == "ERR_CFT_DISPOSED");
  CHECK_THROWS_AS(before.score(batch), Error);
  for (const auto& [name, tensor] : model.parameters()) {
    CHECK(!tensor.requires_grad());
    CHECK(!tensor.grad().defined());
  }

  const at::Tensor leaf = at::zeros({3}, at::kFloat);
  Gradients gradients({leaf});
  const Gradients::Recording recording(gradients, [] { throw Error("ERR_CFT_DISPOSED", "stop"); });
  CHECK_THROWS_WITH_AS(leaf.sum().backward(), "stop", Error);
  CHECK(!gradients.sum(0).defined());
}

TEST_CASE("scores equal the loss term by term") {
  Model model = random_model(Structure::kLlama);
  Trainer trainer(model, {});
  const TrainBatch batch = make_batch({12, 20, 5}, 12);
  const HeadScores scores = trainer.score(batch);
  REQUIRE(scores.nll.size() == batch.selected.size());
  double loss = 0;
  for (size_t i = 0; i < scores.nll.size(); ++i) loss += scores.nll[i] * batch.weights[i];
  CHECK(trainer.accumulate(batch) == doctest::Approx(loss).epsilon(1e-6));
}

TEST_CASE("a run that goes on from saved state gives the bits of an undisturbed one") {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const bool masters : {true, false}) {
      TrainerOptions options;
      options.adamw.weight_decay = 0.1;
      options.adamw.master_weights = masters;
      options.max_grad_norm = 1;
      const auto train = [](Trainer& trainer, int first, int last) {
        for (int step = first; step < last; ++step) {
          trainer.accumulate(make_batch({9, 13}, 100 + step % 2));
          trainer.accumulate(make_batch({4, 8}, 200 + step % 2));
          trainer.step(1e-2 / (1 + step));
        }
      };
      Model undisturbed = random_model(Structure::kLlama, dtype),
            again = random_model(Structure::kLlama, dtype), first = random_model(Structure::kLlama, dtype),
            resumed = random_model(Structure::kLlama, dtype);
      resumed.parameters()[0].second.mul_(2);
      Trainer reference(undisturbed, options), repeated(again, options), begun(first, options),
          goes_on(resumed, options);
      train(reference, 0, 4);
      train(repeated, 0, 4);
      CHECK(same_weights(undisturbed, again));

      const TemporaryPath file("state.safetensors");
      train(begun, 0, 2);
      begun.save_state(file.path);
      goes_on.accumulate(make_batch({9, 13}, 1));  // what waited for a step is dropped
      const uint64_t version = resumed.weight_version();
      goes_on.load_state(read_entries(file.path));
      CHECK(resumed.weight_version() > version);
      train(goes_on, 2, 4);
      CHECK(same_weights(undisturbed, resumed));
      CHECK(!same_weights(undisturbed, first));
    }
  }
}

TEST_CASE("state of another configuration is refused before anything changes") {
  Model model = random_model(Structure::kLlama);
  TrainerOptions options;
  Trainer trainer(model, options);
  trainer.accumulate(make_batch({12}, 13));
  trainer.step(1e-2);
  const TemporaryPath file("state.safetensors");
  trainer.save_state(file.path);
  const auto entries = read_entries(file.path);
  REQUIRE(entries.size() == 3 * model.parameters().size() + 3);

  options.adamw.weight_decay = 0.5;
  Model other_model = random_model(Structure::kLlama);
  Trainer other_decay(other_model, options);
  CHECK(contains(refusal(other_decay, entries), "ERR_CFT_BAD_DATA " + file.path + ": weight decay was 0.0"));
  options.adamw.weight_decay = 0;

  options.lora = LoraOptions{.rank = 2, .alpha = 4, .targets = {"q_proj"}};
  Trainer lora(other_model, options);
  CHECK(contains(refusal(lora, entries), "LoRA rank was 0.0"));

  Model untied = random_model(Structure::kQwen2);
  Trainer other_names(untied, {});
  CHECK(contains(refusal(other_names, entries), "no tensor weight.model.layers.0.self_attn.q_proj.bias"));
  const TemporaryPath untied_file("untied.safetensors");
  other_names.save_state(untied_file.path);
  CHECK(contains(refusal(trainer, read_entries(untied_file.path)), "it holds"));

  Model half = random_model(Structure::kLlama, at::kBFloat16);
  TrainerOptions without_masters;
  without_masters.adamw.master_weights = false;
  Trainer other_dtype(half, without_masters);
  CHECK(contains(refusal(other_dtype, entries), "another dtype or shape"));

  CHECK(contains(refusal(trainer, {}), "no tensor configuration"));
  auto damaged = entries;
  damaged.back().offset += 1 << 20;
  const auto before = weights_of(model);
  CHECK(contains(refusal(trainer, damaged), "ERR_CFT_BAD_WEIGHTS"));
  damaged = entries;
  damaged[damaged.size() / 2].offset += 1 << 20;
  CHECK(contains(refusal(trainer, damaged), "ERR_CFT_BAD_WEIGHTS"));
  for (size_t i = 0; i < before.size(); ++i) CHECK(same_bits(before[i], model.parameters()[i].second));
}

TEST_CASE("bf16 weights with fp32 masters train like fp32 weights") {
  Model half = random_model(Structure::kLlama, at::kBFloat16), wide = random_model(Structure::kLlama);
  TrainerOptions options;
  options.max_grad_norm = 1;
  Trainer half_trainer(half, options), wide_trainer(wide, options);
  const TrainBatch batch = make_batch({12, 9, 15}, 8);
  double half_loss = 0, wide_loss = 0;
  for (int i = 0; i < 8; ++i) {
    half_loss = half_trainer.accumulate(batch);
    wide_loss = wide_trainer.accumulate(batch);
    half_trainer.step(6e-3);
    wide_trainer.step(6e-3);
  }
  CHECK(half_loss == doctest::Approx(wide_loss).epsilon(0.1));
}
