// For CPUs without AVX2; also what the others are compared with in the tests.
#include "core/ops/cpu/kernels_impl.h"

namespace cft::cpu {

extern const Kernels kGenericKernels;
const Kernels kGenericKernels = make_kernels("generic");

}  // namespace cft::cpu
