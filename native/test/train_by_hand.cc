// The pass by hand against autograd's: each of its shortcuts on and off, in every family.
#include <c10/util/Exception.h>
#include <doctest.h>

#include "core/train/prefix_tree.h"
#include "core/train/trainer.h"
#include "random_model.h"
#include "train_batches.h"

using namespace cft;
using namespace cft_test;

namespace {

struct Result {
  double loss;
  std::vector<at::Tensor> gradients;
  std::vector<float> nll;
};

Result run(Model& model, const TrainBatch& batch, const TrainerOptions& options) {
  Trainer trainer(model, options);
  if (options.lora) {  // B = 0 would hide A's gradient
    trainer.accumulate(make_batch({12, 9}, 77));
    trainer.step(0.05);
  }
  Result result{trainer.accumulate(batch), {}, trainer.score(batch).nll};
  for (const std::string& name : trainer.parameter_names())
    result.gradients.push_back(trainer.gradient(name).clone());
  return result;
}

void check_equal(const Result& found, const Result& expected, double tolerance) {
  CHECK(found.loss == doctest::Approx(expected.loss).epsilon(tolerance));
  for (size_t i = 0; i < expected.nll.size(); ++i)
    CHECK(found.nll[i] == doctest::Approx(expected.nll[i]).epsilon(10 * tolerance));
  REQUIRE(found.gradients.size() == expected.gradients.size());
  for (size_t i = 0; i < found.gradients.size(); ++i) {
    INFO("parameter " << i);
    CHECK(relative_error(found.gradients[i], expected.gradients[i]) < 10 * tolerance);
  }
}

// Sequences that begin alike: `shared` tokens in all, then 6 more in every second one.
TrainBatch alike(int64_t shared) {
  TrainBatch batch = make_batch({40, 31, 44, 38, 36}, 21);
  for (size_t s = 1; s + 1 < batch.sequence_starts.size(); ++s) {
    const int64_t count = shared + (s % 2 == 0 ? 6 : 0);
    for (int64_t i = 0; i < count; ++i) batch.token_ids[batch.sequence_starts[s] + i] = batch.token_ids[i];
  }
  return batch;
}

TrainerOptions lora_options(double dropout) {
  TrainerOptions options;
  options.lora =
      LoraOptions{.rank = 3,
                  .alpha = 6,
                  .dropout = dropout,
                  .targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
  options.seed = 42;
  return options;
}

}  // namespace

TEST_CASE("by hand, with each shortcut on and off, the gradients are autograd's in every family") {
  const TrainBatch batch = alike(15);
  for (const Structure structure : kStructures) {
    Model model = random_model(structure);
    TrainerOptions options;
    options.by_hand = false;
    const Result plain = run(model, batch, options);
    options.by_hand = true;
    for (const bool share : {false, true}) {
      for (const bool prune : {false, true}) {
        for (const bool checkpoint : {false, true}) {
          INFO(static_cast<int>(structure)
               << " share " << share << " prune " << prune << " checkpoint " << checkpoint);
          options.share_prefixes = share;
          options.prune_last_layer = prune;
          options.checkpoint = checkpoint;
          check_equal(run(model, batch, options), plain, 2e-6);
        }
      }
    }
  }
}

TEST_CASE("LoRA by hand is LoRA by autograd, dropout included, and its mask knows nothing of shortcuts") {
  const TrainBatch batch = alike(15);
  for (const Structure structure : {Structure::kLlama, Structure::kQwen2}) {
    for (const double dropout : {0.0, 0.3}) {
      Model model = random_model(structure);
      TrainerOptions options = lora_options(dropout);
      options.prune_last_layer = false;
      options.by_hand = false;
      const Result plain = run(model, batch, options);
      options.by_hand = true;
      check_equal(run(model, batch, options), plain, 1e-5);
      options.prune_last_layer = true;
      options.checkpoint = true;
      check_equal(run(model, batch, options), plain, 1e-5);
    }
  }
}

TEST_CASE("bf16 weights by hand: the gradients of fp32 weights with the same values") {
  Model half = random_model(Structure::kLlama, at::kBFloat16);
  Model wide = random_model(Structure::kLlama);
  for (size_t i = 0; i < wide.parameters().size(); ++i)
    wide.parameters()[i].second.copy_(half.parameters()[i].second);
  const TrainBatch batch = alike(15);
  // Units for bf16 round the activations, where a CPU has them.
  check_equal(run(half, batch, {}), run(wide, batch, {}), 1e-2);
}

TEST_CASE(
    "one head of the batch selected at every position, and one position with terms of several sequences") {
  Model model = random_model(Structure::kLlama);
  TrainBatch batch;
  // Two equal sequences and one that goes on from them.
  for (const int64_t length : {20, 20, 25}) {
    for (int64_t i = 0; i < length; ++i)
      batch.token_ids.push_back(static_cast<int32_t>((7 * i * i + 3) % 67));
  }
  batch.sequence_starts = {0, 20, 40, 65};
  for (int64_t i = 0; i < 65; ++i) {
    batch.selected.push_back(i);
    batch.targets.push_back((5 * i + 1) % 67);
    batch.weights.push_back(0.01f * static_cast<float>(1 + i % 3));
  }
  const PrefixTree tree = make_prefix_tree(batch, true);
  CHECK(tree.token_ids.size() == 25);
  CHECK(tree.query_rows.size() == 25);
  CHECK(tree.terms.size() == 65);
  TrainerOptions options;
  options.by_hand = false;
  const Result plain = run(model, batch, options);
  options.by_hand = true;
  check_equal(run(model, batch, options), plain, 2e-6);
}

TEST_CASE("the prefix tree holds each sequence as the path to its last row") {
  const TrainBatch batch = prune_batch(alike(15));
  const PrefixTree tree = make_prefix_tree(batch, true);
  CHECK(tree.token_ids.size() < batch.token_ids.size());
  CHECK(make_prefix_tree(batch, false).token_ids.size() == batch.token_ids.size());
  for (size_t term = 0, s = 0; term < batch.selected.size(); ++term) {
    while (batch.selected[term] >= batch.sequence_starts[s + 1]) ++s;
    // From the selected row back to the root.
    int64_t row = tree.query_rows[tree.terms[term]];
    for (int64_t i = batch.selected[term]; i >= batch.sequence_starts[s]; --i) {
      CHECK(tree.token_ids[row] == batch.token_ids[i]);
      CHECK(tree.positions[row] == i - batch.sequence_starts[s]);
      for (const TreeSegment& segment : tree.segments) {
        if (row != segment.first) continue;
        row = segment.parent < 0 ? 0
                                 : tree.segments[segment.parent].first + tree.segments[segment.parent].length;
        break;
      }
      --row;
    }
  }
}

TEST_CASE("a batch that does not fit is run in parts, with the gradients of all batches of the step") {
  Model model = random_model(Structure::kLlama);
  const TrainBatch first = make_batch({12, 9, 7}, 3), second = make_batch({30, 9, 14, 22}, 4);
  for (const double dropout : {-1.0, 0.0, 0.3}) {  // below zero: full fine-tuning
    TrainerOptions options = dropout < 0 ? TrainerOptions{} : lora_options(dropout);
    Trainer whole(model, options);
    const double loss = whole.accumulate(first) + whole.accumulate(second);
    int64_t passes = 0;
    options.between = [&](int64_t rows) {
      ++passes;
      if (rows > 31) throw c10::OutOfMemoryError({__func__, __FILE__, __LINE__}, "no memory");
    };
    Trainer small(model, options);
    CHECK(small.accumulate(first) + small.accumulate(second) == doctest::Approx(loss).epsilon(1e-6));
    CHECK(small.parts() > 1);
    // Whoever goes on from its state must sum in the same parts.
    const TemporaryPath file("parts.safetensors");
    small.save_state(file.path);
    TrainerOptions same = options;
    same.between = nullptr;
    Trainer resumed(model, same);
    resumed.load_state(read_entries(file.path));
    CHECK(resumed.parts() == small.parts());
    for (const std::string& name : whole.parameter_names())
      CHECK(relative_error(small.gradient(name), whole.gradient(name)) < 1e-5);
    options.between = [](int64_t) {
      throw c10::OutOfMemoryError({__func__, __FILE__, __LINE__}, "no memory");
    };
    Trainer none(model, options);
    CHECK_THROWS_AS(none.accumulate(second), c10::OutOfMemoryError);
    CHECK(none.gradient(none.parameter_names()[1]).abs().max().item<float>() == 0.0f);
  }
}
