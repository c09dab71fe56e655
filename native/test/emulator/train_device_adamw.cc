// AdamW, the global norm and clipping of training as train_device_kernels.cc tests the other kernels: under
// the emulator, and with a GPU once more on it ("CUDA: ...").
#include <cmath>
#include <limits>

#include "core/ops/cpu/train_kernels.h"
#include "test/emulator/training_case.h"

namespace {

// What AdamW reads and writes.
struct Parameters {
  at::Tensor gradient, master, half, m, v;

  Parameters on(at::Device device) const {
    const auto move = [&](const at::Tensor& x) { return x.defined() ? x.to(device) : x; };
    return {move(gradient), move(master), move(half), move(m), move(v)};
  }
};

Parameters parameters(int64_t count, bool with_master, bool with_half, bool half_moments) {
  Parameters p;
  p.gradient = random({count}, 11);
  const at::Tensor weight = random({count}, 12);
  if (with_master) p.master = with_half ? weight : weight.clone();
  if (with_half) p.half = weight.to(at::kBFloat16);
  const at::ScalarType moments = half_moments ? at::kBFloat16 : at::kFloat;
  p.m = (random({count}, 13) * 0.1).to(moments);
  p.v = (random({count}, 14) * 0.1).square().to(moments);
  return p;
}

constexpr float kScale = 0.625f;

void fill_rates(auto& task) {
  task.beta1 = 0.9f;
  task.beta2 = 0.95f;
  task.epsilon = 1e-8f;
  task.decay = 0.999f;
  task.step_size = 0.01f;
  task.root_correction = 1.7f;
  task.random_key = 0x1234567;
}

CftTrainAdamW device_task(const Parameters& p, const at::Tensor& scale) {
  CftTrainAdamW task{};
  task.count = p.gradient.numel();
  task.gradient_dtype = cft::ops::dtype_of(p.gradient);
  task.gradient = data(p.gradient);
  if (p.master.defined()) task.weight = floats(p.master);
  if (p.half.defined()) task.half_weight = data(p.half);
  task.moment_dtype = cft::ops::dtype_of(p.m);
  task.m = data(p.m);
  task.v = data(p.v);
  task.gradient_scale = floats(scale);
  fill_rates(task);
  return task;
}

void run_on_cpu(const cft::cpu::TrainKernels& set, const Parameters& p) {
  cft::cpu::AdamWTask task;
  task.count = p.gradient.numel();
  task.gradient = floats(p.gradient);
  if (p.master.defined()) task.weight = floats(p.master);
  if (p.half.defined()) task.half_weight = static_cast<uint16_t*>(data(p.half));
  if (p.m.scalar_type() == at::kFloat) {
    task.m = floats(p.m);
    task.v = floats(p.v);
  } else {
    task.half_m = static_cast<uint16_t*>(data(p.m));
    task.half_v = static_cast<uint16_t*>(data(p.v));
  }
  task.gradient_scale = kScale;
  fill_rates(task);
  set.adamw(task);
}

void compare_adamw() {
  const at::Tensor scale = at::tensor({kScale}).to(place.device);
  for (const char* name : {"generic", "avx2", "avx512"}) {
    const cft::cpu::TrainKernels* set = cft::cpu::train_kernels_named(name);
    if (set == nullptr) continue;
    INFO(name);
    for (const int64_t count : {1, 3, 4, 1027, 4096}) {
      for (const bool with_master : {false, true}) {
        for (const bool with_half : {false, true}) {
          if (!with_master && !with_half) continue;
          for (const bool half_moments : {false, true}) {
            CAPTURE(count);
            CAPTURE(with_master);
            CAPTURE(with_half);
            CAPTURE(half_moments);
            const Parameters expected = parameters(count, with_master, with_half, half_moments).on(at::kCPU);
            const Parameters found = parameters(count, with_master, with_half, half_moments);
            run_on_cpu(*set, expected);
            const CftTrainAdamW task = device_task(found, scale);
            run(kernels().adamw, task);
            const auto check = [&](const at::Tensor& a, const at::Tensor& b) {
              if (!a.defined()) return;
              // The generic set multiplies and adds in two roundings, which may tip a rounding to bf16.
              if (name != std::string("generic")) {
                CHECK(same_bits(a, b));
              } else {
                check_close(a.cpu(), b);
              }
            };
            check(found.master, expected.master);
            check(found.half, expected.half);
            check(found.m, expected.m);
            check(found.v, expected.v);
          }
        }
      }
    }
  }
}

void compare_gradients() {
  const at::Tensor scale = at::tensor({kScale}).to(place.device);
  Parameters wide = parameters(1027, true, false, false), half = parameters(1027, true, false, false);
  half.gradient = half.gradient.to(at::kBFloat16);
  wide.gradient = half.gradient.to(at::kFloat);
  CftTrainAdamW task = device_task(wide, scale);
  run(kernels().adamw, task);
  task = device_task(half, scale);
  run(kernels().adamw, task);
  CHECK(same_bits(wide.master, half.master));

  wide.gradient.zero_();
  task = device_task(wide, scale);
  run(kernels().adamw, task);
  task = device_task(half, scale);
  task.gradient = nullptr;
  run(kernels().adamw, task);
  CHECK(same_bits(wide.master, half.master));
  CHECK(same_bits(wide.v, half.v));

  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const at::Tensor before = wide.master.clone(), stop = at::tensor({bad}).to(place.device);
    task = device_task(wide, stop);
    run(kernels().adamw, task);
    CHECK(same_bits(wide.master, before));
  }
}

void compare_clipping() {
  // One part, several parts, and none.
  for (const at::ScalarType dtype : kDtypes) {
    for (const int64_t count : {1, 1003, 65536 * 2 + 5, 65536 * 2 + 8}) {
      const at::Tensor x = random({count}, 15, dtype), small = random({17}, 16, dtype);
      const double expected = std::sqrt(x.to(at::kDouble).square().sum().item<double>() +
                                        small.to(at::kDouble).square().sum().item<double>());
      in_both_orders([&] {
        const int64_t parts = kernels().squares_parts(count);
        const at::Tensor partial = poison({parts + 1}, at::kDouble), norm = poison({1}, at::kDouble),
                         scale = poison({1}, at::kFloat);
        auto* sums = partial.mutable_data_ptr<double>();
        CftTrainSquares work{cft::ops::dtype_of(x), count, data(x), sums};
        run(kernels().squares, work);
        work = {cft::ops::dtype_of(x), 17, data(small), sums + parts};
        run(kernels().squares, work);
        for (const double most : {0.0, expected / 3, expected * 3}) {
          const CftTrainClip clip{parts + 1, sums, most, norm.mutable_data_ptr<double>(), floats(scale)};
          run(kernels().clip, clip);
          CHECK(norm.item<double>() == doctest::Approx(expected).epsilon(1e-6));
          const double factor = most > 0 && most < expected ? most / (expected + 1e-6) : 1;
          CHECK(scale.item<float>() == doctest::Approx(factor).epsilon(1e-6));
        }
        partial[0].fill_(std::numeric_limits<double>::infinity());
        const CftTrainClip clip{parts + 1, sums, 1.0, norm.mutable_data_ptr<double>(), floats(scale)};
        run(kernels().clip, clip);
        CHECK(std::isnan(scale.item<float>()));
      });
    }
  }
}

}  // namespace

TEST_CASE("emulated AdamW is the CPU's kernel, bit for bit where that rounds once, stochastic rounding too") {
  compare_adamw();
}

TEST_CASE("emulated AdamW: gradients in bf16 and none at all; a scale that is not finite changes nothing") {
  compare_gradients();
}

TEST_CASE("emulated global norm and clipping are torch.nn.utils.clip_grad_norm_'s") { compare_clipping(); }

#ifdef CFT_CUDA
TEST_CASE("CUDA: AdamW is the CPU's kernel, bit for bit where that rounds once, stochastic rounding too") {
  on_gpu(place, compare_adamw);
}

TEST_CASE("CUDA: AdamW: gradients in bf16 and none at all; a scale that is not finite changes nothing") {
  on_gpu(place, compare_gradients);
}

TEST_CASE("CUDA: global norm and clipping are torch.nn.utils.clip_grad_norm_'s") {
  on_gpu(place, compare_clipping);
}
#endif
