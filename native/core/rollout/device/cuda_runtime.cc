#ifdef CFT_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <map>

#include "core/rollout/device/runtime.h"

namespace cft {
namespace {

// One stream per thread and device: libtorch keeps freed memory apart by stream, so engines that come and go
// should find what their predecessors left. Not the default stream, which cannot be captured.
c10::cuda::CUDAStream stream_of(c10::DeviceIndex device) {
  thread_local std::map<c10::DeviceIndex, c10::cuda::CUDAStream> streams;
  const auto found = streams.find(device);
  if (found != streams.end()) return found->second;
  return streams.emplace(device, c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device))
      .first->second;
}

using GraphPool = decltype(at::cuda::graph_pool_handle());

class CudaGraph : public DeviceGraph {
 public:
  CudaGraph(std::shared_ptr<const GraphPool> pool, const std::function<void()>& work)
      : pool_(std::move(pool)) {
    // Other threads may allocate meanwhile.
    graph_.capture_begin(*pool_, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      // The capture must not stay open; what broke it is the error to report.
      try {
        graph_.capture_end();
      } catch (const std::exception&) {
      }
      throw;
    }
    graph_.capture_end();
  }
  void replay() override { graph_.replay(); }

 private:
  const std::shared_ptr<const GraphPool> pool_;
  at::cuda::CUDAGraph graph_;
};

class CudaRuntime : public DeviceRuntime {
 public:
  explicit CudaRuntime(at::Device device) : device_(device) {}

  std::shared_ptr<void> enter() override {
    const c10::cuda::CUDAStream stream = stream_of(device_.index());
    stream_ = stream.stream();
    const c10::cuda::CUDAGuard guard(device_);
    cudaEvent_t before = nullptr;
    C10_CUDA_CHECK(cudaEventCreateWithFlags(&before, cudaEventDisableTiming));
    const cudaError_t recorded =
        cudaEventRecord(before, c10::cuda::getCurrentCUDAStream(device_.index()).stream());
    const cudaError_t waits = cudaStreamWaitEvent(stream.stream(), before, 0);
    C10_CUDA_CHECK(cudaEventDestroy(before));  // it is kept until the stream has passed it
    C10_CUDA_CHECK(recorded);
    C10_CUDA_CHECK(waits);
    return std::make_shared<c10::cuda::CUDAStreamGuard>(stream);
  }

  void* stream() const override { return stream_; }

  at::Tensor empty(at::IntArrayRef shape, at::ScalarType dtype) override {
    return at::empty(shape, at::TensorOptions().dtype(dtype).device(device_));
  }

  at::Tensor staging(at::IntArrayRef shape, at::ScalarType dtype) override {
    return at::empty(shape, at::TensorOptions().dtype(dtype).pinned_memory(true));
  }

  void synchronize() override { stream_of(device_.index()).synchronize(); }

  std::unique_ptr<DeviceGraph> capture(const std::function<void()>& work) override {
    // Graphs run one after the other, so they may share what libtorch allocates in them. A pool whose graphs
    // are all gone cannot be taken again.
    std::shared_ptr<const GraphPool> pool = pool_.lock();
    if (!pool) pool_ = pool = std::make_shared<const GraphPool>(at::cuda::graph_pool_handle());
    return std::make_unique<CudaGraph>(std::move(pool), work);
  }

  int64_t free_bytes() override {
    const c10::cuda::CUDAGuard guard(device_);
    c10::cuda::CUDACachingAllocator::emptyCache();  // else what other engines gave back does not count
    size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) != cudaSuccess) return int64_t{4} << 30;
    return static_cast<int64_t>(free);
  }

 private:
  const at::Device device_;
  void* stream_ = nullptr;
  std::weak_ptr<const GraphPool> pool_;
};

}  // namespace

std::shared_ptr<DeviceRuntime> make_cuda_runtime(at::Device device) {
  if (!device.has_index()) device = at::Device(at::kCUDA, c10::cuda::current_device());
  return std::make_shared<CudaRuntime>(device);
}

}  // namespace cft
#endif
