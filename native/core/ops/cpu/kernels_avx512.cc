#ifdef __AVX512F__
#include "core/ops/cpu/kernels_impl.h"

namespace cft::cpu {

extern const Kernels kAvx512Kernels;
const Kernels kAvx512Kernels = make_kernels("avx512");

}  // namespace cft::cpu
#endif
