#include "core/model/decoder.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <memory>

#include "core/errors.h"
#include "core/ops/train_device.h"

namespace cft {
namespace {

at::Tensor apply_linear(const ForwardHooks& hooks, const Linear& linear, const at::Tensor& x) {
  if (hooks.linear) return hooks.linear(linear, x, hooks.rows);
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

// One forward pass's layers; lives as long as a backward may run them again.
class Layers {
 public:
  Layers(const Model& model, const PackedTokens& tokens, const ForwardHooks& hooks);

  at::Tensor run(int64_t layer, const at::Tensor& x) const;
  // Over the last dimension or, where x is wider than the weight, over each of its parts.
  at::Tensor norm(const at::Tensor& x, const at::Tensor& weight) const;

 private:
  at::Tensor linear(const Linear& linear, const at::Tensor& x) const {
    return apply_linear(hooks_, linear, x);
  }
  // (N, heads, head_dim), normed where `weight` is defined, and rotated.
  at::Tensor rotated(int64_t layer, const Linear& projection, const at::Tensor& weight, int64_t heads,
                     const at::Tensor& x) const;
  at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window) const;

  const Model& model_;
  const PackedTokens tokens_;
  const ForwardHooks hooks_;
  // By Rope: of each row (N, head_dim) in the model's dtype, for kernels of each position
  // (positions, head_dim / 2) in fp32.
  std::vector<RopeTables> ropes_;
  at::Tensor starts_;  // (S + 1) int32 on the device, for kernels
  int64_t longest_ = 0;
};

Layers::Layers(const Model& model, const PackedTokens& tokens, const ForwardHooks& hooks)
    : model_(model), tokens_(tokens), hooks_(hooks) {
  for (size_t s = 0; s + 1 < tokens.starts.size(); ++s)
    longest_ = std::max(longest_, tokens.starts[s + 1] - tokens.starts[s]);
  for (const Rope& rope : model.config().ropes) {
    if (hooks.kernels != nullptr) {
      const RopeTables tables = rope_tables(rope, at::arange(longest_, tokens.positions.options()));
      const int64_t half = tables.cos.size(1) / 2;
      ropes_.push_back(
          {tables.cos.narrow(1, 0, half).contiguous(), tables.sin.narrow(1, 0, half).contiguous()});
    } else {
      const RopeTables tables = rope_tables(rope, tokens.positions);
      ropes_.push_back({tables.cos.to(model.dtype()), tables.sin.to(model.dtype())});
    }
  }
  if (hooks.kernels != nullptr) starts_ = at::tensor(tokens.starts).to(model.device(), at::kInt);
}

at::Tensor Layers::norm(const at::Tensor& x, const at::Tensor& weight) const {
  const double eps = model_.config().rms_norm_eps;
  if (hooks_.kernels != nullptr) return ops::train_rms_norm(*hooks_.kernels, x, weight, eps);
  return rms_norm(x, weight, eps);
}

at::Tensor Layers::rotated(int64_t layer, const Linear& projection, const at::Tensor& weight, int64_t heads,
                           const at::Tensor& x) const {
  const ModelConfig& c = model_.config();
  const RopeTables& rope = ropes_[c.rope_of_layer[layer]];
  const std::vector<int64_t> shape{x.size(0), heads, c.head_dim};
  at::Tensor y = linear(projection, x);
  if (hooks_.kernels != nullptr) {
    if (weight.defined()) y = norm(y, weight);
    return ops::train_rope(*hooks_.kernels, y, tokens_.positions, rope.cos, rope.sin).view(shape);
  }
  if (weight.defined() && c.qk_norm == QkNorm::kProjection) y = norm(y, weight);
  y = y.view(shape);
  if (weight.defined() && c.qk_norm == QkNorm::kHead) y = norm(y, weight);
  return apply_rope(y, rope.cos, rope.sin);
}

at::Tensor Layers::attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             int64_t window) const {
  if (hooks_.kernels != nullptr && hooks_.kernels->attends(q)) {
    const at::Tensor out = ops::packed_attention(*hooks_.kernels, q, k, v, {starts_, longest_, window});
    return out.reshape({q.size(0), -1});
  }
  std::vector<at::Tensor> outputs;
  for (size_t s = 0; s + 1 < tokens_.starts.size(); ++s) {
    const int64_t first = tokens_.starts[s], length = tokens_.starts[s + 1] - first;
    outputs.push_back(
        attend(q.narrow(0, first, length), k.narrow(0, first, length), v.narrow(0, first, length), window));
  }
  return outputs.size() == 1 ? outputs[0] : at::cat(outputs, 0);
}

at::Tensor Layers::run(int64_t layer, const at::Tensor& x) const {
  const ModelConfig& c = model_.config();
  const LayerWeights& w = model_.layers()[layer];
  const bool pre = c.norm_placement == NormPlacement::kPre;
  const at::Tensor input = pre ? norm(x, w.attention_norm) : x;
  const at::Tensor q = rotated(layer, w.q, w.q_norm, c.heads, input);
  const at::Tensor k = rotated(layer, w.k, w.k_norm, c.kv_heads, input);
  const at::Tensor v = linear(w.v, input).view({x.size(0), c.kv_heads, c.head_dim});
  if (hooks_.keys_values) hooks_.keys_values(layer, k, v);
  at::Tensor mixed = linear(w.o, attention(q, k, v, c.window_of_layer[layer]));
  if (!pre) mixed = norm(mixed, w.attention_norm);
  const at::Tensor middle = x + mixed;
  const at::Tensor mlp_in = pre ? norm(middle, w.mlp_norm) : middle;
  const at::Tensor gate = linear(w.gate, mlp_in), up = linear(w.up, mlp_in);
  const at::Tensor act =
      hooks_.kernels != nullptr ? ops::train_swiglu(*hooks_.kernels, gate, up) : at::silu(gate) * up;
  at::Tensor mlp = linear(w.down, act);
  if (!pre) mlp = norm(mlp, w.mlp_norm);
  return middle + mlp;
}

// What runs a layer once more in the backward.
struct Rerun : torch::CustomClassHolder {
  explicit Rerun(std::function<at::Tensor(const at::Tensor&)> layer) : layer(std::move(layer)) {}
  std::function<at::Tensor(const at::Tensor&)> layer;
};

struct Checkpoint : torch::autograd::Function<Checkpoint> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const c10::intrusive_ptr<Rerun>& rerun) {
    context->saved_data["rerun"] = c10::IValue::make_capsule(rerun);
    context->save_for_backward({x});
    return rerun->layer(x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& slopes) {
    const auto rerun = c10::static_intrusive_pointer_cast<Rerun>(context->saved_data["rerun"].toCapsule());
    const at::AutoGradMode grad(true);
    const at::Tensor x = context->get_saved_variables()[0].detach().requires_grad_(true);
    const at::Tensor y = rerun->layer(x);
    torch::autograd::backward({y}, {slopes[0]});
    return {x.grad(), at::Tensor()};
  }
};

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
  const auto layers = std::make_shared<const Layers>(model, tokens, hooks);
  const bool again = hooks.checkpoint && at::GradMode::is_enabled();
  at::Tensor x = at::embedding(model.embedding(), tokens.token_ids);  // (N, hidden)
  for (int64_t i = 0; i < model.config().layers; ++i) {
    if (!again) {
      x = layers->run(i, x);
      continue;
    }
    // Where the embedding is frozen autograd would not come by otherwise.
    if (!x.requires_grad()) x = x.detach().requires_grad_(true);
    x = Checkpoint::apply(x, c10::make_intrusive<Rerun>(
                                 [layers, i](const at::Tensor& input) { return layers->run(i, input); }));
  }
  return layers->norm(x, model.final_norm());
}

at::Tensor forward_head(const Model& model, const at::Tensor& hidden, const ForwardHooks& hooks) {
  return apply_linear(hooks, model.head(), hidden).to(at::kFloat);
}

}  // namespace cft
