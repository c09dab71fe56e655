// What the device loop needs of a device beside kernels and libtorch's operations: a stream of its own,
// staging memory, and steps that are captured once and replayed. On CUDA that is c10's streams and CUDA
// graphs (cuda_runtime.cc); in the tests everything happens at once on the CPU.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <memory>

namespace cft {

class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  virtual void replay() = 0;
};

class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;

  // While the result lives, libtorch's operations of this thread go to the stream, after what the caller's
  // stream has been given so far.
  virtual std::shared_ptr<void> enter() = 0;
  virtual void* stream() const = 0;  // as the kernels take it

  // Memory on the device; throws c10::OutOfMemoryError.
  virtual at::Tensor empty(at::IntArrayRef shape, at::ScalarType dtype) = 0;
  // On the host, for copies that do not wait.
  virtual at::Tensor staging(at::IntArrayRef shape, at::ScalarType dtype) = 0;
  // Waits for all that the stream was given.
  virtual void synchronize() = 0;
  // `work` only launches kernels and out-variants of operations, once before; it is recorded, not run.
  virtual std::unique_ptr<DeviceGraph> capture(const std::function<void()>& work) = 0;
  // What could be allocated now.
  virtual int64_t free_bytes() = 0;
};

#ifdef CFT_CUDA
std::shared_ptr<DeviceRuntime> make_cuda_runtime(at::Device device);
#endif

}  // namespace cft
