#ifdef __AVX2__
#include "core/ops/cpu/kernels_impl.h"

namespace cft::cpu {

extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels = make_kernels("avx2");

}  // namespace cft::cpu
#endif
