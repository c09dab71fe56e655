#ifdef __AVX512F__
#include "core/ops/cpu/train_kernels_impl.h"

namespace cft::cpu {

extern const TrainKernels kAvx512TrainKernels;
const TrainKernels kAvx512TrainKernels = make_train_kernels("avx512");

}  // namespace cft::cpu
#endif
