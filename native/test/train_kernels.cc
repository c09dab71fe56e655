// Every instruction set's training kernels against libtorch's operations, at sizes that end inside a vector.
#include "core/ops/cpu/train_kernels.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using cft::cpu::TrainKernels;

namespace {

std::vector<const TrainKernels*> all_kernels() {
  std::vector<const TrainKernels*> all;
  for (const char* name : {"generic", "avx2", "avx512"}) {
    if (const TrainKernels* kernels = cft::cpu::train_kernels_named(name)) all.push_back(kernels);
  }
  return all;
}

at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::empty(shape, at::kFloat).normal_(0, 1, generator);
}

float* data(const at::Tensor& x) { return x.mutable_data_ptr<float>(); }

double worst(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

}  // namespace

TEST_CASE("RMSNorm and SwiGLU, forward and backward, are autograd's") {
  for (const TrainKernels* kernels : all_kernels()) {
    INFO(kernels->name);
    const at::Tensor x = random({5, 37}, 1).requires_grad_(true), w = random({37}, 2).requires_grad_(true);
    const at::Tensor d = random({5, 37}, 3);
    const at::Tensor y = x * at::rsqrt(x.square().mean(1, true) + 1e-5) * w;
    y.backward(d);
    at::Tensor found = at::empty({5, 37}), inverse = at::empty({5}), dx = at::ones({5, 37}),
               dw = at::ones({37});
    kernels->rms_norm(data(x.detach()), data(w.detach()), data(found), data(inverse), 5, 37, 1e-5f);
    CHECK(worst(found, y.detach()) < 2e-6);
    found.zero_();
    kernels->rms_norm_again(data(x.detach()), data(w.detach()), data(inverse), data(found), 5, 37);
    CHECK(worst(found, y.detach()) < 2e-6);
    kernels->rms_norm_backward(data(d), data(x.detach()), data(w.detach()), data(inverse), data(dx), data(dw),
                               5, 37, true);
    CHECK(worst(dx, x.grad() + 1) < 5e-6);
    CHECK(worst(dw, w.grad() + 1) < 5e-6);
    kernels->rms_norm_backward(data(d), data(x.detach()), data(w.detach()), data(inverse), data(dx), nullptr,
                               5, 37, false);
    CHECK(worst(dx, x.grad()) < 5e-6);

    const at::Tensor both = (random({4, 38}, 4) * 20).requires_grad_(true), slopes = random({4, 19}, 5);
    const at::Tensor act = at::silu(both.narrow(1, 0, 19)) * both.narrow(1, 19, 19);
    act.backward(slopes);
    at::Tensor gate_up = both.detach().clone(), values = at::empty({4, 19});
    kernels->swiglu(data(gate_up), data(values), 4, 19);
    CHECK(worst(values, act.detach()) < 1e-4);
    at::Tensor again = slopes.clone();
    kernels->swiglu_backward(data(gate_up), data(again), 4, 19);
    CHECK(worst(again, act.detach()) < 1e-4);
    CHECK(worst(gate_up, both.grad()) < 1e-4);
  }
}

TEST_CASE("causal softmax with a window, forward and backward, is autograd's") {
  const std::vector<int64_t> positions = {3, 11, 12, 29, 40};
  for (const TrainKernels* kernels : all_kernels()) {
    for (const int64_t window : {0, 5, 64}) {
      const int64_t keys = 41;
      const at::Tensor scores = random({5, keys}, 6).requires_grad_(true), d = random({5, keys}, 7);
      at::Tensor mask = at::zeros({5, keys});
      for (int64_t r = 0; r < 5; ++r) {
        for (int64_t j = 0; j < keys; ++j) {
          const bool seen = j <= positions[r] && (window == 0 || j > positions[r] - window);
          if (!seen) mask[r][j].fill_(-std::numeric_limits<float>::infinity());
        }
      }
      const at::Tensor p = at::softmax(scores * 0.3 + mask, 1);
      p.backward(d);
      const at::Tensor log_sums = at::empty({5}), deltas = (p.detach() * d).sum(1);
      at::Tensor found = scores.detach().clone();
      kernels->causal_softmax(data(found), {5, keys, positions.data(), window, 0.3f}, data(log_sums));
      CHECK(worst(found, p.detach()) < 1e-6);
      CHECK(worst(log_sums, at::logsumexp(scores.detach() * 0.3 + mask, 1)) < 1e-5);
      found = scores.detach().clone();
      at::Tensor gradient = d.clone();
      kernels->causal_softmax_backward(data(found), data(gradient), {5, keys, positions.data(), window, 0.3f},
                                       data(log_sums), data(deltas));
      CHECK(worst(found, p.detach()) < 1e-6);
      CHECK(worst(gradient, scores.grad()) < 1e-6);
    }
  }
}

TEST_CASE("cross-entropy's loss and slopes are autograd's, and what is not finite is not hidden") {
  for (const TrainKernels* kernels : all_kernels()) {
    const at::Tensor logits = (random({3, 1003}, 8) * 5).requires_grad_(true);
    const at::Tensor targets = at::tensor({5, 1002, 0}, at::kLong), weights = at::tensor({0.5f, 0.25f, 2.0f});
    const at::Tensor losses = at::cross_entropy_loss(logits, targets, {}, at::Reduction::None);
    (losses * weights).sum().backward();
    at::Tensor slopes = logits.detach().clone(), nll = at::empty({3});
    kernels->cross_entropy(data(slopes), 3, 1003, targets.const_data_ptr<int64_t>(), data(weights),
                           data(nll));
    CHECK(worst(nll, losses.detach()) < 1e-5);
    CHECK(worst(slopes, logits.grad()) < 1e-6);
    slopes = logits.detach().clone();
    slopes[1][7].fill_(std::numeric_limits<float>::infinity());
    kernels->cross_entropy(data(slopes), 3, 1003, targets.const_data_ptr<int64_t>(), data(weights),
                           data(nll));
    CHECK(std::isfinite(nll[0].item<float>()));
    CHECK(!std::isfinite(nll[1].item<float>()));
    CHECK(std::isnan(slopes[1][3].item<float>()));
    for (const int64_t place : {7, 1001}) {
      slopes = logits.detach().clone();
      slopes[1][place].fill_(std::numeric_limits<float>::quiet_NaN());
      kernels->cross_entropy(data(slopes), 3, 1003, targets.const_data_ptr<int64_t>(), data(weights),
                             data(nll));
      CHECK(std::isfinite(nll[0].item<float>()));
      CHECK(std::isnan(nll[1].item<float>()));
      CHECK(std::isnan(slopes[1][3].item<float>()));
    }
  }
}

TEST_CASE("the score of a single visible key has no slope") {
  const std::vector<int64_t> positions = {0, 1};
  for (const TrainKernels* kernels : all_kernels()) {
    INFO(kernels->name);
    at::Tensor scores = random({2, 2}, 6), gradient = random({2, 2}, 7);
    const at::Tensor log_sums = at::empty({2}), deltas = at::full({2}, 0.1f);
    kernels->causal_softmax(data(scores), {2, 2, positions.data(), 0, 0.3f}, data(log_sums));
    scores = random({2, 2}, 6);
    kernels->causal_softmax_backward(data(scores), data(gradient), {2, 2, positions.data(), 0, 0.3f},
                                     data(log_sums), data(deltas));
    CHECK(gradient[0].abs().max().item<float>() == 0.0f);
    CHECK(gradient[1].abs().min().item<float>() > 0.0f);
  }
}

TEST_CASE("attention scores that are not finite make no weights of attention") {
  const std::vector<int64_t> positions = {40, 40};
  for (const TrainKernels* kernels : all_kernels()) {
    INFO(kernels->name);
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      for (const int64_t place : {3, 40}) {
        const at::Tensor scores = random({2, 41}, 6), log_sums = at::empty({2}), deltas = at::zeros({2});
        scores[1][place].fill_(bad);
        at::Tensor found = scores.clone(), gradient = random({2, 41}, 7);
        kernels->causal_softmax(data(found), {2, 41, positions.data(), 0, 0.3f}, data(log_sums));
        CHECK(at::isfinite(found[0]).all().item<bool>());
        CHECK(at::isnan(found[1]).all().item<bool>());
        found = scores.clone();
        kernels->causal_softmax_backward(data(found), data(gradient), {2, 41, positions.data(), 0, 0.3f},
                                         data(log_sums), data(deltas));
        CHECK(at::isfinite(gradient[0]).all().item<bool>());
        CHECK(at::isnan(gradient[1]).all().item<bool>());
      }
    }
  }
}

TEST_CASE("token scores are nll, entropy and the first largest logit") {
  for (const TrainKernels* kernels : all_kernels()) {
    INFO(kernels->name);
    const at::Tensor logits = random({5, 1003}, 8) * 6;
    logits[2][1002].fill_(100);  // the entropy of one certain token
    logits[3][4].fill_(90);
    logits[3][600].fill_(90);
    logits[4][9].fill_(std::numeric_limits<float>::quiet_NaN());
    const at::Tensor targets = at::tensor({5, 1002, 1002, 600, 7}, at::kLong);
    targets[0] = logits[0].argmax();
    const at::Tensor nll = at::empty({5}), entropies = at::empty({5}), correct = at::empty({5});
    kernels->token_scores(data(logits), 5, 1003, targets.const_data_ptr<int64_t>(), data(nll),
                          data(entropies), data(correct));
    const at::Tensor log_probs = at::log_softmax(logits.narrow(0, 0, 4).to(at::kDouble), 1);
    const at::Tensor wanted = -log_probs.gather(1, targets.narrow(0, 0, 4).unsqueeze(1)).squeeze(1);
    CHECK(worst(nll.narrow(0, 0, 4), wanted) < 2e-5);
    CHECK(worst(entropies.narrow(0, 0, 4), -(log_probs.exp() * log_probs).sum(1)) < 2e-5);
    CHECK(at::equal(correct, at::tensor({1.0f, 0.0f, 1.0f, 0.0f, 0.0f})));
    CHECK(std::isnan(nll[4].item<float>()));
    CHECK(std::isnan(entropies[4].item<float>()));
    targets[3] = 4;
    kernels->token_scores(data(logits), 5, 1003, targets.const_data_ptr<int64_t>(), data(nll),
                          data(entropies), data(correct));
    CHECK(correct[3].item<float>() == 1.0f);
  }
}

TEST_CASE("dropout keeps its share, by key and index alone") {
  const TrainKernels* generic = cft::cpu::train_kernels_named("generic");
  at::Tensor reference = at::ones({20000});
  generic->dropout(data(reference), 20000, 77, 1000, 0.3f);
  CHECK(reference.eq(0).to(at::kFloat).mean().item<double>() == doctest::Approx(0.3).epsilon(0.05));
  CHECK(reference.mean().item<double>() == doctest::Approx(1.0).epsilon(0.03));
  for (const TrainKernels* kernels : all_kernels()) {
    at::Tensor part = at::ones({101});
    kernels->dropout(data(part), 101, 77, 1333, 0.3f);
    CHECK(worst(part, reference.narrow(0, 333, 101)) == 0);
    at::Tensor other = at::ones({101});
    kernels->dropout(data(other), 101, 78, 1333, 0.3f);
    CHECK(worst(part, other) > 0);
    CHECK(kernels->sum_of_squares(data(reference), 19997) ==
          doctest::Approx(reference.narrow(0, 0, 19997).square().sum().item<double>()).epsilon(1e-5));
  }
}
