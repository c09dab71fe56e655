// A device for the rollout engine's device loop that is the CPU: kernels under the emulator, everything at
// once, steps "captured" by keeping what they were made from. Memory starts as NaNs.
#pragma once
#include <memory>

#include "core/rollout/device/device_loop.h"

namespace emulated {

class Runtime : public cft::DeviceRuntime {
 public:
  std::shared_ptr<void> enter() override { return nullptr; }
  void* stream() const override { return nullptr; }
  at::Tensor empty(at::IntArrayRef shape, at::ScalarType dtype) override;
  at::Tensor staging(at::IntArrayRef shape, at::ScalarType dtype) override;
  void synchronize() override { ++synchronized; }
  std::unique_ptr<cft::DeviceGraph> capture(const std::function<void()>& work) override;
  int64_t free_bytes() override { return free; }

  int64_t free = int64_t{1} << 30;
  int64_t largest = INT64_MAX;  // tensors of more elements are refused
  int64_t refuse = -1;          // so many allocations from now one is refused
  int64_t captured = 0, replayed = 0, synchronized = 0;
};

// fp32 or bf16.
const cft::DecodeKernels* kernels(at::ScalarType dtype);

struct Parts : cft::DeviceParts {
  explicit Parts(at::ScalarType dtype) : on(std::make_shared<Runtime>()) {
    kernels = emulated::kernels(dtype);
    runtime = on;
    chunk_positions = 64;
    first_capacity = 16;
  }
  std::shared_ptr<Runtime> on;
};

}  // namespace emulated
