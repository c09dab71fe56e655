#include "core/model/decoder.h"

#include "core/errors.h"

namespace cft {
namespace {

at::Tensor apply_linear(const ForwardHooks& hooks, const Linear& linear, const at::Tensor& x) {
  if (hooks.linear) return hooks.linear(linear, x);
  return at::linear(x, linear.weight, linear.bias);
}

// Which keys a query may see: (L, L) bool, row i sees columns j with i - window < j <= i.
at::Tensor window_mask(int64_t length, int64_t window, at::Device device) {
  const at::Tensor index = at::arange(length, at::TensorOptions().dtype(at::kLong).device(device));
  const at::Tensor distance = index.unsqueeze(1) - index.unsqueeze(0);
  return distance.ge(0).logical_and(distance.lt(window));
}

// Causal attention inside one sequence. q (L, heads, d), k and v (L, kv_heads, d) -> (L, heads * d).
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window) {
  const int64_t length = q.size(0), group = q.size(1) / k.size(1);
  // (kv_heads * group, L, d): query head h reads key head h / group.
  auto spread = [&](const at::Tensor& x) {
    at::Tensor y = x.transpose(0, 1);  // (kv_heads, L, d)
    if (group > 1) {
      y = y.unsqueeze(1).expand({y.size(0), group, length, y.size(2)}).reshape({-1, length, y.size(2)});
    }
    return y.unsqueeze(0);
  };
  const at::Tensor queries = q.transpose(0, 1).unsqueeze(0);
  const bool masked = window > 0 && window < length;
  const std::optional<at::Tensor> mask =
      masked ? std::optional<at::Tensor>(window_mask(length, window, q.device())) : std::nullopt;
  const at::Tensor out = at::scaled_dot_product_attention(queries, spread(k), spread(v), mask,
                                                          /*dropout_p=*/0.0, /*is_causal=*/!masked);
  return out.squeeze(0).transpose(0, 1).reshape({length, -1});
}

struct Projections {
  at::Tensor q, k, v;  // (N, heads or kv_heads, head_dim), normed and rotated
};

Projections project(const Model& model, const LayerWeights& w, const at::Tensor& x, const RopeTables& rope,
                    const ForwardHooks& hooks) {
  const ModelConfig& c = model.config();
  auto one = [&](const Linear& linear, const at::Tensor& norm, int64_t heads) {
    at::Tensor y = apply_linear(hooks, linear, x);
    if (norm.defined() && c.qk_norm == QkNorm::kProjection) y = rms_norm(y, norm, c.rms_norm_eps);
    y = y.view({x.size(0), heads, c.head_dim});
    if (norm.defined() && c.qk_norm == QkNorm::kHead) y = rms_norm(y, norm, c.rms_norm_eps);
    return y;
  };
  Projections p;
  p.q = apply_rope(one(w.q, w.q_norm, c.heads), rope.cos, rope.sin);
  p.k = apply_rope(one(w.k, w.k_norm, c.kv_heads), rope.cos, rope.sin);
  p.v = one(w.v, at::Tensor(), c.kv_heads);
  return p;
}

}  // namespace

PackedTokens PackedTokens::make(const Model& model, const std::vector<int32_t>& ids,
                                const std::vector<int64_t>& starts) {
  const ModelConfig& c = model.config();
  const int64_t total = static_cast<int64_t>(ids.size());
  if (starts.size() < 2 || starts.front() != 0 || starts.back() != total) {
    throw Error("ERR_CFT_BAD_DATA", "packed sequences: expected starts from 0 to " + std::to_string(total));
  }
  std::vector<int64_t> tokens(ids.size()), positions(ids.size());
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    const int64_t length = starts[s + 1] - starts[s];
    if (length <= 0) {
      throw Error("ERR_CFT_BAD_DATA",
                  "sequence " + std::to_string(s) + ": expected at least one token, found none");
    }
    if (length > c.max_positions) {
      throw Error("ERR_CFT_BAD_DATA", "sequence " + std::to_string(s) + ": expected at most " +
                                          std::to_string(c.max_positions) +
                                          " tokens (the model's positions), found " + std::to_string(length));
    }
    for (int64_t i = 0; i < length; ++i) {
      const int32_t id = ids[starts[s] + i];
      if (id < 0 || id >= c.vocab_size) {
        throw Error("ERR_CFT_BAD_DATA", "token id " + std::to_string(id) + " at position " +
                                            std::to_string(i) + ": expected 0 to " +
                                            std::to_string(c.vocab_size - 1));
      }
      tokens[starts[s] + i] = id;
      positions[starts[s] + i] = i;
    }
  }
  const auto options = at::TensorOptions().dtype(at::kLong);
  PackedTokens packed;
  packed.token_ids = at::from_blob(tokens.data(), {total}, options).clone().to(model.device());
  packed.positions = at::from_blob(positions.data(), {total}, options).clone().to(model.device());
  packed.starts = starts;
  return packed;
}

RopeTables rope_tables(const Rope& rope, const at::Tensor& positions) {
  const int64_t half = static_cast<int64_t>(rope.inverse_frequencies.size());
  const at::Tensor frequencies =
      at::from_blob(const_cast<float*>(rope.inverse_frequencies.data()), {half}, at::kFloat)
          .to(positions.device());
  const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * frequencies.unsqueeze(0);
  const at::Tensor both = at::cat({angles, angles}, 1);
  return {both.cos().mul_(rope.scale), both.sin().mul_(rope.scale)};
}

at::Tensor apply_rope(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor rotated = at::cat({x.narrow(-1, half, half).neg(), x.narrow(-1, 0, half)}, -1);
  return x * cos.unsqueeze(1) + rotated * sin.unsqueeze(1);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  return (wide * scale).to(x.scalar_type()) * weight;
}

at::Tensor forward_hidden(const Model& model, const PackedTokens& tokens, const ForwardHooks& hooks) {
  const ModelConfig& c = model.config();
  std::vector<RopeTables> ropes;
  for (const Rope& rope : c.ropes) {
    RopeTables tables = rope_tables(rope, tokens.positions);
    ropes.push_back({tables.cos.to(model.dtype()), tables.sin.to(model.dtype())});
  }
  const bool pre = c.norm_placement == NormPlacement::kPre;
  at::Tensor x = at::embedding(model.embedding(), tokens.token_ids);  // (N, hidden)
  for (int64_t i = 0; i < c.layers; ++i) {
    const LayerWeights& w = model.layers()[i];
    const at::Tensor attention_in = pre ? rms_norm(x, w.attention_norm, c.rms_norm_eps) : x;
    const Projections p = project(model, w, attention_in, ropes[c.rope_of_layer[i]], hooks);
    if (hooks.keys_values) hooks.keys_values(i, p.k, p.v);
    std::vector<at::Tensor> outputs;
    for (size_t s = 0; s + 1 < tokens.starts.size(); ++s) {
      const int64_t first = tokens.starts[s], length = tokens.starts[s + 1] - first;
      outputs.push_back(attend(p.q.narrow(0, first, length), p.k.narrow(0, first, length),
                               p.v.narrow(0, first, length), c.window_of_layer[i]));
    }
    at::Tensor attention = apply_linear(hooks, w.o, outputs.size() == 1 ? outputs[0] : at::cat(outputs, 0));
    if (!pre) attention = rms_norm(attention, w.attention_norm, c.rms_norm_eps);
    x = x + attention;
    const at::Tensor mlp_in = pre ? rms_norm(x, w.mlp_norm, c.rms_norm_eps) : x;
    at::Tensor mlp = apply_linear(
        hooks, w.down, at::silu(apply_linear(hooks, w.gate, mlp_in)) * apply_linear(hooks, w.up, mlp_in));
    if (!pre) mlp = rms_norm(mlp, w.mlp_norm, c.rms_norm_eps);
    x = x + mlp;
  }
  return rms_norm(x, model.final_norm(), c.rms_norm_eps);
}

at::Tensor forward_head(const Model& model, const at::Tensor& hidden, const ForwardHooks& hooks) {
  return apply_linear(hooks, model.head(), hidden).to(at::kFloat);
}

}  // namespace cft
