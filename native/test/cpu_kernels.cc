// The CPU kernels against libtorch, in every instruction set of this machine, and that a row's result depends
// on that row alone.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>
#include <doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "core/model/decoder.h"
#include "core/ops/cpu/bf16_tiles.h"
#include "core/ops/cpu/kernels.h"
#include "core/rollout/cpu/attention.h"

namespace {

using cft::cpu::Epilogue;
using cft::cpu::Kernels;
using cft::cpu::LinearTask;
using cft::cpu::PackedWeight;
using cft::cpu::TileMultiply;

at::Tensor normal(std::vector<int64_t> shape, uint64_t seed) {
  return at::empty(shape, at::kFloat).normal_(0.0, 1.0, at::make_generator<at::CPUGeneratorImpl>(seed));
}

std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> found;
  for (const char* name : {"generic", "avx2", "avx512"}) {
    if (const Kernels* k = cft::cpu::kernels_named(name)) found.push_back(k);
  }
  return found;
}

// (out, in) -> panels, padded with zeros.
struct Packed {
  std::vector<float> data, bias;
  std::vector<uint16_t> half;
  PackedWeight weight;

  Packed(const at::Tensor& w, const at::Tensor& b, int64_t panel, bool bf16) {
    weight.in = w.size(1);
    weight.out = w.size(0);
    weight.panel = panel;
    weight.layout = bf16 ? cft::cpu::WeightLayout::kBf16 : cft::cpu::WeightLayout::kFloat;
    const int64_t panels = weight.panels();
    data.assign(panels * weight.in * panel, 0.0f);
    bias.assign(panels * panel, 0.0f);
    for (int64_t o = 0; o < weight.out; ++o) {
      if (b.defined()) bias[o] = b[o].item<float>();
      for (int64_t k = 0; k < weight.in; ++k)
        data[(o / panel * weight.in + k) * panel + o % panel] = w.const_data_ptr<float>()[o * weight.in + k];
    }
    for (const float value : data) {
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      half.push_back(static_cast<uint16_t>(bits >> 16));
    }
    weight.data = bf16 ? static_cast<const void*>(half.data()) : data.data();
    if (b.defined()) weight.bias = bias.data();
  }
};

// (out, in) -> the panels of bf16_tiles.h, padded with zeros.
struct PackedTiles {
  std::vector<uint16_t> data;
  std::vector<float> bias;
  PackedWeight weight;

  PackedTiles(const at::Tensor& w, const at::Tensor& b) {
    constexpr int64_t kPanel = cft::cpu::kTilePanel;
    const int64_t out = w.size(0), in = w.size(1), even = (in + 1) / 2 * 2;
    const int64_t panels = (out + kPanel - 1) / kPanel;
    data.assign(panels * even * kPanel, 0);
    bias.assign(panels * kPanel, 0.0f);
    for (int64_t o = 0; o < out; ++o) {
      if (b.defined()) bias[o] = b[o].item<float>();
      for (int64_t k = 0; k < in; ++k) {
        data[(o / kPanel * even + k / 2 * 2) * kPanel + o % kPanel * 2 + k % 2] =
            c10::BFloat16(w.const_data_ptr<float>()[o * in + k]).x;
      }
    }
    weight = {data.data(), cft::cpu::WeightLayout::kBf16Tiles, in, out,
              kPanel,      b.defined() ? bias.data() : nullptr};
  }

  at::Tensor multiply(TileMultiply multiply, const at::Tensor& x, Epilogue epilogue, at::Tensor c,
                      cft::cpu::Best* best) const {
    cft::cpu::bf16_tile_linear({x.const_data_ptr<float>(), x.size(1), x.size(0), &weight, 0, weight.panels(),
                                epilogue, c.mutable_data_ptr<float>(), c.size(1), best},
                               multiply);
    return c;
  }
};

// The plain loop, and this machine's units where it has them.
std::vector<TileMultiply> all_tile_multiplies() {
  std::vector<TileMultiply> found = {cft::cpu::bf16_tile_multiply_reference};
  if (cft::cpu::bf16_tiles_work()) found.push_back(cft::cpu::bf16_tile_multiply());
  return found;
}

at::Tensor multiply(const Kernels& k, const at::Tensor& x, const PackedWeight& w, Epilogue epilogue,
                    const at::Tensor& start) {
  at::Tensor c = start.clone();
  LinearTask task{x.const_data_ptr<float>(),   x.size(1), x.size(0), &w, 0, w.panels(), epilogue,
                  c.mutable_data_ptr<float>(), c.size(1), nullptr};
  k.linear(task);
  return c;
}

float worst(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs() / (b.abs() + 1.0f)).max().item<float>();
}

}  // namespace

TEST_CASE("packed products equal libtorch's, with bias, added, in bf16, for odd sizes") {
  for (const Kernels* k : all_kernels()) {
    CAPTURE(k->name);
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{1, 1}, {37, 24}, {64, 33}, {100, 576}}) {
      for (const bool bf16 : {false, true}) {
        at::Tensor w = normal({out, in}, 1), b = normal({out}, 2);
        if (bf16) w = w.to(at::kBFloat16).to(at::kFloat);
        const Packed packed(w, b, k->panel, bf16);
        for (const int64_t rows : {1, 2, 5, 6, 7, 12, 13, 40}) {
          const at::Tensor x = normal({rows, in}, 3), start = normal({rows, out}, 4);
          const at::Tensor expected = at::linear(x, w, b);
          CHECK(worst(multiply(*k, x, packed.weight, Epilogue::kStore, start), expected) < 1e-4f);
          CHECK(worst(multiply(*k, x, packed.weight, Epilogue::kAdd, start), expected + start) < 1e-4f);
        }
      }
    }
  }
}

TEST_CASE("bf16 tiles: products of rounded operands, every way out, odd sizes") {
  for (const TileMultiply multiply : all_tile_multiplies()) {
    CAPTURE(multiply == cft::cpu::bf16_tile_multiply_reference);
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{1, 1}, {64, 32}, {100, 33}, {130, 576}}) {
      const at::Tensor w = normal({out, in}, 1).to(at::kBFloat16).to(at::kFloat), b = normal({out}, 2);
      const PackedTiles packed(w, b);
      for (const int64_t rows : {1, 31, 32, 33, 70}) {
        const at::Tensor x = normal({rows, in}, 3), start = normal({rows, out}, 4);
        const at::Tensor expected = at::linear(x.to(at::kBFloat16).to(at::kFloat), w, b);
        auto run = [&](Epilogue epilogue, at::Tensor c, cft::cpu::Best* best) {
          return packed.multiply(multiply, x, epilogue, c, best);
        };
        CHECK(worst(run(Epilogue::kStore, start.clone(), nullptr), expected) < 1e-4f);
        CHECK(worst(run(Epilogue::kAdd, start.clone(), nullptr), expected + start) < 1e-4f);
        std::vector<cft::cpu::Best> best(rows, {-INFINITY, -1});
        run(Epilogue::kArgmax, start.clone(), best.data());
        for (int64_t r = 0; r < rows; ++r) CHECK(best[r].index == expected[r].argmax().item<int64_t>());
        if (out % 64 == 0) {
          const at::Tensor mixed = run(Epilogue::kSwiglu, at::zeros({rows, out / 2}), nullptr);
          CHECK(worst(mixed, at::silu(expected.narrow(1, 0, 32)) * expected.narrow(1, 32, 32)) < 1e-4f);
        }
      }
    }
  }
}

TEST_CASE("bf16 tiles: a row has the same bits in every company, also after libtorch's own bf16 products") {
  for (const TileMultiply multiply : all_tile_multiplies()) {
    CAPTURE(multiply == cft::cpu::bf16_tile_multiply_reference);
    for (const int64_t in : {2, 7, 32, 34, 63, 96, 260}) {
      const at::Tensor w = normal({70, in}, 5).to(at::kBFloat16).to(at::kFloat), x = normal({41, in}, 6);
      const PackedTiles packed(w, at::Tensor());
      const at::Tensor all = packed.multiply(multiply, x, Epilogue::kStore, at::zeros({41, 70}), nullptr);
      for (int64_t rows = 1; rows <= 33; ++rows) {
        CAPTURE(rows);
        const int64_t first = rows % 8;
        const at::Tensor some = packed.multiply(multiply, x.narrow(0, first, rows), Epilogue::kStore,
                                                at::zeros({rows, 70}), nullptr);
        CHECK(at::equal(some, all.narrow(0, first, rows)));
        if (rows % 8 != 0) continue;
        cft::cpu::bf16_tiles_release();
        at::mm(x.to(at::kBFloat16), w.t().to(at::kBFloat16));
      }
    }
  }
}

TEST_CASE("a row's product has the same bits in every batch, at every place and in every range of panels") {
  for (const Kernels* k : all_kernels()) {
    CAPTURE(k->name);
    const Packed packed(normal({150, 96}, 5), at::Tensor(), k->panel, false);
    const at::Tensor x = normal({100, 96}, 6), start = at::zeros({100, 150});
    const at::Tensor all = multiply(*k, x, packed.weight, Epilogue::kStore, start);
    for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 64}) {
      for (const int64_t first : {int64_t{0}, int64_t{1}, int64_t{17}, 100 - rows}) {
        CHECK(at::equal(multiply(*k, x.narrow(0, first, rows), packed.weight, Epilogue::kStore,
                                 start.narrow(0, first, rows)),
                        all.narrow(0, first, rows)));
      }
    }
  }
}

TEST_CASE("gate and up side by side give silu(gate) * up") {
  for (const Kernels* k : all_kernels()) {
    CAPTURE(k->name);
    const int64_t half = k->panel / 2, size = 3 * half, in = 20, rows = 9;
    const at::Tensor gate = normal({size, in}, 7), up = normal({size, in}, 8), x = normal({rows, in}, 9) * 4;
    std::vector<at::Tensor> mixed;
    for (int64_t i = 0; i < size; i += half) {
      mixed.push_back(gate.narrow(0, i, half));
      mixed.push_back(up.narrow(0, i, half));
    }
    const Packed packed(at::cat(mixed).contiguous(), at::Tensor(), k->panel, false);
    const at::Tensor found = multiply(*k, x, packed.weight, Epilogue::kSwiglu, at::zeros({rows, size}));
    CHECK(worst(found, at::silu(at::linear(x, gate)) * at::linear(x, up)) < 1e-5f);
    // Far out: no overflow, the right limits.
    const at::Tensor far = at::full({1, in}, 1e4f);
    const at::Tensor limits = multiply(*k, far, packed.weight, Epilogue::kSwiglu, at::zeros({1, size}));
    CHECK(worst(limits, at::silu(at::linear(far, gate)) * at::linear(far, up)) < 1e-4f);
  }
}

TEST_CASE("the best output of each row: the first of equals, and none among NaN") {
  for (const Kernels* k : all_kernels()) {
    CAPTURE(k->name);
    at::Tensor w = normal({91, 16}, 10);
    w[70] = w[12];  // equal logits
    w[12] *= 1.0f;
    const at::Tensor x = normal({33, 16}, 11);
    x[5] = w[12] * 10;  // both win
    x[6].fill_(std::nanf(""));
    const Packed packed(w, at::Tensor(), k->panel, false);
    std::vector<cft::cpu::Best> best(33, {-INFINITY, -1});
    LinearTask task{x.const_data_ptr<float>(), 16,      33, &packed.weight, 0, packed.weight.panels(),
                    Epilogue::kArgmax,         nullptr, 0,  best.data()};
    k->linear(task);
    const at::Tensor expected = at::linear(x, w).argmax(-1);
    for (int64_t i = 0; i < 33; ++i) {
      if (i != 5 && i != 6) CHECK(best[i].index == expected[i].item<int64_t>());
    }
    CHECK(best[5].index == 12);
    CHECK(best[6].index == -1);
  }
}

TEST_CASE("norms and rotations equal the decoder's") {
  for (const Kernels* k : all_kernels()) {
    CAPTURE(k->name);
    for (const int64_t n : {4, 6, 24, 64, 100}) {
      const at::Tensor x = normal({1, n}, 12), weight = normal({n}, 13), y = normal({1, n}, 14);
      at::Tensor out = y.clone();
      k->rms_norm(x.const_data_ptr<float>(), weight.const_data_ptr<float>(), out.mutable_data_ptr<float>(), n,
                  1e-5f, false);
      CHECK(worst(out, cft::rms_norm(x, weight, 1e-5)) < 2e-6f);
      out = y.clone();
      k->rms_norm(x.const_data_ptr<float>(), weight.const_data_ptr<float>(), out.mutable_data_ptr<float>(), n,
                  1e-5f, true);
      CHECK(worst(out, y + cft::rms_norm(x, weight, 1e-5)) < 2e-6f);
      const at::Tensor angle = normal({1, n / 2}, 15), cos = angle.cos(), sin = angle.sin();
      at::Tensor turned = x.clone();
      k->rotate(turned.mutable_data_ptr<float>(), cos.const_data_ptr<float>(), sin.const_data_ptr<float>(),
                n);
      const at::Tensor expected =
          cft::apply_rope(x.view({1, 1, n}), at::cat({cos, cos}, 1), at::cat({sin, sin}, 1)).view({1, n});
      CHECK(worst(turned, expected) < 2e-6f);
    }
  }
}

TEST_CASE("softmax: the same sum wherever the window begins, zeros outside, any size of scores") {
  for (const Kernels* k : all_kernels()) {
    CAPTURE(k->name);
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>{0, 1}, {0, 32}, {0, 77}, {5, 6}, {19, 77}, {40, 80}}) {
      const at::Tensor scores = normal({160}, 16) * 20;
      at::Tensor p = scores.clone();
      const float sum = k->softmax(p.mutable_data_ptr<float>(), begin, end);
      const at::Tensor expected = scores.slice(0, begin, end).softmax(0);
      CHECK((p.slice(0, begin, end) / sum - expected).abs().max().item<float>() < 1e-6f);
      const int64_t last = (end + k->panel - 1) / k->panel * k->panel;
      if (last > end) CHECK(p.slice(0, end, last).abs().max().item<float>() == 0.0f);
      const int64_t first = begin / k->panel * k->panel;
      if (first < begin) CHECK(p.slice(0, first, begin).abs().max().item<float>() == 0.0f);
    }
    at::Tensor huge = at::full({32}, 1e30f);
    CHECK(k->softmax(huge.mutable_data_ptr<float>(), 0, 32) == 32.0f);
  }
}

TEST_CASE("entropy of a row of logits, any size, and which of them is the largest") {
  for (const Kernels* k : all_kernels()) {
    CAPTURE(k->name);
    for (const int64_t n : {1, 3, 16, 513, 1024, 49152, 50001}) {
      for (const double spread : {0.0, 1.0, 30.0}) {
        const at::Tensor logits = normal({n}, 21) * spread;
        const at::Tensor log_p = logits.to(at::kDouble).log_softmax(0);
        const double expected = -(log_p.exp() * log_p).sum().item<double>();
        float top;
        const float found = k->entropy(logits.const_data_ptr<float>(), n, &top);
        CHECK(std::abs(found - expected) < 1e-5 * std::max(1.0, expected));
        CHECK(top == logits.max().item<float>());
      }
    }
    const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    float top, masked[40];
    std::fill_n(masked, 40, -infinity);
    masked[3] = masked[37] = 1.5f;
    CHECK(std::abs(k->entropy(masked, 40, &top) - std::log(2.0f)) < 1e-6f);
    CHECK(top == 1.5f);
    masked[0] = masked[39] = nan;
    CHECK(std::isnan(k->entropy(masked, 40, &top)));
    CHECK(top == 1.5f);
  }
}

TEST_CASE(
    "attention over pages equals softmax attention, for windows, odd heads and any mix of trunk and own") {
  for (const Kernels* k : all_kernels()) {
    CAPTURE(k->name);
    for (const auto& [dim, group] : {std::pair<int64_t, int64_t>{4, 1}, {12, 7}, {32, 1}, {64, 3}, {80, 2}}) {
      const int64_t kv_heads = 2, heads = group * kv_heads, length = 150;
      const cft::cpu::KvShape shape{1, kv_heads, dim, k->panel};
      auto pool = std::make_shared<cft::cpu::PagePool>(shape, int64_t{1} << 30);
      auto fill = [&](int64_t count, uint64_t seed, at::Tensor* keys, at::Tensor* values) {
        auto sequence = std::make_unique<cft::cpu::PagedSequence>(pool);
        REQUIRE(sequence->reserve(count));
        *keys = normal({count, kv_heads, dim}, seed);
        *values = normal({count, kv_heads, dim}, seed + 1);
        for (int64_t i = 0; i < count; ++i) {
          for (int64_t h = 0; h < kv_heads; ++h)
            sequence->write(i, 0, h, (*keys)[i][h].const_data_ptr<float>(),
                            (*values)[i][h].const_data_ptr<float>());
        }
        return sequence;
      };
      at::Tensor trunk_keys, trunk_values;
      const auto trunk = fill(length, 20, &trunk_keys, &trunk_values);
      std::vector<std::unique_ptr<cft::cpu::PagedSequence>> owns;
      std::vector<cft::cpu::AttentionRow> rows;
      std::vector<at::Tensor> own_keys, own_values;
      for (const auto& [shared, own] :
           {std::pair<int64_t, int64_t>{0, 1}, {1, 0}, {3, 70}, {64, 1}, {65, 129}, {150, 2}}) {
        at::Tensor keys, values;
        owns.push_back(fill(std::max<int64_t>(own, 1), 30 + shared, &keys, &values));
        own_keys.push_back(keys.narrow(0, 0, own));
        own_values.push_back(values.narrow(0, 0, own));
        rows.push_back({trunk.get(), owns.back().get(), shared, own});
      }
      const int64_t count = static_cast<int64_t>(rows.size());
      const at::Tensor queries = normal({count, heads * dim}, 40);
      for (const int64_t window : {0, 1, 9, 100}) {
        const cft::cpu::AttentionShape attention{0, window, heads, kv_heads, dim};
        cft::cpu::AttentionScratch scratch;
        auto run = [&](const std::vector<cft::cpu::AttentionRow>& some, const at::Tensor& q) {
          at::Tensor out = at::full_like(q, std::nanf(""));
          for (const auto& tile : cft::cpu::attention_tiles(some, group, k->tile)) {
            for (int64_t h = 0; h < kv_heads; ++h) {
              cft::cpu::attend(*k, attention, some, tile, h, q.const_data_ptr<float>(), heads * dim,
                               out.mutable_data_ptr<float>(), heads * dim, &scratch);
            }
          }
          return out;
        };
        const at::Tensor found = run(rows, queries);
        for (int64_t i = 0; i < count; ++i) {
          at::Tensor keys = at::cat({trunk_keys.narrow(0, 0, rows[i].shared), own_keys[i]}, 0);
          at::Tensor values = at::cat({trunk_values.narrow(0, 0, rows[i].shared), own_values[i]}, 0);
          const int64_t from = window > 0 ? std::max<int64_t>(rows[i].end() - window, 0) : 0;
          keys = keys.slice(0, from).repeat_interleave(group, 1).permute({1, 0, 2});
          values = values.slice(0, from).repeat_interleave(group, 1).permute({1, 0, 2});
          const at::Tensor q = queries[i].view({heads, 1, dim});
          const at::Tensor expected =
              at::bmm(at::bmm(q, keys.transpose(1, 2)).softmax(-1), values).reshape({-1});
          CHECK(worst(found[i], expected) < 1e-5f);
          // Alone it gets the same bits.
          CHECK(at::equal(run({rows[i]}, queries.narrow(0, i, 1)), found.narrow(0, i, 1)));
        }
      }
    }
  }
}
