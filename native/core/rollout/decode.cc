#include "core/rollout/decode.h"

#include "core/model/decoder.h"

namespace cft {

at::Tensor row_linear(const Linear& linear, const at::Tensor& x) {
  if (x.size(0) <= kMaxRows) return at::linear(x, linear.weight, linear.bias);
  std::vector<at::Tensor> parts;
  for (const at::Tensor& chunk : x.split(kMaxRows))
    parts.push_back(at::linear(chunk, linear.weight, linear.bias));
  return at::cat(parts, 0);
}

at::Tensor decode_rows(const Model& model, const DecodeRows& rows, const AttendRows& attend) {
  const ModelConfig& c = model.config();
  const int64_t padded = rows.token_ids.size(0);
  std::vector<RopeTables> ropes;
  for (const Rope& rope : c.ropes) {
    RopeTables tables = rope_tables(rope, rows.positions);
    ropes.push_back({tables.cos.to(model.dtype()), tables.sin.to(model.dtype())});
  }
  const bool pre = c.norm_placement == NormPlacement::kPre;
  const bool norm_heads = c.qk_norm == QkNorm::kHead, norm_whole = c.qk_norm == QkNorm::kProjection;
  at::Tensor x = at::embedding(model.embedding(), rows.token_ids);  // (B, hidden)
  for (int64_t i = 0; i < c.layers; ++i) {
    const LayerWeights& w = model.layers()[i];
    const at::Tensor qkv = row_linear(w.qkv, pre ? rms_norm(x, w.attention_norm, c.rms_norm_eps) : x);
    const int64_t q_size = c.heads * c.head_dim, kv_size = c.kv_heads * c.head_dim;
    at::Tensor q = qkv.narrow(1, 0, q_size), k = qkv.narrow(1, q_size, kv_size);
    const at::Tensor v = qkv.narrow(1, q_size + kv_size, kv_size);
    if (norm_whole) {
      q = rms_norm(q, w.q_norm, c.rms_norm_eps);
      k = rms_norm(k, w.k_norm, c.rms_norm_eps);
    }
    q = q.reshape({padded, c.heads, c.head_dim});
    k = k.reshape({padded, c.kv_heads, c.head_dim});
    if (norm_heads) {
      q = rms_norm(q, w.q_norm, c.rms_norm_eps);
      k = rms_norm(k, w.k_norm, c.rms_norm_eps);
    }
    const RopeTables& rope = ropes[c.rope_of_layer[i]];
    at::Tensor attention =
        row_linear(w.o, attend(i, apply_rope(q, rope.cos, rope.sin), apply_rope(k, rope.cos, rope.sin),
                               v.reshape({padded, c.kv_heads, c.head_dim})));
    if (!pre) attention = rms_norm(attention, w.attention_norm, c.rms_norm_eps);
    x = x + attention;
    const at::Tensor gate_up = row_linear(w.gate_up, pre ? rms_norm(x, w.mlp_norm, c.rms_norm_eps) : x);
    at::Tensor mlp = row_linear(w.down, at::silu(gate_up.narrow(1, 0, c.intermediate_size)) *
                                            gate_up.narrow(1, c.intermediate_size, c.intermediate_size));
    if (!pre) mlp = rms_norm(mlp, w.mlp_norm, c.rms_norm_eps);
    x = x + mlp;
  }
  const at::Tensor hidden = rms_norm(x, model.final_norm(), c.rms_norm_eps);
  return row_linear(model.head(), hidden).narrow(0, 0, rows.count).to(at::kFloat);
}

}  // namespace cft
