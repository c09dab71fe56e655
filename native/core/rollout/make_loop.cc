#include "core/rollout/make_loop.h"

#include "core/rollout/device/device_loop.h"
#include "core/rollout/engine.h"
#include "core/rollout/host_loop.h"

namespace cft {

std::unique_ptr<DecodeLoop> make_decode_loop(Model& model, const EngineOptions& options,
                                             const EndTokens& end_tokens, BranchQueue& queue) {
  std::shared_ptr<const DeviceParts> device = options.device;
#ifdef CFT_CUDA
  if (!device && !options.reference && model.device().is_cuda()) device = cuda_parts(model);
#endif
  if (device && device_loop_takes(model, *device)) {
    return std::make_unique<DeviceLoop>(model, device, end_tokens, options.max_branches, options.memory_bytes,
                                        queue);
  }
  const int64_t budget = options.memory_bytes;
  auto backend = options.reference ? make_reference_backend(model, budget > 0 ? budget : INT64_MAX / 2)
                                   : make_backend(model, budget);
  return std::make_unique<HostLoop>(model, std::move(backend), end_tokens, options.max_branches, queue);
}

}  // namespace cft
