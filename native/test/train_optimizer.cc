// AdamW against its formula in double precision.
#include <doctest.h>

#include <cmath>

#include "core/train/optimizer.h"
#include "train_batches.h"

using namespace cft;
using namespace cft_test;

namespace {

// torch.optim.AdamW, one element, double precision.
struct Reference {
  double weight, m = 0, v = 0;
  int steps = 0;

  void step(double gradient, double rate, double decay, const AdamWOptions& o) {
    ++steps;
    weight *= 1 - rate * decay;
    m = o.beta1 * m + (1 - o.beta1) * gradient;
    v = o.beta2 * v + (1 - o.beta2) * gradient * gradient;
    const double root = std::sqrt(v) / std::sqrt(1 - std::pow(o.beta2, steps));
    weight -= rate / (1 - std::pow(o.beta1, steps)) * m / (root + o.epsilon);
  }
};

// Makes `gradient` the gradient of the only leaf, by a backward pass.
void record(Gradients& gradients, const at::Tensor& leaf, const at::Tensor& gradient) {
  const Gradients::Recording recording(gradients, [] {});
  (leaf.to(at::kFloat) * gradient).sum().backward();
}

// Largest difference between AdamW and the reference after steps with random gradients, the last one without
// any.
double error_after_steps(const at::Tensor& weight, double decay_expected, AdamWOptions options) {
  options.beta1 = 0.8;
  options.beta2 = 0.95;
  AdamW optimizer({{"w", weight}}, options);
  Gradients gradients({weight});
  const at::Tensor start = weight.to(at::kDouble).reshape(-1).clone();
  std::vector<Reference> references;
  for (int64_t i = 0; i < start.numel(); ++i) references.push_back({start[i].item<double>()});
  at::Generator generator = at::detail::createCPUGenerator(3);
  for (int step = 0; step < 6; ++step) {
    const double rate = 0.01 * (step + 1);
    const at::Tensor gradient = at::empty(weight.sizes(), at::kFloat).normal_(0, 1, generator);
    if (step < 5) record(gradients, weight, gradient);
    optimizer.step(gradients, rate);
    gradients.clear();
    for (int64_t i = 0; i < start.numel(); ++i) {
      const double g = step < 5 ? gradient.reshape(-1)[i].item<double>() : 0;
      references[i].step(g, rate, decay_expected, options);
    }
  }
  const at::Tensor master = optimizer.state()[1].second.to(at::kDouble).reshape(-1);
  double error = 0;
  for (int64_t i = 0; i < start.numel(); ++i) {
    error = std::max(error, std::abs(master[i].item<double>() - references[i].weight));
  }
  return error;
}

at::Tensor random_tensor(at::IntArrayRef shape) {
  at::Generator generator = at::detail::createCPUGenerator(5);
  return at::empty(shape, at::kFloat).normal_(0, 1, generator);
}

}  // namespace

TEST_CASE("AdamW updates as torch.optim.AdamW and decays matrices only") {
  AdamWOptions options;
  CHECK(error_after_steps(random_tensor({5, 7}), 0, options) < 1e-6);
  options.weight_decay = 0.3;
  CHECK(error_after_steps(random_tensor({5, 7}), 0.3, options) < 1e-6);
  CHECK(error_after_steps(random_tensor({35}), 0, options) < 1e-6);
  options.epsilon = 0.1;
  CHECK(error_after_steps(random_tensor({5, 7}), 0.3, options) < 1e-6);
}

TEST_CASE("fp32 masters carry what bf16 weights round away, and without them chance does") {
  const at::Tensor start = at::ones({64, 64}, at::kFloat);
  const auto after_small_steps = [&](bool masters) {
    const at::Tensor weight = start.to(at::kBFloat16);
    AdamWOptions options;
    options.master_weights = masters;
    AdamW optimizer({{"w", weight}}, options);
    Gradients gradients({weight});
    for (int step = 0; step < 20; ++step) {
      record(gradients, weight, start);
      optimizer.step(gradients, 1e-3);  // half a bf16 step at 1 is 2e-3
      gradients.clear();
    }
    CHECK((optimizer.state()[1].second.scalar_type() == (masters ? at::kFloat : at::kBFloat16)));
    const at::Tensor wide = weight.to(at::kFloat);
    return std::pair(wide.mean().item<double>(), wide.std().item<double>());
  };
  const auto [exact, no_spread] = after_small_steps(true);
  CHECK(exact == doctest::Approx(0.98).epsilon(0.004));
  CHECK(no_spread == doctest::Approx(0.0));
  // Each weight is at a bf16 value beside 0.98; their mean is there.
  const auto [mean, spread] = after_small_steps(false);
  CHECK(mean == doctest::Approx(0.98).epsilon(5e-4));
  CHECK(spread > 1e-3);

  AdamWOptions options;
  options.weight_decay = 0.1;
  CHECK(error_after_steps(random_tensor({6, 6}).to(at::kBFloat16), 0.1, options) < 1e-2);
}

TEST_CASE("gradients accumulate in fp32 and leave the leaves as they were") {
  const at::Tensor leaf = at::zeros({3}, at::kBFloat16);
  Gradients gradients({leaf});
  record(gradients, leaf, at::full({3}, 1.0f));
  for (int i = 0; i < 8; ++i) record(gradients, leaf, at::full({3}, 0.0009765625f));  // lost in bf16 sums
  CHECK((gradients.sum(0).scalar_type() == at::kFloat));
  CHECK(gradients.sum(0)[2].item<float>() == 1.0078125f);
  CHECK(!leaf.requires_grad());
  CHECK(!leaf.grad().defined());
  CHECK(gradients.norm() == doctest::Approx(1.0078125 * std::sqrt(3.0)));
  gradients.clear();
  CHECK(gradients.norm() == 0.0);
}

TEST_CASE("bf16 moments keep their means, where rounding to the nearest would stop the second one") {
  const at::Tensor start = at::ones({64, 64}, at::kFloat);
  AdamWOptions options;
  options.bf16_moments = true;
  options.seed = 3;
  const at::Tensor weight = start.clone();
  AdamW optimizer({{"w", weight}}, options);
  Gradients gradients({weight});
  for (int step = 0; step < 400; ++step) {
    record(gradients, weight, start);
    optimizer.step(gradients, 1e-3, 0.5);
    gradients.clear();
  }
  const auto state = optimizer.state();
  REQUIRE(state[2].first == "exp_avg.w");
  CHECK((state[2].second.scalar_type() == at::kBFloat16));
  CHECK(state[2].second.to(at::kFloat).mean().item<double>() == doctest::Approx(0.5).epsilon(0.005));
  const double second = 0.25 * (1 - std::pow(0.999, 400));
  CHECK(state[3].second.to(at::kFloat).mean().item<double>() == doctest::Approx(second).epsilon(0.01));
  CHECK(weight.mean().item<double>() == doctest::Approx(1 - 0.4).epsilon(0.01));
  CHECK((optimizer.state_layout()[2].second.scalar_type() == at::kBFloat16));
}

TEST_CASE("clipping inside the update is clipping before it") {
  const at::Tensor start = random_tensor({9, 37});
  const auto after = [&](double by, double scale) {
    const at::Tensor weight = start.clone();
    AdamWOptions options;
    options.epsilon = 0.1;
    AdamW optimizer({{"w", weight}}, options);
    Gradients gradients({weight});
    record(gradients, weight, start * by);
    optimizer.step(gradients, 1e-2, scale);
    return weight;
  };
  CHECK((after(1, 0.25) - after(0.25, 1)).abs().max().item<double>() < 1e-7);
}
