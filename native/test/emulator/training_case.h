// What the tests of training's kernels share: where they run, random tensors, comparisons. Each file that
// includes it has a place of its own.
#pragma once
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <doctest.h>

#include <cstring>
#include <limits>

#include "test/emulator/emulated_training.h"
#include "test/emulator/emulator.h"

namespace {

using emulator::Order;

constexpr at::ScalarType kDtypes[] = {at::kFloat, at::kBFloat16};

emulated::Place place;

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

}  // namespace
