#include "core/rollout/device/kernels.h"

#include "core/errors.h"
#include "kernels/rms_norm.h"

namespace cft {

void check_launch(int status, const char* kernel) {
  if (status == 0) return;
  throw Error("ERR_CFT_INTERNAL", std::string("the kernel ") + kernel +
                                      " could not be launched: CUDA error " + std::to_string(status));
}

#ifdef CFT_CUDA
const DecodeKernels* cuda_kernels(at::ScalarType dtype) {
  static const DecodeKernels wide{cft_refill_slots,
                                  cft_begin_step_float32,
                                  cft_split_qkv_float32,
                                  cft_trunk_attention_float32,
                                  cft_suffix_attention_float32,
                                  cft_swiglu_float32,
                                  cft_rms_norm_float32,
                                  cft_rms_norm_add_float32,
                                  cft_add_rms_norm_float32,
                                  cft_argmax_float32,
                                  cft_advance,
                                  cft_argmax_advance_float32,
                                  cft_trunk_tile_rows,
                                  cft_argmax_blocks};
  static const DecodeKernels narrow{cft_refill_slots,
                                    cft_begin_step_bfloat16,
                                    cft_split_qkv_bfloat16,
                                    cft_trunk_attention_bfloat16,
                                    cft_suffix_attention_bfloat16,
                                    cft_swiglu_bfloat16,
                                    cft_rms_norm_bfloat16,
                                    cft_rms_norm_add_bfloat16,
                                    cft_add_rms_norm_bfloat16,
                                    cft_argmax_float32,
                                    cft_advance,
                                    cft_argmax_advance_float32,
                                    cft_trunk_tile_rows,
                                    cft_argmax_blocks};
  if (dtype == at::kFloat) return &wide;
  return dtype == at::kBFloat16 ? &narrow : nullptr;
}
#endif

}  // namespace cft
