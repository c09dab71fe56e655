#include "core/ops/cpu/kernels.h"

#include <cstdlib>
#include <string_view>

namespace cft::cpu {

extern const Kernels kGenericKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels, kAvx512Kernels;
#endif

const Kernels* kernels_named(const char* name) {
  const std::string_view wanted(name);
  if (wanted == "generic") return &kGenericKernels;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (wanted == "avx2" && avx2) return &kAvx2Kernels;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (wanted == "avx512" && avx2 && avx512) return &kAvx512Kernels;
#endif
  return nullptr;
}

const Kernels& kernels() {
  static const Kernels& chosen = [&]() -> const Kernels& {
    if (const char* name = std::getenv("CFT_CPU_KERNELS")) {
      if (const Kernels* named = kernels_named(name)) return *named;
    }
    for (const char* name : {"avx512", "avx2"}) {
      if (const Kernels* best = kernels_named(name)) return *best;
    }
    return kGenericKernels;
  }();
  return chosen;
}

}  // namespace cft::cpu
