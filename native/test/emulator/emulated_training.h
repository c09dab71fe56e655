// Training's kernels under the emulator, in place of a GPU's. Attention, which is libtorch's on CUDA, is
// plain libtorch operations here, in fp32.
#pragma once
#include "core/ops/train_device.h"

namespace emulated {

const cft::TrainDevice& train_device();

// Where a test's kernels run and its tensors lie.
struct Place {
  at::Device device = at::kCPU;
  const cft::TrainDevice* table = &train_device();
};

#ifdef CFT_CUDA
// Runs a comparison with `place` on the GPU, where there is one.
void on_gpu(Place& place, void (*compare)());
#endif

}  // namespace emulated
