// How much of a device's memory this process has held.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace cft {

// The most bytes that libtorch's allocator has ever taken from a GPU in this process, freed blocks that it
// keeps for later included: what `torch.cuda.max_memory_reserved` says. All that this package allocates there
// comes from it; the driver's own context does not count. 0 for a CPU.
int64_t peak_device_bytes(at::Device device);

}  // namespace cft
