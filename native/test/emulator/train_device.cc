// Whole training steps by a device's kernels against the CPU's own pass by hand: kernels under the emulator,
// the model on the CPU. With a GPU the same once more on the real thing ("CUDA: ...").
#include <c10/util/Exception.h>
#include <c10/util/Logging.h>  // before doctest: its CHECK would take the place of doctest's
#include <doctest.h>

#include <limits>

#include "core/ops/cpu/train_kernels.h"
#include "core/train/trainer.h"
#include "test/emulator/emulated_training.h"
#include "test/random_model.h"
#include "test/train_batches.h"

using namespace cft;
using namespace cft_test;

namespace {

emulated::Place place;

TrainerOptions there(TrainerOptions options) {
  options.device = place.table;
  return options;
}

Model model_there(Structure structure, at::ScalarType dtype = at::kFloat, int64_t head_dim = 16) {
  return random_model(structure, dtype, false, head_dim, place.device);
}

// Largest difference of the gradients, parameter by parameter, relative to the parameter's largest one.
double gradient_error(const Trainer& found, const Trainer& expected) {
  double worst = 0;
  for (const std::string& name : expected.parameter_names())
    worst = std::max(worst, relative_error(found.gradient(name), expected.gradient(name)));
  return worst;
}

double weight_error(const Model& found, const Model& expected) {
  double worst = 0;
  for (size_t i = 0; i < expected.parameters().size(); ++i)
    worst = std::max(worst, relative_error(found.parameters()[i].second.to(at::kCPU, at::kFloat),
                                           expected.parameters()[i].second.to(at::kFloat)));
  return worst;
}

std::vector<at::Tensor> copies(const Model& model) {
  std::vector<at::Tensor> all;
  for (const auto& [name, tensor] : model.parameters()) all.push_back(tensor.cpu().clone());
  return all;
}

bool same_weights(const Model& model, const std::vector<at::Tensor>& before) {
  const std::vector<at::Tensor> now = copies(model);
  for (size_t i = 0; i < now.size(); ++i)
    if (!same_bits(now[i], before[i])) return false;
  return true;
}

TrainerOptions lora(double dropout, std::vector<std::string> targets) {
  TrainerOptions options;
  options.lora = LoraOptions{.rank = 3, .alpha = 6, .dropout = dropout, .targets = std::move(targets)};
  options.seed = 42;
  return options;
}

const std::vector<std::string> kTargets{"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                        "gate_proj", "up_proj", "down_proj"};

// Several steps of two micro-batches each with decay and clipping.
void compare_steps() {
  for (const Structure structure : kStructures) {
    for (const int64_t head_dim : {16, 10}) {  // 10: attention sequence by sequence
      INFO(static_cast<int>(structure) << " head_dim " << head_dim);
      TrainerOptions options;
      options.adamw.weight_decay = 0.1;
      options.max_grad_norm = 1;
      Model on_cpu = random_model(structure, at::kFloat, false, head_dim),
            on_device = model_there(structure, at::kFloat, head_dim);
      Trainer expected(on_cpu, options), found(on_device, there(options));
      for (int step = 0; step < 3; ++step) {
        for (const TrainBatch& batch : {make_batch({9, 13, 21}, 100 + step), make_batch({4, 8}, 200 + step)})
          CHECK(found.accumulate(batch) == doctest::Approx(expected.accumulate(batch)).epsilon(1e-5));
        CHECK(gradient_error(found, expected) < 1e-4);
        const OptimizerStep a = found.step(1e-3), b = expected.step(1e-3);
        CHECK(a.grad_norm == doctest::Approx(b.grad_norm).epsilon(1e-5));
        CHECK(a.applied);
      }
      // Where a gradient is all but zero AdamW's step may turn around.
      CHECK(weight_error(on_device, on_cpu) < 1e-3);
      const TrainBatch batch = make_batch({9, 13, 21}, 100);
      const HeadScores scores = found.score(batch), by_hand = expected.score(batch);
      for (size_t i = 0; i < by_hand.nll.size(); ++i)
        CHECK(scores.nll[i] == doctest::Approx(by_hand.nll[i]).epsilon(1e-3));
    }
  }
}

// The CPU's activations are fp32, a device's are bf16: 8 bits through three layers.
void compare_bf16() {
  for (const Structure structure : kStructures) {
    INFO(static_cast<int>(structure));
    Model on_cpu = random_model(structure, at::kBFloat16, false, 16),
          on_device = model_there(structure, at::kBFloat16);
    Trainer expected(on_cpu, {}), found(on_device, there({}));
    const TrainBatch batch = make_batch({12, 9, 15, 30}, 8);
    CHECK(found.accumulate(batch) == doctest::Approx(expected.accumulate(batch)).epsilon(0.02));
    for (const std::string& name : expected.parameter_names()) {
      INFO(name);
      const at::Tensor a = found.gradient(name), b = expected.gradient(name);
      CHECK((a - b).norm().item<double>() < 0.08 * b.norm().item<double>());
    }
  }
}

void compare_lora() {
  // A tied model, and one whose head has an adapter, too.
  std::vector<std::string> with_head = kTargets;
  with_head.push_back("lm_head");
  for (const auto& [structure, targets] :
       {std::pair(Structure::kLlama, kTargets), std::pair(Structure::kQwen2, with_head)}) {
    for (const double dropout : {0.0, 0.3}) {
      INFO(dropout);
      const TrainerOptions options = lora(dropout, targets);
      Model on_cpu = random_model(structure, at::kFloat, false, 16), on_device = model_there(structure);
      const std::vector<at::Tensor> base = copies(on_device);
      Trainer expected(on_cpu, options), found(on_device, there(options));
      for (int step = 0; step < 2; ++step) {
        TrainBatch batch = make_batch({12, 9, 15, 30}, 8 + step);
        batch.dropout_counter = 5 + step;
        CHECK(found.accumulate(batch) == doctest::Approx(expected.accumulate(batch)).epsilon(1e-5));
        CHECK(gradient_error(found, expected) < 2e-4);
        found.step(0.01);
        expected.step(0.01);
      }
      CHECK(same_weights(on_device, base));
    }
  }
}

void compare_split() {
  TrainBatch batch = make_batch({30, 9, 14, 22}, 4);
  batch.dropout_counter = 3;
  for (const double dropout : {0.0, 0.3}) {
    Model model = model_there(Structure::kLlama);
    TrainerOptions options = there(lora(dropout, kTargets));
    Trainer whole(model, options);
    const double loss = whole.accumulate(batch);
    options.between = [&](int64_t rows) {
      if (rows > 31) throw c10::OutOfMemoryError({__func__, __FILE__, __LINE__}, "no memory");
    };
    Trainer small(model, options);
    CHECK(small.accumulate(batch) == doctest::Approx(loss).epsilon(1e-5));
    CHECK(small.parts() > 1);
    CHECK(gradient_error(small, whole) < 1e-4);
  }
}

// How often layers ran.
int64_t swiglus = 0;
int (*swiglu_of_place)(const CftTrainSwiglu*, void*);
int count_swiglu(const CftTrainSwiglu* work, void* stream) {
  ++swiglus;
  return swiglu_of_place(work, stream);
}

void compare_checkpoint() {
  static TrainDevice counting;
  counting = *place.table;
  swiglu_of_place = counting.swiglu;
  counting.swiglu = count_swiglu;
  const TrainBatch batch = make_batch({30, 9, 14, 22}, 4);
  for (const bool adapter : {false, true}) {
    for (const Structure structure : {Structure::kLlama, Structure::kOlmo2}) {
      Model model = model_there(structure);
      TrainerOptions options = adapter ? lora(0.2, kTargets) : TrainerOptions{};
      options.device = &counting;
      Trainer plain(model, options);
      options.checkpoint = true;
      Trainer again(model, options);
      swiglus = 0;
      const double loss = plain.accumulate(batch);
      CHECK(swiglus == 3);
      CHECK(again.accumulate(batch) == loss);
      CHECK(swiglus == 9);
      for (const std::string& name : plain.parameter_names())
        CHECK(same_bits(again.gradient(name), plain.gradient(name)));
      again.score(batch);
      CHECK(swiglus == 12);
    }
  }
}

void compare_faults() {
  Model model = model_there(Structure::kLlama), undisturbed = model_there(Structure::kLlama);
  TrainerOptions options;
  options.max_grad_norm = 1;
  Trainer trainer(model, there(options)), reference(undisturbed, there(options));
  TrainBatch bad = make_batch({12, 9}, 1), good = make_batch({12, 9}, 2);
  bad.weights[0] = 3e38f;
  const std::vector<at::Tensor> before = copies(model);
  trainer.accumulate(bad);
  const OptimizerStep refused = trainer.step(1e-2);
  CHECK(!refused.applied);
  CHECK(!std::isfinite(refused.grad_norm));
  CHECK(same_weights(model, before));
  // The step did not count.
  for (Trainer* one : {&trainer, &reference}) {
    one->accumulate(good);
    CHECK(one->step(1e-2).applied);
  }
  CHECK(same_weights(model, copies(undisturbed)));
  CHECK(!same_weights(model, before));
  // Without any gradient it is a step with a zero gradient.
  const OptimizerStep empty = trainer.step(1e-2);
  CHECK(empty.applied);
  CHECK(empty.grad_norm == 0);
}

// Makes `gradient` the gradient of the only leaf.
void record(Gradients& gradients, const at::Tensor& leaf, const at::Tensor& gradient) {
  const Gradients::Recording recording(gradients, [] {});
  (leaf.to(at::kFloat) * gradient.to(leaf.device())).sum().backward();
}

void compare_states() {
  // Without clipping, whose norm is summed in another order, every bit of the state is the CPU's, where that
  // rounds a multiplication and addition once.
  const bool to_the_bit = cpu::train_kernels().name != std::string("generic");
  at::Generator generator = at::detail::createCPUGenerator(3);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const bool masters : {true, false}) {
      for (const bool half_moments : {true, false}) {
        AdamWOptions options;
        options.weight_decay = 0.1;
        options.master_weights = masters;
        options.bf16_moments = half_moments;
        options.seed = 9;
        const at::Tensor weight = at::empty({33, 31}, at::kFloat).normal_(0, 1, generator).to(dtype);
        const at::Tensor weight_there = weight.to(place.device).clone();
        AdamW expected({{"w", weight}}, options), found({{"w", weight_there}}, options, place.table);
        Gradients gradients({weight}), gradients_there({weight_there});
        for (int step = 0; step < 4; ++step) {
          const at::Tensor gradient = at::empty({33, 31}, at::kFloat).normal_(0, 1, generator);
          if (step != 2) {
            record(gradients, weight, gradient);
            record(gradients_there, weight_there, gradient);
          }
          const double norm = expected.clipped_step(gradients, 0.01, 0);
          CHECK(found.clipped_step(gradients_there, 0.01, 0) == doctest::Approx(norm).epsilon(1e-6));
          gradients.clear();
          gradients_there.clear();
        }
        const auto a = found.state(), b = expected.state();
        REQUIRE(a.size() == b.size());
        for (size_t i = 0; i < a.size(); ++i) {
          INFO(b[i].first);
          if (to_the_bit) {
            CHECK(same_bits(a[i].second.cpu(), b[i].second));
          } else {
            CHECK(relative_error(a[i].second.to(at::kCPU, at::kFloat), b[i].second.to(at::kFloat)) < 0.01);
          }
        }
        if (to_the_bit) CHECK(same_bits(weight_there.cpu(), weight));
      }
    }
  }
}

void compare_no_masters() {
  for (const bool half_moments : {false, true}) {
    Model on_device = model_there(Structure::kLlama, at::kBFloat16);
    TrainerOptions options;
    options.adamw.master_weights = false;
    options.adamw.bf16_moments = half_moments;
    options.max_grad_norm = 1;
    Trainer trainer(on_device, there(options));
    const TrainBatch batch = make_batch({12, 9, 15}, 8);
    double first = 0, last = 0;
    for (int i = 0; i < 10; ++i) {
      last = trainer.accumulate(batch);
      if (i == 0) first = last;
      CHECK(trainer.step(6e-3).applied);
    }
    CHECK(last < 0.8 * first);
  }
}

}  // namespace

TEST_CASE("emulated training: losses, gradients and weights of steps are the CPU's in every family") {
  compare_steps();
}

TEST_CASE("emulated training in bf16: gradients within bf16 of the CPU's") { compare_bf16(); }

TEST_CASE("emulated training of LoRA is the CPU's, dropout included, an adapter on the head, too") {
  compare_lora();
}

TEST_CASE("emulated training: a split batch has the dropout masks of the whole one") { compare_split(); }

TEST_CASE("emulated training with checkpointing runs each layer twice and gives the same bits") {
  compare_checkpoint();
}

TEST_CASE("emulated training: a gradient that is not finite changes nothing and counts no step") {
  compare_faults();
}

TEST_CASE("emulated AdamW's state is the CPU's to the bit, whatever is kept in bf16") { compare_states(); }

TEST_CASE("emulated training of bf16 weights without masters learns, with bf16 moments, too") {
  compare_no_masters();
}

#ifdef CFT_CUDA
TEST_CASE("CUDA: losses, gradients and weights of training steps are the CPU's in every family") {
  on_gpu(place, compare_steps);
}

// With head_dim 16 by flash attention, windows included.
TEST_CASE("CUDA: training in bf16 has gradients within bf16 of the CPU's") { on_gpu(place, compare_bf16); }

TEST_CASE("CUDA: training of LoRA is the CPU's, dropout included, an adapter on the head, too") {
  on_gpu(place, compare_lora);
}

TEST_CASE("CUDA: a split training batch has the dropout masks of the whole one") {
  on_gpu(place, compare_split);
}

TEST_CASE("CUDA: training with checkpointing runs each layer twice and gives the same bits") {
  on_gpu(place, compare_checkpoint);
}

TEST_CASE("CUDA: a gradient that is not finite changes nothing and counts no step") {
  on_gpu(place, compare_faults);
}

TEST_CASE("CUDA: AdamW's state is the CPU's to the bit, whatever is kept in bf16") {
  on_gpu(place, compare_states);
}

TEST_CASE("CUDA: training of bf16 weights without masters learns, with bf16 moments, too") {
  on_gpu(place, compare_no_masters);
}

TEST_CASE("CUDA: the same training steps give the same bits twice") {
  on_gpu(place, [] {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      std::vector<std::vector<at::Tensor>> weights;
      for (int run = 0; run < 2; ++run) {
        Model model = model_there(Structure::kMistral, dtype);
        Trainer trainer(model, {});
        for (int step = 0; step < 3; ++step) {
          trainer.accumulate(make_batch({60, 45, 80, 33}, 7 + step));
          trainer.step(1e-3);
        }
        weights.push_back(copies(model));
      }
      for (size_t i = 0; i < weights[0].size(); ++i) CHECK(same_bits(weights[0][i], weights[1][i]));
    }
  });
}
#endif
