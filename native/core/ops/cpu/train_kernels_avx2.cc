#ifdef __AVX2__
#include "core/ops/cpu/train_kernels_impl.h"

namespace cft::cpu {

extern const TrainKernels kAvx2TrainKernels;
const TrainKernels kAvx2TrainKernels = make_train_kernels("avx2");

}  // namespace cft::cpu
#endif
