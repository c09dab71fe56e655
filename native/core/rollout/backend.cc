#include "core/rollout/backend.h"

#include "core/errors.h"
#include "core/host_memory.h"
#include "core/rollout/cpu/cpu_backend.h"
#include "core/rollout/cpu/packed_model.h"

#ifdef CFT_CUDA
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>
#endif

namespace cft {
namespace {

int64_t free_device_bytes([[maybe_unused]] at::Device device) {
#ifdef CFT_CUDA
  const c10::cuda::CUDAGuard guard(device);
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) == cudaSuccess) return static_cast<int64_t>(free);
#endif
  return int64_t{4} << 30;
}

}  // namespace

std::unique_ptr<Backend> make_backend(Model& model, int64_t budget_bytes) {
  const bool on_cpu = model.device().is_cpu();
  int64_t free = on_cpu ? free_host_bytes() : free_device_bytes(model.device());
  // Packing doubles the weights; where that does not fit, libtorch's operations read them as they are.
  const bool packs = on_cpu && (model.packed() || cpu::PackedModel::bytes_for(model) < free - free / 8);
  if (budget_bytes <= 0) {
    if (packs && !model.packed()) free -= cpu::PackedModel::bytes_for(model);
    // Half: other engines, the training after it and other processes want some, too.
    budget_bytes = free / 2;
  }
  if (budget_bytes <= 0) {
    throw Error("ERR_CFT_OUT_OF_MEMORY", "no memory is left for keys and values beside the model's weights");
  }
  if (packs) return std::make_unique<cpu::CpuBackend>(model, budget_bytes);
  return make_reference_backend(model, budget_bytes);
}

}  // namespace cft
