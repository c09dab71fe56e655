#include "core/measure/device_memory.h"

#ifdef CFT_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#endif

namespace cft {

int64_t peak_device_bytes(at::Device device) {
#ifdef CFT_CUDA
  if (device.is_cuda()) {
    using c10::CachingAllocator::StatType;
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
    return stats.reserved_bytes[static_cast<size_t>(StatType::AGGREGATE)].peak;
  }
#else
  (void)device;
#endif
  return 0;
}

}  // namespace cft
