// The backend of plain libtorch operations: the reference of the tests on any device, and what runs where
// there is no faster backend. Keys and values of a sequence are one tensor per layer; attention goes row by
// row.
#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/model/decoder.h"
#include "core/rollout/backend.h"
#include "core/rollout/scoring.h"

namespace cft {
namespace {

constexpr int64_t kFirstCapacity = 64;
// Rows of logits held at once in a prefill.
constexpr int64_t kHeadRows = 256;

struct TensorSequence : KvSequence {
  std::vector<at::Tensor> keys, values;  // per layer (capacity, kv_heads, head_dim)
  int64_t capacity = 0;
  std::shared_ptr<std::atomic<int64_t>> used;  // bytes of all sequences of the backend
  int64_t bytes_per_position = 0;

  ~TensorSequence() override {
    if (used) *used -= capacity * bytes_per_position;
  }
};

class ReferenceBackend : public Backend {
 public:
  ReferenceBackend(Model& model, int64_t budget_bytes)
      : model_(model), config_(model.config()), budget_(budget_bytes) {
    position_bytes_ = 2 * config_.layers * config_.kv_heads * config_.head_dim *
                      static_cast<int64_t>(c10::elementSize(model.dtype()));
  }

  std::unique_ptr<KvSequence> create_sequence() override {
    auto sequence = std::make_unique<TensorSequence>();
    sequence->used = used_;
    sequence->bytes_per_position = position_bytes_;
    return sequence;
  }

  bool reserve(KvSequence& given, int64_t length) override {
    auto& sequence = static_cast<TensorSequence&>(given);
    if (length <= sequence.capacity) return true;
    int64_t capacity = std::max(sequence.capacity, kFirstCapacity);
    while (capacity < length) capacity *= 2;
    const int64_t more = (capacity - sequence.capacity) * position_bytes_;
    if (*used_ + more > budget_) return false;
    const auto options = at::TensorOptions().dtype(model_.dtype()).device(model_.device());
    for (std::vector<at::Tensor>* side : {&sequence.keys, &sequence.values}) {
      side->resize(config_.layers);
      for (at::Tensor& tensor : *side) {
        at::Tensor larger = at::zeros({capacity, config_.kv_heads, config_.head_dim}, options);
        if (tensor.defined()) larger.narrow(0, 0, sequence.capacity).copy_(tensor);
        tensor = larger;
      }
    }
    sequence.capacity = capacity;
    *used_ += more;
    return true;
  }

  void prefill(KvSequence& given, const std::vector<int32_t>& tokens, int64_t score_from, int64_t k,
               TrunkScores* scores) override {
    auto& sequence = static_cast<TensorSequence&>(given);
    const int64_t length = static_cast<int64_t>(tokens.size());
    ForwardHooks hooks;
    hooks.keys_values = [&](int64_t layer, const at::Tensor& keys, const at::Tensor& values) {
      sequence.keys[layer].narrow(0, 0, length).copy_(keys);
      sequence.values[layer].narrow(0, 0, length).copy_(values);
    };
    const at::Tensor hidden = forward_hidden(model_, PackedTokens::make(model_, tokens, {0, length}), hooks);
    for (int64_t first = score_from; first < length; first += kHeadRows) {
      const int64_t rows = std::min(kHeadRows, length - first);
      // The hidden state at i - 1 predicts token i.
      score_rows(forward_head(model_, hidden.narrow(0, first - 1, rows)), tokens.data() + first, k, scores);
    }
  }

  void forward(const std::vector<ForwardRow>& rows, ForwardOutput* output) override;

  int64_t cheap_rows() const override { return model_.device().is_cpu() ? 8 : 64; }
  int64_t used_bytes() const override { return *used_; }
  int64_t budget_bytes() const override { return budget_; }

 private:
  at::Tensor attend(const std::vector<ForwardRow>& rows, int64_t layer, const at::Tensor& queries);

  const Model& model_;
  const ModelConfig& config_;
  const int64_t budget_;
  int64_t position_bytes_ = 0;
  // A trunk may be released on the JavaScript thread.
  std::shared_ptr<std::atomic<int64_t>> used_ = std::make_shared<std::atomic<int64_t>>(0);
};

// queries (B, heads, head_dim) -> (B, heads * head_dim)
at::Tensor ReferenceBackend::attend(const std::vector<ForwardRow>& rows, int64_t layer,
                                    const at::Tensor& queries) {
  const int64_t group = config_.heads / config_.kv_heads, window = config_.window_of_layer[layer];
  at::Tensor out = at::empty({queries.size(0), config_.heads * config_.head_dim}, queries.options());
  for (size_t i = 0; i < rows.size(); ++i) {
    const ForwardRow& row = rows[i];
    const auto* trunk = static_cast<const TensorSequence*>(row.trunk);
    const auto* own = static_cast<const TensorSequence*>(row.own);
    const int64_t seen = window > 0 ? std::max<int64_t>(row.position - window + 1, 0) : 0;
    auto gather = [&](const std::vector<at::Tensor> TensorSequence::*side) {
      at::Tensor part = (own->*side)[layer].slice(0, std::max<int64_t>(seen - row.prefix, 0),
                                                  row.position - row.prefix + 1);
      if (seen < row.prefix) part = at::cat({(trunk->*side)[layer].slice(0, seen, row.prefix), part}, 0);
      return part.repeat_interleave(group, 1).permute({1, 0, 2});  // (heads, L, d)
    };
    const at::Tensor keys = gather(&TensorSequence::keys), values = gather(&TensorSequence::values);
    const at::Tensor query = queries.select(0, static_cast<int64_t>(i)).unsqueeze(1);  // (heads, 1, d)
    const at::Tensor scores = at::bmm(query, keys.transpose(1, 2)).to(at::kFloat) /
                              std::sqrt(static_cast<double>(config_.head_dim));
    out.select(0, static_cast<int64_t>(i))
        .copy_(at::bmm(scores.softmax(-1).to(values.scalar_type()), values).reshape({-1}));
  }
  return out;
}

void ReferenceBackend::forward(const std::vector<ForwardRow>& rows, ForwardOutput* output) {
  const ModelConfig& c = config_;
  const int64_t count = static_cast<int64_t>(rows.size());
  output->tokens.assign(rows.size(), -1);
  output->logits.clear();
  if (rows.empty()) return;
  std::vector<int64_t> ids, places;
  for (const ForwardRow& row : rows) {
    ids.push_back(row.token);
    places.push_back(row.position);
  }
  const at::Tensor positions = at::tensor(places, at::kLong).to(model_.device());
  std::vector<RopeTables> ropes;
  for (const Rope& rope : c.ropes) {
    RopeTables tables = rope_tables(rope, positions);
    ropes.push_back({tables.cos.to(model_.dtype()), tables.sin.to(model_.dtype())});
  }
  const bool pre = c.norm_placement == NormPlacement::kPre;
  auto linear = [](const Linear& l, const at::Tensor& x) { return at::linear(x, l.weight, l.bias); };
  at::Tensor x = at::embedding(model_.embedding(), at::tensor(ids, at::kLong).to(model_.device()));
  for (int64_t i = 0; i < c.layers; ++i) {
    const LayerWeights& w = model_.layers()[i];
    const at::Tensor qkv = linear(w.qkv, pre ? rms_norm(x, w.attention_norm, c.rms_norm_eps) : x);
    const int64_t q_size = c.heads * c.head_dim, kv_size = c.kv_heads * c.head_dim;
    at::Tensor q = qkv.narrow(1, 0, q_size), k = qkv.narrow(1, q_size, kv_size);
    if (c.qk_norm == QkNorm::kProjection) {
      q = rms_norm(q, w.q_norm, c.rms_norm_eps);
      k = rms_norm(k, w.k_norm, c.rms_norm_eps);
    }
    q = q.reshape({count, c.heads, c.head_dim});
    k = k.reshape({count, c.kv_heads, c.head_dim});
    if (c.qk_norm == QkNorm::kHead) {
      q = rms_norm(q, w.q_norm, c.rms_norm_eps);
      k = rms_norm(k, w.k_norm, c.rms_norm_eps);
    }
    const RopeTables& rope = ropes[c.rope_of_layer[i]];
    k = apply_rope(k, rope.cos, rope.sin);
    const at::Tensor v = qkv.narrow(1, q_size + kv_size, kv_size).reshape({count, c.kv_heads, c.head_dim});
    for (int64_t r = 0; r < count; ++r) {
      auto* own = static_cast<TensorSequence*>(rows[r].own);
      own->keys[i].select(0, rows[r].position - rows[r].prefix).copy_(k.select(0, r));
      own->values[i].select(0, rows[r].position - rows[r].prefix).copy_(v.select(0, r));
    }
    at::Tensor attention = linear(w.o, attend(rows, i, apply_rope(q, rope.cos, rope.sin)));
    if (!pre) attention = rms_norm(attention, w.attention_norm, c.rms_norm_eps);
    x = x + attention;
    const at::Tensor gate_up = linear(w.gate_up, pre ? rms_norm(x, w.mlp_norm, c.rms_norm_eps) : x);
    at::Tensor mlp = linear(w.down, at::silu(gate_up.narrow(1, 0, c.intermediate_size)) *
                                        gate_up.narrow(1, c.intermediate_size, c.intermediate_size));
    if (!pre) mlp = rms_norm(mlp, w.mlp_norm, c.rms_norm_eps);
    x = x + mlp;
  }
  std::vector<int64_t> heads;
  for (int64_t i = 0; i < count; ++i) {
    if (rows[i].wanted != Wanted::kNothing) heads.push_back(i);
  }
  if (heads.empty()) return;
  const at::Tensor chosen = x.index_select(0, at::tensor(heads, at::kLong).to(x.device()));
  const at::Tensor logits = forward_head(model_, rms_norm(chosen, model_.final_norm(), c.rms_norm_eps));
  // libtorch's argmax calls a NaN the largest; here it is no token at all.
  const at::Tensor best = at::where(logits.isnan().any(-1),
                                    at::full({}, -1, logits.options().dtype(at::kLong)), logits.argmax(-1))
                              .cpu();
  const at::Tensor host = logits.cpu();
  for (size_t i = 0; i < heads.size(); ++i) {
    if (rows[heads[i]].wanted == Wanted::kToken) {
      output->tokens[heads[i]] = static_cast<int32_t>(best.const_data_ptr<int64_t>()[i]);
    } else {
      const float* row = host.const_data_ptr<float>() + static_cast<int64_t>(i) * c.vocab_size;
      output->logits.insert(output->logits.end(), row, row + c.vocab_size);
    }
  }
}

}  // namespace

std::unique_ptr<Backend> make_reference_backend(Model& model, int64_t budget_bytes) {
  return std::make_unique<ReferenceBackend>(model, budget_bytes);
}

}  // namespace cft
