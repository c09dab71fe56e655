// Training's kernels under the emulator, in place of a GPU's. Attention, which is libtorch's on CUDA, is
// plain libtorch operations here, in fp32.
#pragma once
#include "core/ops/train_device.h"

namespace emulated {

const cft::TrainDevice& train_device();

}  // namespace emulated
