#include "core/train/body.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "core/model/decoder.h"
#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/rows.h"
#include "core/ops/cpu/train_kernels.h"
#include "core/train/tree_attention.h"

namespace cft {
namespace {

const float* in(const at::Tensor& x) { return x.const_data_ptr<float>(); }
float* out(const at::Tensor& x) { return x.mutable_data_ptr<float>(); }

// x (N, width) in units of as many values as the weight has, each normed by itself; rows of x of any stride.
// Returns (N, width) contiguous; inverse becomes (N, width / unit).
at::Tensor norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::Tensor& inverse) {
  const int64_t rows = x.size(0), width = x.size(1), unit = weight.size(0), stride = x.stride(0);
  const at::Tensor w = weight.to(at::kFloat);
  at::Tensor y = at::empty({rows, width}, x.options());
  inverse = at::empty({rows, width / unit}, x.options());
  cpu::for_rows(rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      cpu::train_kernels().rms_norm(in(x) + r * stride, in(w), out(y) + r * width,
                                    out(inverse) + r * (width / unit), width / unit, unit,
                                    static_cast<float>(eps));
  });
  return y;
}

at::Tensor norm_again(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& inverse) {
  const int64_t width = x.size(1);
  const at::Tensor w = weight.to(at::kFloat);
  at::Tensor y = at::empty_like(x);
  cpu::for_rows(x.size(0), width, [&](int64_t begin, int64_t end) {
    cpu::train_kernels().rms_norm_again(in(x) + begin * width, in(w), in(inverse) + begin,
                                        out(y) + begin * width, end - begin, width);
  });
  return y;
}

// d_x (N, width) rows of any stride, overwritten or (add) added to; d_y contiguous, x of any stride.
void norm_backward(const at::Tensor& d_y, const at::Tensor& x, const at::Tensor& weight,
                   const at::Tensor& inverse, const at::Tensor& d_x, bool add, Gradients& gradients) {
  const int64_t rows = x.size(0), width = x.size(1), unit = weight.size(0), units = width / unit;
  const at::Tensor w = weight.to(at::kFloat);
  // A sum per stretch, added in order: the same bits for the same number of threads.
  const int64_t stretches = std::clamp<int64_t>(rows * width / 32'768, 1, at::get_num_threads());
  const bool wanted = gradients.has(weight);
  const at::Tensor sums = wanted ? at::zeros({stretches, unit}, x.options()) : at::Tensor();
  at::parallel_for(0, stretches, 1, [&](int64_t first, int64_t last) {
    for (int64_t s = first; s < last; ++s) {
      for (int64_t r = rows * s / stretches; r < rows * (s + 1) / stretches; ++r)
        cpu::train_kernels().rms_norm_backward(in(d_y) + r * width, in(x) + r * x.stride(0), in(w),
                                               in(inverse) + r * units, out(d_x) + r * d_x.stride(0),
                                               wanted ? out(sums) + s * unit : nullptr, units, unit, add);
    }
  });
  if (wanted) gradients.add(weight, sums.sum(0));
}

LinearGroup one(const Linear& linear) { return {linear.weight, linear.bias, {&linear}}; }

LinearGroup all_of(const Linear& fused, std::vector<const Linear*> parts) {
  return {fused.weight, fused.bias, std::move(parts)};
}

LinearGroup keys_and_values(const LayerWeights& w) {
  const int64_t first = w.q.weight.size(0), count = w.qkv.weight.size(0) - first;
  return {w.qkv.weight.narrow(0, first, count),
          w.qkv.bias.defined() ? w.qkv.bias.narrow(0, first, count) : at::Tensor(),
          {&w.k, &w.v}};
}

}  // namespace

Body::Body(const Model& model, const Linears& linears, const PrefixTree& tree,
           const std::function<void()>& check, BodyOptions options)
    : model_(model), linears_(linears), tree_(tree), check_(check), options_(options) {
  query_rows_ = at::tensor(tree.query_rows, at::kLong);
  all_rows_ = tree.query_rows.size() == tree.token_ids.size();
  for (const int64_t row : tree.query_rows) query_keys_.push_back(tree.row_keys[row]);
  const int64_t positions = *std::ranges::max_element(tree.positions) + 1;
  for (const Rope& rope : model.config().ropes) {
    const RopeTables tables = rope_tables(rope, at::arange(positions, at::kLong));
    const int64_t half = tables.cos.size(1) / 2;
    const at::Tensor sin = tables.sin.narrow(1, 0, half).contiguous();
    rotations_.push_back({tables.cos.narrow(1, 0, half).contiguous(), sin, sin.neg()});
  }
}

bool Body::pruned(int64_t layer) const {
  return options_.prune_last_layer && !all_rows_ && layer + 1 == model_.config().layers;
}

// Rotates the heads of x (R or Q, heads * d), rows of any stride, in place.
void Body::rotate(const at::Tensor& x, int64_t layer, bool queries, bool back) const {
  const ModelConfig& c = model_.config();
  const Rotation& rotation = rotations_[c.rope_of_layer[layer]];
  const int64_t d = c.head_dim, heads = x.size(1) / d;
  const bool selected = queries && pruned(layer);
  const at::Tensor& sin = back ? rotation.negative_sin : rotation.sin;
  cpu::for_rows(x.size(0), x.size(1), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t offset = tree_.positions[selected ? tree_.query_rows[r] : r] * (d / 2);
      for (int64_t h = 0; h < heads; ++h)
        cpu::kernels().rotate(out(x) + r * x.stride(0) + h * d, in(rotation.cos) + offset, in(sin) + offset,
                              d);
    }
  });
}

at::Tensor Body::forward_layer(int64_t layer, const at::Tensor& x, Tape& tape) const {
  check_();
  const ModelConfig& c = model_.config();
  const LayerWeights& w = model_.layers()[layer];
  const bool pre = c.norm_placement == NormPlacement::kPre, last = pruned(layer);
  const int64_t q_size = c.heads * c.head_dim, kv_size = c.kv_heads * c.head_dim;
  const RowNumbers& rows = rows_of(layer);
  tape.x = x;

  const at::Tensor input = pre ? norm(x, w.attention_norm, c.rms_norm_eps, tape.attention_inverse) : x;
  at::Tensor keys_values;
  if (last) {
    tape.q = linears_.forward(one(w.q), input.index_select(0, query_rows_), rows);
    keys_values = linears_.forward(keys_and_values(w), input, tree_.row_keys);
  } else {
    const at::Tensor qkv = linears_.forward(all_of(w.qkv, {&w.q, &w.k, &w.v}), input, rows);
    tape.q = qkv.narrow(1, 0, q_size);
    keys_values = qkv.narrow(1, q_size, 2 * kv_size);
  }
  tape.k = keys_values.narrow(1, 0, kv_size);
  tape.v = keys_values.narrow(1, kv_size, kv_size);
  if (c.qk_norm != QkNorm::kNone) {
    tape.raw_q = tape.q;
    tape.raw_k = tape.k;
    tape.q = norm(tape.raw_q, w.q_norm, c.rms_norm_eps, tape.q_inverse);
    tape.k = norm(tape.raw_k, w.k_norm, c.rms_norm_eps, tape.k_inverse);
  }
  rotate(tape.q, layer, true, false);
  rotate(tape.k, layer, false, false);
  const TreeAttention attention{tree_, last, c.heads, c.kv_heads, c.head_dim, c.window_of_layer[layer]};
  tape.attended = attention.forward(tape.q, tape.k, tape.v, tape.log_sums);

  const at::Tensor residual = last ? x.index_select(0, query_rows_) : x;
  tape.projected = linears_.forward(one(w.o), tape.attended, rows);
  tape.middle = pre ? std::move(tape.projected)
                    : norm(tape.projected, w.attention_norm, c.rms_norm_eps, tape.attention_inverse);
  tape.middle.add_(residual);

  const at::Tensor mlp_input =
      pre ? norm(tape.middle, w.mlp_norm, c.rms_norm_eps, tape.mlp_inverse) : tape.middle;
  tape.gate_up = linears_.forward(all_of(w.gate_up, {&w.gate, &w.up}), mlp_input, rows);
  const int64_t width = c.intermediate_size;
  const at::Tensor act = at::empty({tape.gate_up.size(0), width}, x.options());
  cpu::for_rows(act.size(0), width, [&](int64_t begin, int64_t end) {
    cpu::train_kernels().swiglu(in(tape.gate_up) + begin * 2 * width, out(act) + begin * width, end - begin,
                                width);
  });
  tape.down = linears_.forward(one(w.down), act, rows);
  at::Tensor y = pre ? std::move(tape.down) : norm(tape.down, w.mlp_norm, c.rms_norm_eps, tape.mlp_inverse);
  return y.add_(tape.middle);
}

// From the gradient of the attention's output to that of the attention's input; undefined where nobody needs
// it.
at::Tensor Body::attention_gradient(int64_t layer, Tape& tape, const at::Tensor& d_attended,
                                    Gradients& gradients) const {
  const ModelConfig& c = model_.config();
  const LayerWeights& w = model_.layers()[layer];
  const bool pre = c.norm_placement == NormPlacement::kPre, last = pruned(layer);
  const int64_t q_size = c.heads * c.head_dim, kv_size = c.kv_heads * c.head_dim;
  const RowNumbers& rows = rows_of(layer);
  const int64_t queries = tape.q.size(0), all = tape.x.size(0);
  const at::Tensor d_all = at::empty({all, (last ? 0 : q_size) + 2 * kv_size}, d_attended.options());
  const at::Tensor d_q =
      last ? at::empty({queries, q_size}, d_attended.options()) : d_all.narrow(1, 0, q_size);
  const at::Tensor d_keys_values = last ? d_all : d_all.narrow(1, q_size, 2 * kv_size);
  const at::Tensor d_k = d_keys_values.narrow(1, 0, kv_size), d_v = d_keys_values.narrow(1, kv_size, kv_size);
  const TreeAttention attention{tree_, last, c.heads, c.kv_heads, c.head_dim, c.window_of_layer[layer]};
  attention.backward(tape.q, tape.k, tape.v, tape.attended, tape.log_sums, d_attended, d_q, d_k, d_v);
  rotate(d_q, layer, true, true);
  rotate(d_k, layer, false, true);
  if (c.qk_norm != QkNorm::kNone) {
    norm_backward(d_q.clone(at::MemoryFormat::Contiguous), tape.raw_q, w.q_norm, tape.q_inverse, d_q, false,
                  gradients);
    norm_backward(d_k.clone(at::MemoryFormat::Contiguous), tape.raw_k, w.k_norm, tape.k_inverse, d_k, false,
                  gradients);
  }
  const at::Tensor input = pre ? norm_again(tape.x, w.attention_norm, tape.attention_inverse) : tape.x;
  const bool needed =
      layer > 0 || linears_.full();  // nothing below the first layer of a frozen model is trained
  if (!last) {
    const LinearGroup group = all_of(w.qkv, {&w.q, &w.k, &w.v});
    linears_.add_weight_gradients(group, d_all, input, rows, gradients);
    return needed ? linears_.input_gradient(group, d_all, rows) : at::Tensor();
  }
  linears_.add_weight_gradients(one(w.q), d_q, input.index_select(0, query_rows_), rows, gradients);
  linears_.add_weight_gradients(keys_and_values(w), d_all, input, tree_.row_keys, gradients);
  if (!needed) return {};
  at::Tensor d = linears_.input_gradient(keys_and_values(w), d_all, tree_.row_keys);
  return d.index_add_(0, query_rows_, linears_.input_gradient(one(w.q), d_q, rows));
}

// `d`, the gradient of the layer's output, is used up. Returns that of its input.
at::Tensor Body::backward_layer(int64_t layer, Tape& tape, at::Tensor d, Gradients& gradients) const {
  check_();
  const ModelConfig& c = model_.config();
  const LayerWeights& w = model_.layers()[layer];
  const bool pre = c.norm_placement == NormPlacement::kPre;
  const RowNumbers& rows = rows_of(layer);

  at::Tensor d_down = d;
  if (!pre) {
    d_down = at::empty_like(d);
    norm_backward(d, tape.down, w.mlp_norm, tape.mlp_inverse, d_down, false, gradients);
  }
  const at::Tensor act = linears_.input_gradient(one(w.down), d_down, rows);  // its gradient at first
  const int64_t width = c.intermediate_size;
  cpu::for_rows(act.size(0), width, [&](int64_t begin, int64_t end) {
    cpu::train_kernels().swiglu_backward(out(tape.gate_up) + begin * 2 * width, out(act) + begin * width,
                                         end - begin, width);
  });
  linears_.add_weight_gradients(one(w.down), d_down, act, rows, gradients);
  const LinearGroup gate_up = all_of(w.gate_up, {&w.gate, &w.up});
  const at::Tensor mlp_input = pre ? norm_again(tape.middle, w.mlp_norm, tape.mlp_inverse) : tape.middle;
  linears_.add_weight_gradients(gate_up, tape.gate_up, mlp_input, rows, gradients);
  const at::Tensor d_mlp = linears_.input_gradient(gate_up, tape.gate_up, rows);
  if (pre) {
    norm_backward(d_mlp, tape.middle, w.mlp_norm, tape.mlp_inverse, d, true, gradients);
  } else {
    d.add_(d_mlp);
  }

  at::Tensor d_projected = d;
  if (!pre) {
    d_projected = at::empty_like(d);
    norm_backward(d, tape.projected, w.attention_norm, tape.attention_inverse, d_projected, false, gradients);
  }
  linears_.add_weight_gradients(one(w.o), d_projected, tape.attended, rows, gradients);
  const at::Tensor d_input =
      attention_gradient(layer, tape, linears_.input_gradient(one(w.o), d_projected, rows), gradients);
  if (!d_input.defined()) return {};
  if (pruned(layer)) {
    at::Tensor whole = at::zeros_like(tape.x);
    d = whole.index_copy_(0, query_rows_, d);
  }
  if (pre) {
    norm_backward(d_input, tape.x, w.attention_norm, tape.attention_inverse, d, true, gradients);
  } else {
    d.add_(d_input);
  }
  return d;
}

at::Tensor Body::forward(bool keep) {
  const ModelConfig& c = model_.config();
  at::Tensor x = model_.embedding().index_select(0, at::tensor(tree_.token_ids, at::kLong)).to(at::kFloat);
  tapes_.resize(c.layers);
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    x = forward_layer(layer, x, tapes_[layer]);
    if (!keep) {
      tapes_[layer] = {};
    } else if (options_.checkpoint) {
      Tape input;
      input.x = std::move(tapes_[layer].x);
      tapes_[layer] = std::move(input);
    }
  }
  last_ = pruned(c.layers - 1) || all_rows_ ? x : x.index_select(0, query_rows_);
  return norm(last_, model_.final_norm(), c.rms_norm_eps, final_inverse_);
}

void Body::backward(const at::Tensor& d_hidden, Gradients& gradients) {
  const ModelConfig& c = model_.config();
  at::Tensor d = at::empty_like(last_);
  norm_backward(d_hidden.contiguous(), last_, model_.final_norm(), final_inverse_, d, false, gradients);
  last_.reset();
  if (!pruned(c.layers - 1) && !all_rows_) {
    at::Tensor whole = at::zeros_like(tapes_.back().x);
    d = whole.index_copy_(0, query_rows_, d);
  }
  for (int64_t layer = c.layers - 1; layer >= 0; --layer) {
    Tape tape = std::move(tapes_[layer]);
    if (options_.checkpoint) forward_layer(layer, tape.x, tape);
    d = backward_layer(layer, tape, d, gradients);
  }
  if (d.defined()) gradients.add_rows(model_.embedding(), tree_.token_ids, d);
}

}  // namespace cft
