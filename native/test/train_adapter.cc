// LoRA training.
#include <doctest.h>

#include <cmath>

#include "core/errors.h"
#include "core/train/trainer.h"
#include "random_model.h"
#include "train_batches.h"

using namespace cft;
using namespace cft_test;

namespace {

const std::vector<std::string> all_linear = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                             "gate_proj", "up_proj", "down_proj"};

TrainerOptions lora_options(std::vector<std::string> targets = all_linear, double dropout = 0) {
  TrainerOptions options;
  options.lora = LoraOptions{.rank = 3, .alpha = 6, .dropout = dropout, .targets = std::move(targets)};
  options.seed = 42;
  return options;
}

std::string refusal(Model& model, const LoraOptions& lora) {
  TrainerOptions options;
  options.lora = lora;
  try {
    const Trainer trainer(model, options);
  } catch (const Error& error) {
    CHECK(std::string(error.code()) == "ERR_CFT_BAD_OPTION");
    return error.what();
  }
  return "";
}

double loss_of(const std::vector<float>& nll, const TrainBatch& batch) {
  double loss = 0;
  for (size_t i = 0; i < nll.size(); ++i) loss += static_cast<double>(nll[i]) * batch.weights[i];
  return loss;
}

}  // namespace

TEST_CASE("a fresh adapter changes nothing, has PEFT's names and initialisation, and follows its seed") {
  Model model = random_model(Structure::kLlama);
  const Adapter adapter(model, *lora_options().lora, 42);
  REQUIRE(adapter.parameters().size() == 2 * 7 * 3);
  CHECK(adapter.parameters()[0].first == "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
  CHECK(adapter.parameters()[1].first == "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
  CHECK(adapter.parameters()[41].first == "base_model.model.model.layers.2.mlp.down_proj.lora_B.weight");
  for (size_t i = 0; i < adapter.parameters().size(); i += 2) {
    const at::Tensor& a = adapter.parameters()[i].second;
    const double bound = 1 / std::sqrt(static_cast<double>(a.size(1)));
    CHECK(a.abs().max().item<double>() <= bound);
    CHECK(a.abs().max().item<double>() > 0.8 * bound);
    CHECK(std::abs(a.mean().item<double>()) < 0.35 * bound);
    CHECK(adapter.parameters()[i + 1].second.abs().max().item<double>() == 0);
  }
  const Adapter same(model, *lora_options().lora, 42), other(model, *lora_options().lora, 43);
  CHECK(same_bits(adapter.parameters()[4].second, same.parameters()[4].second));
  CHECK(!same_bits(adapter.parameters()[4].second, other.parameters()[4].second));

  const TrainBatch batch = make_batch({12, 20}, 1);
  Trainer plain(model, {}), lora(model, lora_options());
  CHECK(lora.score(batch).nll == plain.score(batch).nll);
}

TEST_CASE("adapter gradients equal finite differences, and the base gets none") {
  // The scale of one module and the rank-stabilized scale are seen by the differences too.
  for (const bool stabilized : {false, true}) {
    Model model = random_model(Structure::kQwen2);
    TrainerOptions options = lora_options({"v_proj", "gate_proj", "lm_head"});
    options.lora->rank_stabilized = stabilized;
    Trainer trainer(model, options);
    const TrainBatch batch = make_batch({12, 9}, 2);
    trainer.accumulate(batch);  // B = 0 would hide A's gradient
    trainer.step(0.05);
    trainer.accumulate(batch);

    const TemporaryPath file("adapter-state.safetensors");
    trainer.save_state(file.path);
    const auto entries = read_entries(file.path);
    for (const std::string& name : trainer.parameter_names()) {
      const at::Tensor gradient = trainer.gradient(name);
      const int64_t index = gradient.abs().argmax().item<int64_t>();
      const auto loss_at = [&](float shift) {
        // Through a saved file: the only way to other adapter weights.
        const TemporaryPath shifted("adapter-shifted.safetensors");
        std::vector<std::pair<std::string, at::Tensor>> tensors;
        TensorReader reader;
        for (const TensorEntry& entry : entries) {
          const at::Tensor tensor = reader.read(entry, at::kFloat, at::kCPU);
          if (entry.name == "weight." + name) tensor.reshape(-1)[index].add_(shift);
          tensors.emplace_back(entry.name, tensor);
        }
        write_safetensors(shifted.path, tensors);
        Trainer other(model, options);
        other.load_state(read_entries(shifted.path));
        return loss_of(other.score(batch).nll, batch);
      };
      const double slope = (loss_at(2e-2f) - loss_at(-2e-2f)) / 4e-2;
      INFO(name);
      CHECK(gradient.reshape(-1)[index].item<double>() == doctest::Approx(slope).epsilon(0.03));
    }
    for (const auto& [name, tensor] : model.parameters()) CHECK(!tensor.grad().defined());
  }
}

TEST_CASE(
    "LoRA training lowers the loss, leaves the model alone, and the saved adapter merges to the same "
    "scores") {
  Model model = random_model(Structure::kLlama);
  const Model untouched = random_model(Structure::kLlama);
  Trainer trainer(model, lora_options());
  const TrainBatch batch = make_batch({12, 9, 15}, 3);
  const uint64_t version = model.weight_version();
  const double first = trainer.accumulate(batch);
  trainer.step(3e-2);
  for (int i = 0; i < 12; ++i) {
    trainer.accumulate(batch);
    trainer.step(3e-2);
  }
  const double last = loss_of(trainer.score(batch).nll, batch);
  CHECK(last < 0.7 * first);
  CHECK(model.weight_version() == version);
  for (size_t i = 0; i < model.parameters().size(); ++i) {
    CHECK(same_bits(model.parameters()[i].second, untouched.parameters()[i].second));
  }

  const TemporaryPath adapter_file("adapter.safetensors"), base_file("base.safetensors");
  trainer.save_adapter(adapter_file.path);
  write_safetensors(base_file.path, model.parameters());
  Model merged(model.config(), read_entries(base_file.path), at::kCPU, at::kFloat,
               read_entries(adapter_file.path), 6.0 / 3.0);
  const Trainer scorer(merged, {});
  CHECK(loss_of(scorer.score(batch).nll, batch) == doctest::Approx(last).epsilon(1e-5));
}

TEST_CASE("dropout follows the batch's counter and is off when scoring") {
  Model model = random_model(Structure::kLlama);
  const TrainBatch batch = make_batch({12, 9}, 4);
  const auto losses = [&](uint64_t counter, double rate) {
    Trainer trainer(model, lora_options(all_linear, rate));
    trainer.accumulate(batch);
    trainer.step(1e-2);  // while B is 0 no mask reaches the loss
    TrainBatch counted = batch;
    counted.dropout_counter = counter;
    return std::pair(trainer.accumulate(counted), loss_of(trainer.score(counted).nll, counted));
  };
  const auto [trained, scored] = losses(5, 0.5);
  CHECK(losses(5, 0.5) == std::pair(trained, scored));
  CHECK(losses(6, 0.5).first != trained);
  CHECK(losses(6, 0.5).second == scored);
  CHECK(trained != doctest::Approx(scored).epsilon(1e-6));
  const auto [trained_without, scored_without] = losses(5, 0);
  CHECK(trained_without == doctest::Approx(scored_without).epsilon(1e-6));
}

TEST_CASE("dropout does not depend on how a step is packed") {
  Model model = random_model(Structure::kLlama);
  // As the loop packs: a token's number is that after pruning.
  const TrainBatch batch = prune_batch(make_batch({12, 9, 15, 11}, 4));
  Trainer whole(model, lora_options(all_linear, 0.3)), packed(model, lora_options(all_linear, 0.3));
  for (Trainer* trainer : {&whole, &packed}) {
    trainer->accumulate(batch);
    trainer->step(1e-2);
  }
  const double loss = whole.accumulate(batch);
  double sum = 0;
  for (const TrainBatch& part : split_batch(batch, 4)) sum += packed.accumulate(part);
  CHECK(sum == doctest::Approx(loss).epsilon(1e-5));
  for (const std::string& name : whole.parameter_names()) {
    const at::Tensor expected = whole.gradient(name), found = packed.gradient(name);
    CHECK((found - expected).abs().max().item<double>() < 1e-4 * expected.abs().max().item<double>());
  }
}

TEST_CASE("bf16 models train fp32 adapters") {
  Model model = random_model(Structure::kLlama, at::kBFloat16);
  Trainer trainer(model, lora_options());
  const TrainBatch batch = make_batch({12, 9, 15}, 3);
  const double first = trainer.accumulate(batch);
  CHECK((trainer.gradient(trainer.parameter_names()[1]).scalar_type() == at::kFloat));
  trainer.step(3e-2);
  for (int i = 0; i < 12; ++i) {
    trainer.accumulate(batch);
    trainer.step(3e-2);
  }
  CHECK(loss_of(trainer.score(batch).nll, batch) < 0.8 * first);
  const TemporaryPath file("adapter16.safetensors");
  trainer.save_adapter(file.path);
  CHECK((read_entries(file.path)[0].dtype == at::kFloat));
}

TEST_CASE("a LoRA run that goes on from saved state gives the bits of an undisturbed one") {
  Model model = random_model(Structure::kLlama);
  const TrainerOptions options = lora_options(all_linear, 0.3);
  const auto train = [](Trainer& trainer, int first, int last) {
    for (int step = first; step < last; ++step) {
      TrainBatch batch = make_batch({9, 13}, 100 + step % 2);
      batch.dropout_counter = step;
      trainer.accumulate(batch);
      trainer.step(1e-2);
    }
  };
  Trainer reference(model, options), begun(model, options), resumed(model, options);
  train(reference, 0, 4);
  train(begun, 0, 2);
  const TemporaryPath file("lora-state.safetensors"), expected("expected.safetensors"),
      found("found.safetensors");
  begun.save_state(file.path);
  resumed.load_state(read_entries(file.path));
  train(resumed, 2, 4);
  reference.save_adapter(expected.path);
  resumed.save_adapter(found.path);
  TensorReader reader;
  const auto wanted = read_entries(expected.path), got = read_entries(found.path);
  REQUIRE(wanted.size() == 42);
  for (size_t i = 0; i < wanted.size(); ++i) {
    CHECK(same_bits(reader.read(got[i], at::kFloat, at::kCPU), reader.read(wanted[i], at::kFloat, at::kCPU)));
  }
}

TEST_CASE("LoRA options that cannot be are refused by name") {
  Model model = random_model(Structure::kLlama);
  CHECK(refusal(model, {.rank = 2, .alpha = 4, .targets = {"q_proj", "wq", "nothing"}}) ==
        "LoRA: no module is named wq, nothing; this model has down_proj, gate_proj, k_proj, o_proj, q_proj, "
        "up_proj, v_proj");
  CHECK(refusal(model, {.rank = 2, .alpha = 4, .targets = {"lm_head"}}) ==
        "LoRA: lm_head is tied to the embedding in this model and cannot have an adapter; down_proj, "
        "gate_proj, "
        "k_proj, o_proj, q_proj, up_proj, v_proj can");
  CHECK(refusal(model, {.rank = 0, .alpha = 4, .targets = {"q_proj"}}) ==
        "LoRA: rank is 0, expected at least 1");
  CHECK(refusal(model, {.rank = 2, .alpha = 0, .targets = {"q_proj"}}) ==
        "LoRA: alpha is 0.000000, expected a positive number");
  CHECK(refusal(model, {.rank = 2, .alpha = 4, .dropout = 1, .targets = {"q_proj"}}) ==
        "LoRA: dropout is 1.000000, expected 0 or more and less than 1");
  CHECK(refusal(model, {.rank = 2, .alpha = 4, .targets = {}}) == "LoRA: no target modules");
  Model untied = random_model(Structure::kQwen2);
  CHECK(refusal(untied, {.rank = 2, .alpha = 4, .targets = {"lm_head"}}) == "");
  CHECK(refusal(untied, {.rank = 2, .alpha = 4, .targets = {"wq"}}) ==
        "LoRA: no module is named wq; this model has down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, "
        "up_proj, v_proj");
}
