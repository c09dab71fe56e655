#include "core/rollout/device/decode_step.h"

#include <algorithm>

namespace cft {
namespace {

// out (rows, n) = x (rows, k) W^T + b
void multiply(at::Tensor out, const at::Tensor& x, const Linear& linear, bool with_bias) {
  if (with_bias && linear.bias.defined()) {
    at::addmm_out(out, linear.bias, x, linear.weight.t());
  } else {
    at::mm_out(out, x, linear.weight.t());
  }
}

}  // namespace

DecodeStep::DecodeStep(const Model& model, const DecodeKernels& kernels, DeviceRuntime& runtime,
                       int64_t chunk_positions)
    : model_(model), kernels_(kernels), runtime_(runtime), chunk_positions_(chunk_positions) {
  std::vector<float> frequencies, scales;
  for (const Rope& rope : model.config().ropes) {
    frequencies.insert(frequencies.end(), rope.inverse_frequencies.begin(), rope.inverse_frequencies.end());
    scales.push_back(rope.scale);
  }
  frequencies_ = runtime.empty({static_cast<int64_t>(frequencies.size())}, at::kFloat);
  frequencies_.copy_(at::tensor(frequencies, at::kFloat));
  rope_scales_ = runtime.empty({static_cast<int64_t>(scales.size())}, at::kFloat);
  rope_scales_.copy_(at::tensor(scales, at::kFloat));
}

int64_t DecodeStep::bytes(const Model& model, int64_t rows, int64_t chunks) {
  const ModelConfig& c = model.config();
  const int64_t heads = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const int64_t values = 3 * c.hidden_size + 3 * heads + 2 * kv + 3 * c.intermediate_size;
  const int64_t floats = c.vocab_size + c.heads * chunks * (c.head_dim + 2) +
                         static_cast<int64_t>(c.ropes.size()) * c.head_dim + c.vocab_size / 1024 + 2;
  return rows * (values * static_cast<int64_t>(c10::elementSize(model.dtype())) + floats * 4);
}

bool DecodeStep::reserve(int64_t rows, int64_t chunks) {
  if (rows <= rows_ && rows * chunks <= row_chunks_) return false;
  rows = std::max(rows, rows_);
  const int64_t row_chunks = std::max(rows * chunks, row_chunks_);
  rows_ = row_chunks_ = 0;
  const ModelConfig& c = model_.config();
  const int64_t heads = c.heads * c.head_dim, blocks = kernels_.argmax_blocks(c.vocab_size);
  // The old one is given back before the new one is taken.
  const auto make = [&](at::Tensor& buffer, at::IntArrayRef shape, at::ScalarType dtype) {
    buffer.reset();
    buffer = runtime_.empty(shape, dtype);
  };
  const at::ScalarType dtype = model_.dtype();
  make(residual_, {rows, c.hidden_size}, dtype);
  make(x_, {rows, c.hidden_size}, dtype);
  make(qkv_, {rows, heads + 2 * c.kv_heads * c.head_dim}, dtype);
  make(queries_, {rows, heads}, dtype);
  make(mixed_, {rows, heads}, dtype);
  make(added_, {rows, c.hidden_size}, dtype);
  make(gate_up_, {rows, 2 * c.intermediate_size}, dtype);
  make(inner_, {rows, c.intermediate_size}, dtype);
  make(logits_, {rows, c.vocab_size}, at::kFloat);
  make(cos_sin_, {static_cast<int64_t>(c.ropes.size()) * rows * c.head_dim}, at::kFloat);
  make(partial_, {row_chunks * c.heads * c.head_dim}, at::kFloat);
  make(partial_stats_, {row_chunks * c.heads * 2}, at::kFloat);
  make(argmax_values_, {rows * blocks}, at::kFloat);
  make(argmax_indices_, {rows * blocks}, at::kInt);
  make(chosen_, {rows}, at::kInt);
  rows_ = rows;
  row_chunks_ = row_chunks;
  return true;
}

CftEndStep DecodeStep::end_step(const DeviceSlots& slots) const {
  CftEndStep end;
  end.logits = logits_.data_ptr();
  end.vocab = model_.config().vocab_size;
  end.partial_values = static_cast<float*>(argmax_values_.data_ptr());
  end.partial_indices = static_cast<int32_t*>(argmax_indices_.data_ptr());
  end.chosen = static_cast<int32_t*>(chosen_.data_ptr());
  slots.place(&end);
  return end;
}

void DecodeStep::run(const StepShape& shape, const DeviceSlots& slots,
                     const std::vector<CftLayerCache>& caches, bool moves_on, void* stream) const {
  const ModelConfig& c = model_.config();
  const int64_t rows = shape.rows;
  const auto part = [&](const at::Tensor& buffer) { return buffer.narrow(0, 0, rows); };
  const at::Tensor residual = part(residual_), qkv = part(qkv_), mixed = part(mixed_), added = part(added_),
                   gate_up = part(gate_up_), inner = part(inner_);
  const bool pre = c.norm_placement == NormPlacement::kPre;
  const at::Tensor x = pre ? part(x_) : residual;  // what the products of a layer read
  const auto eps = static_cast<float>(c.rms_norm_eps);
  const CftDecodeState state = slots.state(rows, shape.capacity);

  CftBeginStep begin;
  begin.embedding = model_.embedding().data_ptr();
  begin.hidden = residual.data_ptr();
  begin.width = c.hidden_size;
  begin.inverse_frequencies = static_cast<const float*>(frequencies_.data_ptr());
  begin.rope_scales = static_cast<const float*>(rope_scales_.data_ptr());
  begin.cos_sin = static_cast<float*>(cos_sin_.data_ptr());
  begin.ropes = static_cast<int32_t>(c.ropes.size());
  begin.head_dim = static_cast<int32_t>(c.head_dim);
  check_launch(kernels_.begin_step(&state, &begin, stream), "begin_step");

  CftAttention attention;
  slots.place(&attention);
  attention.queries = queries_.data_ptr();
  attention.most_tiles = static_cast<int32_t>(rows);
  attention.chunk_positions = static_cast<int32_t>(chunk_positions_);
  attention.chunks = static_cast<int32_t>(shape.chunks);
  attention.partial = static_cast<float*>(partial_.data_ptr());
  attention.partial_stats = static_cast<float*>(partial_stats_.data_ptr());
  attention.out = mixed.data_ptr();

  const auto norm = [&](const at::Tensor& from, const at::Tensor& weight, const at::Tensor& to) {
    check_launch(kernels_.rms_norm(from.data_ptr(), weight.data_ptr(), to.data_ptr(), rows, c.hidden_size,
                                   eps, stream),
                 "rms_norm");
  };
  // residual += what a block gave, normed before where the family norms there; x is what comes next.
  const auto add = [&](const at::Tensor& own_norm, const at::Tensor& next_norm) {
    const int status =
        pre ? kernels_.add_rms_norm(added.data_ptr(), residual.data_ptr(), next_norm.data_ptr(), x.data_ptr(),
                                    rows, c.hidden_size, eps, stream)
            : kernels_.rms_norm_add(added.data_ptr(), own_norm.data_ptr(), residual.data_ptr(), rows,
                                    c.hidden_size, eps, stream);
    check_launch(status, pre ? "add_rms_norm" : "rms_norm_add");
  };
  if (pre) norm(residual, model_.layers()[0].attention_norm, x);
  for (int64_t i = 0; i < c.layers; ++i) {
    const LayerWeights& w = model_.layers()[i];
    const CftLayerCache& cache = caches[i];
    multiply(qkv, x, w.qkv, /*with_bias=*/false);
    CftSplitQkv split;
    split.qkv = qkv.data_ptr();
    split.bias = w.qkv.bias.defined() ? w.qkv.bias.data_ptr() : nullptr;
    split.q_norm = w.q_norm.defined() ? w.q_norm.data_ptr() : nullptr;
    split.k_norm = w.k_norm.defined() ? w.k_norm.data_ptr() : nullptr;
    split.norm = c.qk_norm == QkNorm::kNone   ? CFT_QK_NORM_NONE
                 : c.qk_norm == QkNorm::kHead ? CFT_QK_NORM_HEAD
                                              : CFT_QK_NORM_PROJECTION;
    split.eps = eps;
    split.cos_sin = static_cast<const float*>(cos_sin_.data_ptr()) + c.rope_of_layer[i] * rows * c.head_dim;
    split.queries = queries_.data_ptr();
    check_launch(kernels_.split_qkv(&state, &cache, &split, stream), "split_qkv");
    check_launch(kernels_.trunk_attention(&state, &cache, &attention, stream), "trunk_attention");
    check_launch(kernels_.suffix_attention(&state, &cache, &attention, stream), "suffix_attention");
    multiply(added, mixed, w.o, true);
    add(w.attention_norm, w.mlp_norm);
    multiply(gate_up, x, w.gate_up, true);
    check_launch(kernels_.swiglu(gate_up.data_ptr(), inner.data_ptr(), rows, c.intermediate_size, stream),
                 "swiglu");
    multiply(added, inner, w.down, true);
    add(w.mlp_norm, i + 1 < c.layers ? model_.layers()[i + 1].attention_norm : model_.final_norm());
  }
  const at::Tensor last = part(x_);
  if (!pre) norm(residual, model_.final_norm(), last);
  // fp32: rounded to bf16, neighbouring logits would become equal.
  at::Tensor logits = part(logits_);
  const at::Tensor head = model_.head().weight.t();
  if (model_.dtype() == at::kFloat) {
    at::mm_out(logits, last, head);
  } else if (last.is_cuda()) {
    at::mm_out(logits, last, head, at::kFloat);
  } else {
    logits.copy_(at::mm(last.to(at::kFloat), head.to(at::kFloat)));  // the emulator's
  }

  const CftEndStep end = end_step(slots);
  if (moves_on) {
    check_launch(kernels_.argmax_advance(&state, &end, stream), "argmax_advance");
  } else {
    check_launch(kernels_.argmax(&state, &end, stream), "argmax");
  }
}

void DecodeStep::advance(const StepShape& shape, const DeviceSlots& slots, void* stream) const {
  const CftDecodeState state = slots.state(shape.rows, shape.capacity);
  const CftEndStep end = end_step(slots);
  check_launch(kernels_.advance(&state, &end, stream), "advance");
}

}  // namespace cft
