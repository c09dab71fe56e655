// A whole decode step put together from the kernels, under the emulator: greedy branches of several trunks in
// slots that are refilled, against plain re-decoding in doubles. Also the order of launches, in running code.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <deque>

#include "kernels/branch_attention.cuh"
#include "kernels/elementwise.cuh"
#include "kernels/end_step.cuh"
#include "kernels/rms_norm.cuh"
#include "kernels/split_qkv.cuh"
#include "test/emulator/decode_slots.h"

namespace {

using decode_test::kPoison;
using decode_test::Slots;
using emulator::Order;

constexpr int kVocab = 61, kHidden = 24, kHeads = 4, kKvHeads = 2, kDim = 8, kInner = 20, kLayers = 2;
constexpr int kWindows[kLayers] = {0, 7};  // the second layer slides
constexpr double kEps = 1e-5;

struct Layer {
  at::Tensor qkv, bias, q_norm, k_norm, o, gate_up, down, attention_norm, mlp_norm;
};

struct Model {
  bool post;  // norms after attention and MLP, q and k normed over the projection
  at::Tensor embedding, final_norm, frequencies;
  std::vector<Layer> layers;

  explicit Model(bool is_post) : post(is_post) {
    // Weights are exact in fp32, so that both sides compute with the same.
    const auto random = [](at::IntArrayRef shape, double size) {
      return (at::randn(shape) * size).to(at::kDouble);
    };
    embedding = random({kVocab, kHidden}, 1.0);
    final_norm = random({kHidden}, 1.0);
    frequencies = at::pow(10.0, -at::arange(kDim / 2).to(at::kDouble)).to(at::kFloat).to(at::kDouble);
    for (int i = 0; i < kLayers; ++i) {
      const int64_t q_norm = post ? kHeads * kDim : kDim, k_norm = post ? kKvHeads * kDim : kDim;
      layers.push_back({random({(kHeads + 2 * kKvHeads) * kDim, kHidden}, 0.3),
                        random({(kHeads + 2 * kKvHeads) * kDim}, 0.3), random({q_norm}, 1.0),
                        random({k_norm}, 1.0), random({kHidden, kHeads * kDim}, 0.3),
                        random({2 * kInner, kHidden}, 0.3), random({kHidden, kInner}, 0.3),
                        random({kHidden}, 1.0), random({kHidden}, 1.0)});
    }
  }
};

at::Tensor norm(const at::Tensor& x, const at::Tensor& weight) {
  return x * at::rsqrt(x.square().mean(-1, true) + kEps) * weight;
}

struct Forward {
  at::Tensor logits;                     // (vocab) of the token after the last
  std::vector<at::Tensor> keys, values;  // per layer (length, kv_heads, head_dim)
};

// The reference: all tokens of one sequence at once.
Forward forward(const Model& m, const std::vector<int32_t>& ids) {
  const auto length = static_cast<int64_t>(ids.size());
  const at::Tensor positions = at::arange(length).to(at::kDouble);
  const at::Tensor angle = (positions.unsqueeze(1) * m.frequencies).unsqueeze(1);
  const auto rotate = [&](const at::Tensor& x) {
    const at::Tensor low = x.narrow(2, 0, kDim / 2), high = x.narrow(2, kDim / 2, kDim / 2);
    return at::cat({low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()}, 2);
  };
  Forward result;
  at::Tensor x = m.embedding.index_select(0, at::tensor(std::vector<int64_t>(ids.begin(), ids.end())));
  for (int i = 0; i < kLayers; ++i) {
    const Layer& w = m.layers[i];
    const at::Tensor qkv = at::linear(m.post ? x : norm(x, w.attention_norm), w.qkv, w.bias);
    const auto part = [&](int64_t first, int64_t heads, const at::Tensor& weight) {
      at::Tensor y = qkv.narrow(1, first * kDim, heads * kDim);
      if (m.post && weight.defined()) y = norm(y, weight);
      y = y.reshape({length, heads, kDim});
      return !m.post && weight.defined() ? norm(y, weight) : y;
    };
    const at::Tensor q = rotate(part(0, kHeads, w.q_norm)), k = rotate(part(kHeads, kKvHeads, w.k_norm)),
                     v = part(kHeads + kKvHeads, kKvHeads, {});
    result.keys.push_back(k);
    result.values.push_back(v);
    const auto spread = [&](const at::Tensor& y) {
      return y.repeat_interleave(kHeads / kKvHeads, 1).transpose(0, 1);
    };
    at::Tensor scores = at::matmul(q.transpose(0, 1), spread(k).transpose(1, 2)) / std::sqrt(double(kDim));
    const at::Tensor distance = positions.unsqueeze(1) - positions.unsqueeze(0);
    const int window = kWindows[i] > 0 ? kWindows[i] : 1 << 20;
    scores = scores.masked_fill(distance.lt(0).logical_or(distance.ge(window)), -INFINITY);
    at::Tensor y = at::matmul(scores.softmax(-1), spread(v)).transpose(0, 1).reshape({length, -1});
    y = at::linear(y, w.o);
    x = x + (m.post ? norm(y, w.attention_norm) : y);
    const at::Tensor gate_up = at::linear(m.post ? x : norm(x, w.mlp_norm), w.gate_up);
    y = at::linear(at::silu(gate_up.narrow(1, 0, kInner)) * gate_up.narrow(1, kInner, kInner), w.down);
    x = x + (m.post ? norm(y, w.mlp_norm) : y);
  }
  result.logits = at::mv(m.embedding, norm(x.select(0, length - 1), m.final_norm));
  return result;
}

struct Branch {
  int trunk, prefix;
  std::vector<int32_t> forced;
  int budget;
};

// Tokens as the ring shows them: with the end token.
std::vector<int32_t> redecode(const Model& m, std::vector<int32_t> ids, const Branch& branch, int32_t end) {
  ids.resize(size_t(branch.prefix));
  ids.insert(ids.end(), branch.forced.begin(), branch.forced.end());
  std::vector<int32_t> decoded;
  while (int(decoded.size()) < branch.budget) {
    decoded.push_back(int32_t(forward(m, ids).logits.argmax().item<int64_t>()));
    if (decoded.back() == end) break;
    ids.push_back(decoded.back());
  }
  return decoded;
}

// The engine's device side in fp32. What CUDA does by cuBLAS, libtorch does here.
class Engine {
 public:
  Engine(const Model& model, const std::vector<std::vector<int32_t>>& trunks, int rows, int32_t end_token)
      : m_(model), rows_(rows), slots_(size_t(rows), size_t(rows), kCapacity), end_tokens_{end_token} {
    slots_.forced_capacity = 2;
    slots_.forced_tokens.assign(size_t(rows) * 2, -1);
    size_t longest = 0;
    for (const auto& ids : trunks) {
      starts_.push_back(pool_);
      pool_ += int32_t(ids.size());
      longest = std::max(longest, ids.size());
    }
    chunks_ = int32_t(longest + kChunk - 1) / kChunk;
    for (int i = 0; i < kLayers; ++i)
      for (int kind = 0; kind < 2; ++kind) {
        at::Tensor pool = poison({kKvHeads, pool_, kDim});
        for (size_t t = 0; t < trunks.size(); ++t) {
          const Forward found = forward(m_, trunks[t]);
          pool.narrow(1, starts_[t], int64_t(trunks[t].size()))
              .copy_((kind == 0 ? found.keys : found.values)[i].transpose(0, 1));
        }
        pools_.push_back(pool);
        arenas_.push_back(poison({rows, kKvHeads, kCapacity, kDim}));
      }
    for (int row = 0; row < rows; ++row) slots_.slot_of_row[size_t(row)] = (row + 1) % rows;
    const auto copy = [](const at::Tensor& x) { return x.to(at::kFloat).contiguous(); };
    embedding_ = copy(m_.embedding);
    final_norm_ = copy(m_.final_norm);
    frequencies_ = copy(m_.frequencies);
    for (const Layer& w : m_.layers)
      layers_.push_back({copy(w.qkv), copy(w.bias), copy(w.q_norm), copy(w.k_norm), copy(w.o),
                         copy(w.gate_up), copy(w.down), copy(w.attention_norm), copy(w.mlp_norm)});
  }

  // Runs all branches; the tokens of each.
  std::vector<std::vector<int32_t>> run(const std::vector<Branch>& branches) {
    std::vector<std::vector<int32_t>> decoded(branches.size());
    std::vector<int> owner(size_t(rows_), -1);
    std::deque<int> waiting;
    for (size_t i = 0; i < branches.size(); ++i) waiting.push_back(int(i));
    for (int look = 0; look < 100; ++look) {
      std::vector<CftSlotRecord> records;
      for (int32_t s = 0; s < rows_; ++s) {
        if (slots_.status[size_t(s)] == CFT_SLOT_RUNNING || waiting.empty()) continue;
        const Branch& b = branches[size_t(waiting.front())];
        owner[size_t(s)] = waiting.front();
        waiting.pop_front();
        records.push_back({s, CFT_SLOT_RUNNING, b.forced[0], b.prefix, 0, starts_[size_t(b.trunk)], b.budget,
                           int32_t(b.forced.size())});
        std::copy(b.forced.begin(), b.forced.end(), slots_.forced_tokens.begin() + s * 2);
      }
      const CftDecodeState state = slots_.state();
      emulator::launch({1}, {128}, 0, Order::kForward, [&] {
        cft::kernels::refill_slots_kernel<128>(records.data(), int(records.size()), state);
      });
      const std::vector<int32_t> before = slots_.status;
      if (std::count(before.begin(), before.end(), CFT_SLOT_RUNNING) == 0) break;
      tiles_ = slots_.tiles(cft::kernels::kTrunkQueries / (kHeads / kKvHeads));
      ring_.assign(size_t(kStepsPerLook * rows_), -1);
      counters_ = {0, 0};
      for (int step = 0; step < kStepsPerLook; ++step) this->step();
      for (int step = 0; step < kStepsPerLook; ++step)
        for (int s = 0; s < rows_; ++s) {
          const int32_t token = ring_[size_t(step * rows_ + s)];
          if (token >= 0) decoded[size_t(owner[size_t(s)])].push_back(token);
        }
    }
    return decoded;
  }

 private:
  static constexpr int kCapacity = 24, kChunk = 64, kStepsPerLook = 3;

  static at::Tensor poison(at::IntArrayRef shape) { return at::full(shape, kPoison, at::kFloat); }
  static float* data(const at::Tensor& x) { return static_cast<float*>(x.data_ptr()); }

  at::Tensor normed(const at::Tensor& x, const at::Tensor& weight, const at::Tensor* add_to) {
    at::Tensor y = add_to != nullptr ? *add_to : poison(x.sizes());
    const int threads = cft::kernels::row_threads(x.size(1));
    const auto kernel = add_to != nullptr ? cft::kernels::rms_norm_kernel<float, 1, true>
                                          : cft::kernels::rms_norm_kernel<float, 1, false>;
    emulator::launch({unsigned(rows_)}, {unsigned(threads)}, threads / 32 * 4, Order::kForward,
                     [&] { kernel(data(x), data(weight), data(y), x.size(1), float(kEps)); });
    return y;
  }

  at::Tensor add_normed(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight) {
    const at::Tensor y = poison(x.sizes());
    const int threads = cft::kernels::add_rms_norm_threads(x.size(1));
    emulator::launch({unsigned(rows_)}, {unsigned(threads)}, threads / 32 * 4, Order::kForward, [&] {
      cft::kernels::add_rms_norm_kernel<float, 1>(data(x), data(residual), data(weight), data(y), x.size(1),
                                                  float(kEps));
    });
    return y;
  }

  void step() {
    using namespace cft::kernels;
    const CftDecodeState state = slots_.state();
    const unsigned rows = unsigned(rows_);
    const at::Tensor x = poison({rows_, kHidden}), cos_sin = poison({1, rows_, kDim / 2, 2}),
                     rope_scale = at::ones({1});
    CftBeginStep begin{data(embedding_), data(x),       kHidden, data(frequencies_),
                       data(rope_scale), data(cos_sin), 1,       kDim};
    emulator::launch({rows}, {kBeginStepThreads}, 0, Order::kForward,
                     [&] { begin_step_kernel<float, 4>(state, begin); });
    at::Tensor y = m_.post ? x : normed(x, layers_[0].attention_norm, nullptr);
    for (int i = 0; i < kLayers; ++i) {
      const Layer& w = layers_[size_t(i)];
      const at::Tensor mixed = attend(state, w, i, at::mm(y, w.qkv.t()), cos_sin);
      const at::Tensor attention = at::mm(mixed, w.o.t());
      y = m_.post ? normed(attention, w.attention_norm, &x) : add_normed(attention, x, w.mlp_norm);
      const at::Tensor gate_up = at::mm(y, w.gate_up.t()), inner = poison({rows_, kInner});
      emulator::launch({1, rows}, {kSwigluThreads}, 0, Order::kForward,
                       [&] { swiglu_kernel<float, 4>(data(gate_up), data(inner), kInner); });
      const at::Tensor mlp = at::mm(inner, w.down.t());
      if (m_.post) {
        y = normed(mlp, w.mlp_norm, &x);
      } else {
        y = add_normed(mlp, x, i + 1 < kLayers ? layers_[size_t(i) + 1].attention_norm : final_norm_);
      }
    }
    if (m_.post) y = normed(x, final_norm_, nullptr);
    const at::Tensor logits = at::mm(y, embedding_.t()), values = poison({rows_});
    std::vector<int32_t> indices(rows);
    CftEndStep end;
    end.logits = data(logits);
    end.vocab = kVocab;
    end.partial_values = data(values);
    end.partial_indices = indices.data();
    end.end_tokens = end_tokens_.data();
    end.end_token_count = int32_t(end_tokens_.size());
    end.ring = ring_.data();
    end.ring_steps = kStepsPerLook;
    end.counters = counters_.data();
    emulator::launch({1, rows}, {kArgmaxThreads}, kArgmaxShared, Order::kForward,
                     [&] { argmax_blocks_kernel<float, 1>(state, end); });
    emulator::launch({(rows + kEndStepWarps - 1) / kEndStepWarps}, {32 * kEndStepWarps}, 0, Order::kForward,
                     [&] { end_step_kernel<true, true>(state, end, 1); });
  }

  at::Tensor attend(const CftDecodeState& state, const Layer& w, int i, const at::Tensor& qkv,
                    const at::Tensor& cos_sin) {
    using namespace cft::kernels;
    const at::Tensor queries = poison({rows_, kHeads, kDim}), out = poison({rows_, kHeads * kDim}),
                     partial = poison({rows_, kHeads, chunks_, kDim}),
                     stats = poison({rows_, kHeads, chunks_, 2});
    CftLayerCache cache{data(arenas_[size_t(2 * i)]),
                        data(arenas_[size_t(2 * i) + 1]),
                        data(pools_[size_t(2 * i)]),
                        data(pools_[size_t(2 * i) + 1]),
                        pool_,
                        kHeads,
                        kKvHeads,
                        kDim,
                        kWindows[i]};
    CftSplitQkv split{data(qkv),
                      data(w.bias),
                      data(w.q_norm),
                      data(w.k_norm),
                      m_.post ? CFT_QK_NORM_PROJECTION : CFT_QK_NORM_HEAD,
                      float(kEps),
                      data(cos_sin),
                      data(queries)};
    emulator::launch({unsigned(rows_)}, {kSplitQkvThreads}, kSplitQkvShared, Order::kForward,
                     [&] { split_qkv_kernel<float>(state, cache, split); });
    const auto count = int32_t(tiles_.tiles.size());
    CftAttention work{data(queries), tiles_.tiles.data(), &count,      tiles_.rows.data(), count, kChunk,
                      chunks_,       data(partial),       data(stats), data(out)};
    emulator::launch({4}, {32 * kTrunkWarps}, kTrunkShared<float, 64>, Order::kForward,
                     [&] { trunk_attention_kernel<float, 64>(state, cache, work); });
    emulator::launch({unsigned(rows_), kKvHeads}, {32 * kSuffixWarps<float>}, kSuffixShared<float, 64>,
                     Order::kForward, [&] { suffix_attention_kernel<float, 64>(state, cache, work); });
    return out;
  }

  const Model& m_;
  const int rows_;
  Slots slots_;
  std::vector<int32_t> end_tokens_, starts_, ring_, counters_;
  cft::kernels::TrunkTiles tiles_;
  int32_t pool_ = 0, chunks_ = 0;
  std::vector<at::Tensor> pools_, arenas_;  // per layer keys, then values
  at::Tensor embedding_, final_norm_, frequencies_;
  std::vector<Layer> layers_;
};

}  // namespace

TEST_CASE("emulated decode steps give the tokens of plain re-decoding, slots refilled meanwhile") {
  for (const bool post : {false, true}) {
    at::manual_seed(post ? 4 : 3);
    const Model model(post);
    std::vector<std::vector<int32_t>> trunks;
    for (const int64_t length : {70, 1, 9}) {
      const at::Tensor ids = at::randint(kVocab, {length});
      trunks.emplace_back();
      for (int64_t i = 0; i < length; ++i) trunks.back().push_back(ids[i].item<int32_t>());
    }
    const std::vector<Branch> branches = {{0, 70, {5}, 8},  {0, 66, {7, 9}, 5}, {1, 1, {11}, 9},
                                          {2, 4, {3}, 1},   {0, 0, {1}, 7},     {2, 9, {20, 21}, 12},
                                          {0, 64, {30}, 4}, {1, 0, {8}, 6},     {2, 8, {2}, 10}};
    // An end token that some of them meet: the second that the first branch decodes.
    const int32_t end = redecode(model, trunks[0], branches[0], -1)[1];
    std::vector<std::vector<int32_t>> expected;
    size_t ended = 0;
    for (const Branch& branch : branches) {
      expected.push_back(redecode(model, trunks[size_t(branch.trunk)], branch, end));
      ended += expected.back().back() == end;
    }
    CHECK(ended >= 1);
    CHECK(Engine(model, trunks, 4, end).run(branches) == expected);
    if (!post) CHECK(Engine(model, trunks, 7, end).run(branches) == expected);
  }
}
