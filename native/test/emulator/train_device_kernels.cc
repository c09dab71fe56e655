// Training's kernels under the emulator, as they are launched on a GPU, against libtorch in double precision
// and against the CPU's own kernels: sizes that are no multiple of anything and sizes that go 16 bytes at a
// time, fp32 and bf16, threads in either order. With a GPU the same once more on the real thing ("CUDA:
// ...").
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/ops/cpu/train_kernels.h"
#include "test/emulator/emulated_training.h"
#include "test/emulator/emulator.h"

#ifdef CFT_CUDA
#include <c10/cuda/CUDAFunctions.h>
#endif

namespace {

using emulator::Order;

constexpr at::ScalarType kDtypes[] = {at::kFloat, at::kBFloat16};

// Where the kernels run and their tensors lie.
struct Place {
  at::Device device = at::kCPU;
  const cft::TrainDevice* table = &emulated::train_device();
};
Place place;

const cft::TrainDevice& kernels() { return *place.table; }

template <class Work>
void run(int (*kernel)(const Work*, void*), const Work& work) {
  CHECK(kernel(&work, kernels().stream(place.device)) == 0);
}

// Runs the test in both orders of the threads.
template <class Test>
void in_both_orders(const Test& test) {
  if (!place.device.is_cpu()) return test();
  for (const Order order : {Order::kForward, Order::kBackward}) {
    emulator::launch_order = order;
    test();
  }
  emulator::launch_order = Order::kForward;
}

at::Tensor random(at::IntArrayRef shape, uint64_t seed, at::ScalarType dtype = at::kFloat) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::empty(shape, at::kFloat).normal_(0, 1, generator).to(place.device, dtype);
}

at::Tensor poison(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::full(shape, std::numeric_limits<double>::quiet_NaN(),
                  at::TensorOptions(dtype).device(place.device));
}

void* data(const at::Tensor& x) { return x.mutable_data_ptr(); }
float* floats(const at::Tensor& x) { return x.mutable_data_ptr<float>(); }

// One step of bf16 where a result is rounded to it; `scale` is of the values that were added up.
void check_close(const at::Tensor& found, const at::Tensor& expected, double scale = 1) {
  const double relative = found.scalar_type() == at::kBFloat16 ? 1.0 / 128 : 3e-6;
  CHECK(at::allclose(found.to(at::kDouble), expected.to(at::kDouble), relative, relative * scale));
}

bool same_bits(const at::Tensor& one, const at::Tensor& other) {
  const at::Tensor a = one.cpu(), b = other.cpu();
  return a.nbytes() == b.nbytes() && std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

void check_norm(at::ScalarType dtype, int64_t rows, int64_t width) {
  CAPTURE(rows);
  CAPTURE(width);
  CAPTURE(dtype);
  const at::Tensor x = random({rows, width}, 1, dtype), weight = random({width}, 2, dtype),
                   dy = random({rows, width}, 3, dtype);
  const at::Tensor wide_x = x.to(at::kDouble).requires_grad_(true),
                   wide_weight = weight.to(at::kDouble).requires_grad_(true);
  const at::Tensor inverse = at::rsqrt(wide_x.square().mean(1) + 1e-5);
  const at::Tensor y = wide_x * inverse.unsqueeze(1) * wide_weight;
  y.backward(dy.to(at::kDouble));
  in_both_orders([&] {
    const at::Tensor found = poison({rows, width}, dtype), kept = poison({rows}, at::kFloat),
                     dx = poison({rows, width}, dtype), dweight = poison({width}, at::kFloat),
                     partial = poison({kernels().norm_parts(rows), width}, at::kFloat);
    CftTrainNorm work{cft::ops::dtype_of(x), rows,           width,        1e-5f,    data(x),
                      data(weight),          data(found),    floats(kept), data(dy), data(dx),
                      floats(dweight),       floats(partial)};
    run(kernels().norm, work);
    check_close(kept, inverse.detach());
    check_close(found, y.detach());
    run(kernels().norm_backward, work);
    check_close(dx, wide_x.grad());
    check_close(dweight, wide_weight.grad(), std::sqrt(static_cast<double>(rows)));
    const at::Tensor alone = poison({rows, width}, dtype);
    work.dx = data(alone);
    work.dweight = work.partial = nullptr;
    run(kernels().norm_backward, work);
    CHECK(same_bits(alone, dx));
  });
}

void check_swiglu(at::ScalarType dtype, int64_t rows, int64_t width, bool side_by_side) {
  CAPTURE(rows);
  CAPTURE(width);
  CAPTURE(side_by_side);
  const at::Tensor both = random({rows, 2 * width}, 4, dtype) * 4, d_act = random({rows, width}, 5, dtype);
  const at::Tensor gate = side_by_side ? both.narrow(1, 0, width) : both.narrow(1, 0, width).contiguous();
  const at::Tensor up =
      side_by_side ? both.narrow(1, width, width) : both.narrow(1, width, width).contiguous();
  const at::Tensor wide_gate = gate.to(at::kDouble).requires_grad_(true),
                   wide_up = up.to(at::kDouble).requires_grad_(true);
  const at::Tensor act = at::silu(wide_gate) * wide_up;
  act.backward(d_act.to(at::kDouble));
  in_both_orders([&] {
    const at::Tensor found = poison({rows, width}, dtype), d_both = poison({rows, 2 * width}, dtype);
    CftTrainSwiglu work{};
    work.dtype = cft::ops::dtype_of(both);
    work.rows = rows;
    work.width = width;
    work.gate = data(gate);
    work.up = data(up);
    work.stride = gate.stride(0);
    work.act = data(found);
    work.d_act = data(d_act);
    work.d_gate = data(d_both);
    work.d_up = data(d_both.narrow(1, width, width));
    work.d_stride = 2 * width;
    run(kernels().swiglu, work);
    check_close(found, act.detach());
    run(kernels().swiglu_backward, work);
    check_close(d_both.narrow(1, 0, width), wide_gate.grad());
    check_close(d_both.narrow(1, width, width), wide_up.grad());
  });
}

void check_rope(at::ScalarType dtype, int64_t heads, int64_t d) {
  CAPTURE(heads);
  CAPTURE(d);
  const int64_t rows = 5, half = d / 2;
  const at::Tensor positions = at::tensor({0, 7, 2, 2, 11}, at::kLong).to(place.device);
  const at::Tensor angles = random({12, half}, 6) * 3, cos = angles.cos(), sin = angles.sin();
  const at::Tensor x = random({rows, heads, d}, 7, dtype);
  const at::Tensor c = cos.index_select(0, positions).unsqueeze(1).to(at::kDouble),
                   s = sin.index_select(0, positions).unsqueeze(1).to(at::kDouble);
  const auto rotate = [&](const at::Tensor& all, const at::Tensor& sines) {
    const at::Tensor a = all.narrow(2, 0, half).to(at::kDouble),
                     b = all.narrow(2, half, half).to(at::kDouble);
    return at::cat({a * c - b * sines, b * c + a * sines}, 2);
  };
  in_both_orders([&] {
    // Among other columns, as queries lie beside keys; in place forwards, from one place to another back.
    const at::Tensor beside = random({rows, heads * d + 16}, 8, dtype), untouched = beside.clone();
    const at::Tensor place = beside.narrow(1, 0, heads * d);
    place.copy_(x.reshape({rows, heads * d}));
    CftTrainRope work{};
    work.dtype = cft::ops::dtype_of(x);
    work.rows = rows;
    work.heads = heads;
    work.head_dim = d;
    work.x = work.y = data(place);
    work.x_stride = work.y_stride = beside.stride(0);
    work.positions = positions.const_data_ptr<int64_t>();
    work.cos = floats(cos);
    work.sin = floats(sin);
    run(kernels().rope, work);
    check_close(place.reshape({rows, heads, d}), rotate(x, s));
    CHECK(at::equal(beside.narrow(1, heads * d, 16), untouched.narrow(1, heads * d, 16)));
    const at::Tensor back = poison({rows, heads, d}, dtype);
    work.x = data(x);
    work.x_stride = work.y_stride = heads * d;
    work.y = data(back);
    work.back = 1;
    run(kernels().rope, work);
    check_close(back, rotate(x, -s));
  });
}

struct LossCase {
  at::Tensor logits, targets, weights;
};

LossCase loss_case(int64_t vocab, at::ScalarType dtype) {
  return {(random({3, vocab}, 9) * 5).to(dtype),
          at::tensor({vocab / 2, vocab - 1, int64_t{0}}, at::kLong).to(place.device),
          at::tensor({0.5f, 0.25f, 2.0f}).to(place.device)};
}

at::Tensor run_loss(const LossCase& c, const at::Tensor& logits, const at::Tensor& slopes) {
  const at::Tensor nll = poison({c.logits.size(0)}, at::kFloat);
  const CftTrainLoss work{cft::ops::dtype_of(logits),
                          cft::ops::dtype_of(slopes),
                          logits.size(0),
                          logits.size(1),
                          data(logits),
                          data(slopes),
                          c.targets.const_data_ptr<int64_t>(),
                          floats(c.weights),
                          floats(nll)};
  run(kernels().loss, work);
  return nll;
}

void compare_norms() {
  for (const at::ScalarType dtype : kDtypes) {
    for (const int64_t width : {1, 7, 33, 64, 65, 100, 128, 576}) check_norm(dtype, 5, width);
    check_norm(dtype, 1, 8);
    check_norm(dtype, 600, 16);   // more rows than parts
    check_norm(dtype, 530, 130);  // a block for each row
  }
  CftTrainNorm none{};
  none.width = 8;
  run(kernels().norm, none);
  run(kernels().norm_backward, none);
}

void compare_swiglu() {
  for (const at::ScalarType dtype : kDtypes)
    for (const bool side_by_side : {false, true})
      for (const int64_t width : {1, 19, 40, 2056}) check_swiglu(dtype, 3, width, side_by_side);
}

void compare_rope() {
  for (const at::ScalarType dtype : kDtypes) {
    check_rope(dtype, 3, 12);
    check_rope(dtype, 1, 2);
    check_rope(dtype, 2, 64);
    check_rope(dtype, 40, 16);
  }
}

void compare_dropout() {
  const uint32_t key = 77;
  for (const int64_t width : {13, 64}) {
    const at::Tensor numbers = at::tensor({int64_t{3}, int64_t{0}, int64_t{1} << 40}, at::kLong);
    const at::Tensor numbers_there = numbers.to(place.device);
    const at::Tensor x = random({3, width}, 10), expected = x.cpu().clone();
    for (int64_t r = 0; r < 3; ++r)
      cft::cpu::train_kernels().dropout(floats(expected) + r * width, width, key,
                                        static_cast<uint64_t>(numbers[r].item<int64_t>() * width), 0.3f);
    for (const at::ScalarType dtype : kDtypes) {
      const at::Tensor in = x.to(dtype), y = poison({3, width}, dtype);
      CftTrainDropout work{cft::ops::dtype_of(in),
                           3,
                           width,
                           data(in),
                           data(y),
                           numbers_there.const_data_ptr<int64_t>(),
                           key,
                           0.3f};
      run(kernels().dropout, work);
      check_close(y.cpu(), expected.to(dtype));
      CHECK(at::equal(y.eq(0).cpu(), expected.eq(0)));
      CHECK(y.eq(0).any().item<bool>());
    }
  }
}

void compare_loss() {
  for (const at::ScalarType dtype : kDtypes) {
    for (const int64_t vocab : {1, 67, 1003, 8200}) {
      const LossCase c = loss_case(vocab, dtype);
      const at::Tensor wide = c.logits.to(at::kDouble).requires_grad_(true);
      const at::Tensor losses = at::cross_entropy_loss(wide, c.targets, {}, at::Reduction::None);
      (losses * c.weights.to(at::kDouble)).sum().backward();
      in_both_orders([&] {
        const at::Tensor in_place = c.logits.clone();
        const at::Tensor nll = run_loss(c, in_place, in_place);
        CHECK(at::allclose(nll.to(at::kDouble), losses.detach(), 1e-5, 1e-5));
        check_close(in_place, wide.grad(), dtype == at::kFloat ? 1 : 1e-2);
      });
      if (dtype != at::kFloat) continue;
      const at::Tensor half = poison({3, vocab}, at::kBFloat16);
      CHECK(at::allclose(run_loss(c, c.logits, half).to(at::kDouble), losses.detach(), 1e-5, 1e-5));
      check_close(half, wide.grad(), 1e-2);
    }
  }
}

void compare_bad_logits() {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const at::ScalarType dtype : kDtypes) {
    for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
      LossCase c = loss_case(1003, dtype);
      c.logits[1].fill_(bad);
      c.logits[2].fill_(0);
      c.logits[2][7].fill_(bad);
      c.logits[0][3].fill_(-infinity);
      const at::Tensor slopes = c.logits.clone(), nll = run_loss(c, slopes, slopes);
      CHECK(std::isfinite(nll[0].item<float>()));
      CHECK(slopes[0][3].item<float>() == 0.0f);
      CHECK(!std::isfinite(nll[1].item<float>()));
      CHECK(slopes[1].isnan().all().item<bool>());
      CHECK(std::isfinite(nll[2].item<float>()) == (bad == -infinity));
      CHECK(slopes[2].isnan().all().item<bool>() == (bad != -infinity));
    }
  }
}

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

TEST_CASE("emulated RMSNorm of training equals autograd in doubles, forward and backward") {
  compare_norms();
}

TEST_CASE("emulated SwiGLU of training equals autograd in doubles, forward and backward") {
  compare_swiglu();
}

TEST_CASE("emulated rotary embedding of training turns and turns back") { compare_rope(); }

TEST_CASE("emulated dropout of training is the CPU's, whatever rows are beside") { compare_dropout(); }

TEST_CASE("emulated cross-entropy of training equals autograd in doubles") { compare_loss(); }

TEST_CASE(
    "emulated cross-entropy of training: what is not finite is not hidden, a masked logit is no error") {
  compare_bad_logits();
}

TEST_CASE("emulated AdamW is the CPU's kernel, bit for bit where that rounds once, stochastic rounding too") {
  compare_adamw();
}

TEST_CASE("emulated AdamW: gradients in bf16 and none at all; a scale that is not finite changes nothing") {
  compare_gradients();
}

TEST_CASE("emulated global norm and clipping are torch.nn.utils.clip_grad_norm_'s") { compare_clipping(); }

#ifdef CFT_CUDA
namespace {

// Runs a comparison on the GPU, where there is one.
void on_gpu(void (*compare)()) {
  if (c10::cuda::device_count() == 0) {
    MESSAGE("no GPU: nothing compared");
    return;
  }
  place = {at::Device(at::kCUDA, 0), &cft::cuda_train_device()};
  compare();
  place = {};
}

}  // namespace

TEST_CASE("CUDA: RMSNorm of training equals autograd in doubles, forward and backward") {
  on_gpu(compare_norms);
}

TEST_CASE("CUDA: SwiGLU of training equals autograd in doubles, forward and backward") {
  on_gpu(compare_swiglu);
}

TEST_CASE("CUDA: rotary embedding of training turns and turns back") { on_gpu(compare_rope); }

TEST_CASE("CUDA: dropout of training is the CPU's, whatever rows are beside") { on_gpu(compare_dropout); }

TEST_CASE("CUDA: cross-entropy of training equals autograd in doubles") { on_gpu(compare_loss); }

TEST_CASE("CUDA: cross-entropy of training: what is not finite is not hidden, a masked logit is no error") {
  on_gpu(compare_bad_logits);
}

TEST_CASE("CUDA: AdamW is the CPU's kernel, bit for bit where that rounds once, stochastic rounding too") {
  on_gpu(compare_adamw);
}

TEST_CASE("CUDA: AdamW: gradients in bf16 and none at all; a scale that is not finite changes nothing") {
  on_gpu(compare_gradients);
}

TEST_CASE("CUDA: global norm and clipping are torch.nn.utils.clip_grad_norm_'s") { on_gpu(compare_clipping); }
#endif
