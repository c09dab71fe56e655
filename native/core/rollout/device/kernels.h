// The kernels of a decode step for one dtype, as a table: those that nvcc compiled, or in the tests the same
// sources under the emulator. Signatures are those of native/kernels/decode.h.
#pragma once
#include <ATen/ATen.h>

#include "kernels/decode.h"

namespace cft {

struct DecodeKernels {
  int (*refill_slots)(const CftSlotRecord*, int32_t, const CftDecodeState*, void*);
  int (*begin_step)(const CftDecodeState*, const CftBeginStep*, void*);
  int (*split_qkv)(const CftDecodeState*, const CftLayerCache*, const CftSplitQkv*, void*);
  int (*trunk_attention)(const CftDecodeState*, const CftLayerCache*, const CftAttention*, void*);
  int (*suffix_attention)(const CftDecodeState*, const CftLayerCache*, const CftAttention*, void*);
  int (*swiglu)(const void*, void*, int64_t, int64_t, void*);
  int (*rms_norm)(const void*, const void*, void*, int64_t, int64_t, float, void*);
  int (*rms_norm_add)(const void*, const void*, void*, int64_t, int64_t, float, void*);
  int (*add_rms_norm)(const void*, void*, const void*, void*, int64_t, int64_t, float, void*);
  int (*argmax)(const CftDecodeState*, const CftEndStep*, void*);
  int (*advance)(const CftDecodeState*, const CftEndStep*, void*);
  int (*argmax_advance)(const CftDecodeState*, const CftEndStep*, void*);
  int32_t (*trunk_tile_rows)(int32_t heads, int32_t kv_heads);
  int64_t (*argmax_blocks)(int64_t vocab);
};

// Throws Error ERR_CFT_INTERNAL where a launch was refused (a cudaError_t other than 0).
void check_launch(int status, const char* kernel);

#ifdef CFT_CUDA
// Null where there are none for this dtype.
const DecodeKernels* cuda_kernels(at::ScalarType dtype);
#endif

}  // namespace cft
