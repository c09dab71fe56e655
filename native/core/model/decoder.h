// One decoder for all families: the plain forward pass over packed sequences, made of differentiable libtorch
// operations. Training, prefill, logits and scores use it; it is also the reference that faster paths are
// tested against.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "core/model/model.h"

namespace cft {

struct TrainDevice;

// Sequences laid end to end without padding. Positions restart at 0 in each.
struct PackedTokens {
  at::Tensor token_ids;         // (N) int64 on the model's device
  at::Tensor positions;         // (N) int64
  std::vector<int64_t> starts;  // (S + 1), first 0, last N

  // Checks ids against the vocabulary, lengths against max_positions and that starts ascend strictly from 0
  // to N (no empty sequence); throws Error ERR_CFT_BAD_DATA.
  static PackedTokens make(const Model& model, const std::vector<int32_t>& ids,
                           const std::vector<int64_t>& starts);
};

// What a caller may hang into the forward pass.
struct ForwardHooks {
  // In place of y = x W^T + b; LoRA adds its product here. x is (N, in), `rows` as below.
  std::function<at::Tensor(const Linear&, const at::Tensor& x, const at::Tensor& rows)> linear;
  // Numbers of the rows in their batch, (N) int64 on the model's device: LoRA's dropout depends on them. May
  // be undefined where there is none.
  at::Tensor rows;
  // Sees each layer's keys (after norm and RoPE) and values, both (N, kv_heads, head_dim); prefill keeps
  // them.
  std::function<void(int64_t layer, const at::Tensor& keys, const at::Tensor& values)> keys_values;
  // Runs norms, SwiGLU, rotary embedding and, where it takes the shapes, attention, instead of libtorch's
  // operations. Must outlive the backward pass.
  const TrainDevice* kernels = nullptr;
  // Only the inputs of the layers are kept for a backward, which runs each layer again.
  bool checkpoint = false;
};

// cos and sin of the rotary angles: each (N, head_dim), fp32, halves repeated as in transformers.
struct RopeTables {
  at::Tensor cos, sin;
};
RopeTables rope_tables(const Rope& rope, const at::Tensor& positions);

// x (N, heads, head_dim) rotated by halves; cos and sin as above, in x's dtype.
at::Tensor apply_rope(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

// x / rms(x) * weight over the last dimension, the mean in fp32, result in x's dtype. Differentiable.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

// Hidden states after the final norm: (N, hidden). What the hooks refer to must outlive a backward pass.
at::Tensor forward_hidden(const Model& model, const PackedTokens& tokens, const ForwardHooks& hooks = {});

// fp32 logits (rows, vocab) of hidden states (rows, hidden).
at::Tensor forward_head(const Model& model, const at::Tensor& hidden, const ForwardHooks& hooks = {});

}  // namespace cft
