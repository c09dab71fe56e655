// Training on a device: the kernels of native/kernels/train.h as a table (those that nvcc compiled, or in the
// tests the same sources under the emulator), and differentiable operations made of them.
#pragma once
#include <ATen/ATen.h>

#include <tuple>

#include "kernels/train.h"

namespace cft {

// Sequences of one packed batch, for attention.
struct PackedSequences {
  at::Tensor starts;  // (S + 1) int32 on the device
  int64_t longest;
  int64_t window;  // key j is seen by query i where i - window < j <= i; 0 = all before it
};

struct AttentionResult {
  at::Tensor out, log_sums, random_state, unused;  // out: as the queries
};

struct TrainDevice {
  int64_t (*norm_parts)(int64_t rows);
  int64_t (*squares_parts)(int64_t count);
  int (*norm)(const CftTrainNorm*, void*);
  int (*norm_backward)(const CftTrainNorm*, void*);
  int (*swiglu)(const CftTrainSwiglu*, void*);
  int (*swiglu_backward)(const CftTrainSwiglu*, void*);
  int (*rope)(const CftTrainRope*, void*);
  int (*dropout)(const CftTrainDropout*, void*);
  int (*loss)(const CftTrainLoss*, void*);
  int (*adamw)(const CftTrainAdamW*, void*);
  int (*squares)(const CftTrainSquares*, void*);
  int (*clip)(const CftTrainClip*, void*);
  void* (*stream)(at::Device);
  // Causal attention over packed sequences: q (N, heads, d), k and v (N, kv_heads, d). The first says whether
  // it takes such queries.
  bool (*attends)(const at::Tensor& q);
  AttentionResult (*attention)(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const PackedSequences&);
  std::tuple<at::Tensor, at::Tensor, at::Tensor> (*attention_backward)(
      const at::Tensor& d_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
      const AttentionResult&, const PackedSequences&);
};

#ifdef CFT_CUDA
const TrainDevice& cuda_train_device();
#endif

// The table for models on this device: null on the CPU, which has passes of its own.
const TrainDevice* train_device(at::Device device);

namespace ops {

// One operation of the table on tensors of one device; throws Error ERR_CFT_INTERNAL where it was refused.
template <class Work>
void launch(const TrainDevice& device, int (*kernel)(const Work*, void*), const Work& work, at::Device where,
            const char* name);

// fp32 and bf16 only.
CftDtype dtype_of(const at::Tensor& x);

// x (N, units * width) in units of weight (width), each normed by itself; rounded as separate operations do.
at::Tensor train_rms_norm(const TrainDevice& device, const at::Tensor& x, const at::Tensor& weight,
                          double eps);

// silu(gate) * up, both (N, width).
at::Tensor train_swiglu(const TrainDevice& device, const at::Tensor& gate, const at::Tensor& up);

// Rotates the heads of x (N, heads * head_dim) IN PLACE and returns it. positions (N) int64, cos and sin
// (positions, head_dim / 2) fp32.
at::Tensor train_rope(const TrainDevice& device, const at::Tensor& x, const at::Tensor& positions,
                      const at::Tensor& cos, const at::Tensor& sin);

// x (N, width) times 0 or 1 / (1 - rate), by (key, number of the row, column) alone; numbers (N) int64.
at::Tensor train_dropout(const TrainDevice& device, const at::Tensor& x, const at::Tensor& numbers,
                         uint32_t key, double rate);

// As in the table, differentiable: (N, heads, d).
at::Tensor packed_attention(const TrainDevice& device, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const PackedSequences& sequences);

}  // namespace ops
}  // namespace cft
