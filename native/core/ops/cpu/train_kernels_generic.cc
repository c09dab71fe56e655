#include "core/ops/cpu/train_kernels_impl.h"

namespace cft::cpu {

extern const TrainKernels kGenericTrainKernels;
const TrainKernels kGenericTrainKernels = make_train_kernels("generic");

}  // namespace cft::cpu
