#include "core/ops/cpu/train_kernels.h"

#include <string_view>

#include "core/ops/cpu/kernels.h"

namespace cft::cpu {

extern const TrainKernels kGenericTrainKernels;
#if defined(__x86_64__)
extern const TrainKernels kAvx2TrainKernels, kAvx512TrainKernels;
#endif

const TrainKernels* train_kernels_named(const char* name) {
  if (kernels_named(name) == nullptr) return nullptr;
#if defined(__x86_64__)
  const std::string_view wanted(name);
  if (wanted == "avx2") return &kAvx2TrainKernels;
  if (wanted == "avx512") return &kAvx512TrainKernels;
#endif
  return &kGenericTrainKernels;
}

const TrainKernels& train_kernels() {
  static const TrainKernels& chosen = *train_kernels_named(kernels().name);
  return chosen;
}

}  // namespace cft::cpu
