// The CUDA kernel of native/kernels/rms_norm.cuh, run under the emulator, against libtorch.
#include "kernels/rms_norm.cuh"

#include <ATen/ATen.h>
#include <doctest.h>

#include <limits>

namespace {

using cft::kernels::Bf16;
using emulator::Order;

struct Result {
  at::Tensor y, residual;
};

// What the separate operations give.
Result reference(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight, double eps) {
  const at::Tensor sum = residual + x;
  const at::Tensor wide = sum.to(at::kDouble);
  const at::Tensor scale = at::rsqrt(wide.square().mean(-1, true) + eps);
  return {(wide * scale).to(x.scalar_type()) * weight, sum};
}

template <class T, int N>
Result emulated(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight, double eps,
                Order order) {
  Result out{at::full_like(x, std::numeric_limits<double>::quiet_NaN()), residual.clone()};
  const int threads = cft::kernels::add_rms_norm_threads(x.size(1) / N);
  emulator::launch({static_cast<unsigned>(x.size(0))}, {static_cast<unsigned>(threads)},
                   threads / 32 * sizeof(float), order, [&] {
                     cft::kernels::add_rms_norm_kernel<T, N>(static_cast<const T*>(x.const_data_ptr()),
                                                             static_cast<T*>(out.residual.mutable_data_ptr()),
                                                             static_cast<const T*>(weight.const_data_ptr()),
                                                             static_cast<T*>(out.y.mutable_data_ptr()),
                                                             x.size(1), static_cast<float>(eps));
                   });
  return out;
}

template <class T, int N>
void compare(at::ScalarType dtype, int64_t rows, int64_t width) {
  CAPTURE(rows);
  CAPTURE(width);
  const double eps = 1e-5;
  const at::Tensor x = at::randn({rows, width}).to(dtype), residual = at::randn({rows, width}).to(dtype),
                   weight = at::randn({width}).to(dtype);
  const Result expected = reference(x, residual, weight, eps);
  // bf16 keeps 8 bits: the scale's last digit may tip a rounding, once before the weight and once after it.
  const double relative = dtype == at::kFloat ? 2e-6 : 1.0 / 64;
  for (const Order order : {Order::kForward, Order::kBackward}) {
    const Result found = emulated<T, N>(x, residual, weight, eps, order);
    CHECK(at::equal(found.residual, expected.residual));
    CHECK(at::allclose(found.y.to(at::kDouble), expected.y.to(at::kDouble), relative, 1e-7));
    if (dtype == at::kBFloat16) CHECK(found.y.eq(expected.y).to(at::kDouble).mean().item<double>() > 0.98);
  }
}

}  // namespace

TEST_CASE("emulated add_rms_norm equals libtorch at odd sizes, fp32 and bf16") {
  at::manual_seed(7);
  for (const int64_t width : {1, 7, 31, 32, 33, 576, 1000, 4097}) {
    compare<float, 1>(at::kFloat, 3, width);
    compare<Bf16, 1>(at::kBFloat16, 3, width);
  }
  for (const int64_t width : {4, 128, 132, 4096 + 4}) compare<float, 4>(at::kFloat, 2, width);
  for (const int64_t width : {8, 256, 264, 8192 + 8}) compare<Bf16, 8>(at::kBFloat16, 2, width);
}

TEST_CASE("emulated add_rms_norm: no rows, and a row of zeros") {
  compare<float, 1>(at::kFloat, 0, 5);
  const at::Tensor zeros = at::zeros({1, 40}), weight = at::ones({40});
  CHECK(at::equal(emulated<float, 1>(zeros, zeros, weight, 1e-6, Order::kForward).y, zeros));
}

TEST_CASE("emulated bf16 rounds as libtorch does") {
  const at::Tensor values =
      at::cat({at::randn({4096}) * 1e3, at::tensor({0.0f, -0.0f, 1.00390625f, 1.01171875f, 3.4e38f}),
               at::full({1}, std::numeric_limits<float>::infinity())});
  const at::Tensor expected = values.to(at::kBFloat16);
  const auto* bits = static_cast<const uint16_t*>(expected.const_data_ptr());
  int64_t different = 0;
  for (int64_t i = 0; i < values.numel(); ++i)
    different += cft::kernels::from_float<Bf16>(values.const_data_ptr<float>()[i]).bits != bits[i];
  CHECK(different == 0);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(cft::kernels::to_float(cft::kernels::from_float<Bf16>(nan))));
}

TEST_CASE("emulator: threads that wait at different barriers are an error, not a hang") {
  CHECK_THROWS_WITH(emulator::launch({1}, {64}, 0, Order::kForward,
                                     [] {
                                       if (threadIdx.x < 32) __syncthreads();
                                       if (threadIdx.x == 40) __syncwarp();
                                       if (threadIdx.x == 41) __syncthreads();
                                     }),
                    "the threads of a block wait at different barriers");
}

TEST_CASE("emulator: shared memory starts as NaN, shuffles and atomics work") {
  std::vector<float> sums(2, 0.0f);
  float first = 0;
  emulator::launch({2}, {64}, sizeof(float), Order::kBackward, [&] {
    CFT_DYNAMIC_SHARED(float, shared);
    if (threadIdx.x == 0) first = shared[0];
    const float from_left = __shfl_down_sync(~0u, static_cast<float>(threadIdx.x), 1);
    atomicAdd(&sums[blockIdx.x], from_left);
  });
  CHECK(std::isnan(first));
  // 1..31 and 31 (no lane to its right keeps its own), then 33..63 and 63.
  CHECK(sums[0] == 496 + 31 + 1488 + 63);
  CHECK(sums[1] == sums[0]);
}
