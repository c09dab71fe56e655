// The small kernels of a decode step under the emulator, against doubles and libtorch: start of a step, split
// of q, k and v, SwiGLU, norms, argmax, the end of a step.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "kernels/elementwise.cuh"
#include "kernels/end_step.cuh"
#include "kernels/split_qkv.cuh"
#include "test/emulator/decode_slots.h"

namespace {

using cft::kernels::Bf16;
using decode_test::kPoison;
using decode_test::Slots;
using emulator::Order;

template <class T>
constexpr at::ScalarType kDtype = sizeof(T) == 4 ? at::kFloat : at::kBFloat16;

template <class T>
at::Tensor tensor(const std::vector<T>& values, at::IntArrayRef shape) {
  return at::from_blob(const_cast<T*>(values.data()), shape, kDtype<T>).clone();
}

template <class T>
double share_of_equals(const at::Tensor& a, const at::Tensor& b) {
  return a.eq(b).to(at::kDouble).mean().template item<double>();
}

// bf16 keeps 8 bits; a last digit in fp32 may tip a rounding, so a few differ by one step.
template <class T>
void check_close(const at::Tensor& found, const at::Tensor& expected) {
  if (found.numel() == 0) return;
  CHECK(at::allclose(found.to(at::kDouble), expected.to(at::kDouble), sizeof(T) == 4 ? 3e-6 : 1.0 / 64,
                     sizeof(T) == 4 ? 1e-6 : 1.0 / 64));
  if (sizeof(T) == 2) CHECK(share_of_equals<T>(found, expected) > 0.98);
}

// Rows 0, 1, 3: slots 2, 0, 3; row 2 is padding, row 4's slot 1 rests.
Slots five_rows(int32_t capacity) {
  Slots slots(5, 4, capacity);
  slots.slot_of_row = {2, 0, -1, 3, 1};
  slots.status = {CFT_SLOT_RUNNING, CFT_SLOT_IDLE, CFT_SLOT_RUNNING, CFT_SLOT_RUNNING};
  slots.token = {4, 1000000, 0, 6};  // a slot at rest may hold anything
  slots.prefix = {5, 3, 200, 4000};
  slots.suffix = {0, 2, capacity - 1, 1};
  return slots;
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kDouble);
  return (wide * at::rsqrt(wide.square().mean(-1, true) + eps)).to(x.scalar_type()) * weight;
}

template <class T, int N>
void check_begin_step(int64_t width, Order order) {
  std::mt19937 random(3);
  Slots slots = five_rows(4);
  const int dim = 24, ropes = 2, vocab = 7;
  const auto embedding = decode_test::random_values<T>(random, size_t(vocab * width));
  auto hidden = decode_test::poisoned<T>(size_t(5 * width));
  std::vector<float> frequencies(ropes * dim / 2), table(size_t(ropes) * 5 * dim, kPoison);
  const std::vector<float> scales = {1.0f, 1.25f};
  for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] = std::pow(10.0f, -0.2f * float(i % 12));
  CftBeginStep step;
  step.embedding = embedding.data();
  step.hidden = hidden.data();
  step.width = width;
  step.inverse_frequencies = frequencies.data();
  step.rope_scales = scales.data();
  step.cos_sin = table.data();
  step.ropes = ropes;
  step.head_dim = dim;
  const CftDecodeState state = slots.state();
  emulator::launch({5}, {cft::kernels::kBeginStepThreads}, 0, order,
                   [&] { cft::kernels::begin_step_kernel<T, N>(state, step); });
  bool hidden_right = true, table_right = true;
  for (size_t row = 0; row < 5; ++row) {
    for (int64_t i = 0; i < width; ++i) {
      const T expected = slots.runs(row)
                             ? embedding[size_t(slots.token[size_t(slots.slot_of_row[row])] * width + i)]
                             : cft::kernels::from_float<T>(0.0f);
      hidden_right =
          hidden_right && decode_test::same_bits(&hidden[row * size_t(width) + size_t(i)], &expected, 1);
    }
    if (!slots.runs(row)) continue;
    const auto slot = size_t(slots.slot_of_row[row]);
    const auto position = float(slots.prefix[slot] + slots.suffix[slot]);
    for (int rope = 0; rope < ropes; ++rope)
      for (int i = 0; i < dim / 2; ++i) {
        // The angle is a product in fp32, as in transformers.
        const double angle = position * frequencies[size_t(rope * dim / 2 + i)];
        const float* entry = &table[((size_t(rope) * 5 + row) * dim / 2 + size_t(i)) * 2];
        table_right = table_right && std::abs(entry[0] - std::cos(angle) * scales[size_t(rope)]) < 1e-6 &&
                      std::abs(entry[1] - std::sin(angle) * scales[size_t(rope)]) < 1e-6;
      }
  }
  CHECK(hidden_right);
  CHECK(table_right);
}

struct QkvShape {
  int heads, kv_heads, dim, norm;
  bool bias;
};

template <class T>
void check_split_qkv(const QkvShape& s, Order order) {
  CAPTURE(s.dim);
  CAPTURE(s.norm);
  CAPTURE(s.bias);
  std::mt19937 random(17);
  const int capacity = 3;
  Slots slots = five_rows(capacity);
  const int64_t heads = s.heads + 2 * s.kv_heads, width = heads * s.dim;
  const double eps = 1e-5;
  const auto qkv = decode_test::random_values<T>(random, size_t(5 * width), 2.0f);
  const auto bias = decode_test::random_values<T>(random, size_t(width));
  const bool whole = s.norm == CFT_QK_NORM_PROJECTION;
  const auto q_norm = decode_test::random_values<T>(random, size_t(whole ? s.heads * s.dim : s.dim));
  const auto k_norm = decode_test::random_values<T>(random, size_t(whole ? s.kv_heads * s.dim : s.dim));
  const auto angles = decode_test::random_values<float>(random, size_t(5 * s.dim / 2), 3.0f);
  std::vector<float> table;
  for (const float angle : angles) table.insert(table.end(), {std::cos(angle), std::sin(angle)});
  const size_t arena_size = size_t(4 * s.kv_heads * capacity * s.dim);
  auto queries = decode_test::poisoned<T>(size_t(5 * s.heads * s.dim));
  auto arena_keys = decode_test::poisoned<T>(arena_size), arena_values = decode_test::poisoned<T>(arena_size);
  CftLayerCache cache;
  cache.arena_keys = arena_keys.data();
  cache.arena_values = arena_values.data();
  cache.heads = s.heads;
  cache.kv_heads = s.kv_heads;
  cache.head_dim = s.dim;
  CftSplitQkv split;
  split.qkv = qkv.data();
  split.bias = s.bias ? bias.data() : nullptr;
  split.q_norm = q_norm.data();
  split.k_norm = k_norm.data();
  split.norm = s.norm;
  split.eps = float(eps);
  split.cos_sin = table.data();
  split.queries = queries.data();
  const CftDecodeState state = slots.state();
  emulator::launch({5}, {cft::kernels::kSplitQkvThreads}, cft::kernels::kSplitQkvShared, order,
                   [&] { cft::kernels::split_qkv_kernel<T>(state, cache, split); });

  at::Tensor x = tensor(qkv, {5, width});
  if (s.bias) x = x + tensor(bias, {width});
  const int64_t q_size = s.heads * s.dim, k_size = s.kv_heads * s.dim;
  const at::Tensor angle = tensor(angles, {5, 1, s.dim / 2}).to(at::kDouble);
  const auto part = [&](int64_t first, int64_t count, const std::vector<T>& norm) {
    at::Tensor y = x.narrow(1, first, count * s.dim);
    if (whole) y = rms_norm(y, tensor(norm, {count * s.dim}), eps);
    y = y.reshape({5, count, s.dim});
    if (s.norm == CFT_QK_NORM_HEAD) y = rms_norm(y, tensor(norm, {s.dim}), eps);
    const at::Tensor wide = y.to(at::kDouble), low = wide.narrow(2, 0, s.dim / 2),
                     high = wide.narrow(2, s.dim / 2, s.dim / 2);
    return at::cat({low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()}, 2)
        .to(kDtype<T>);
  };
  const at::Tensor q = part(0, s.heads, q_norm), k = part(q_size, s.kv_heads, k_norm),
                   v = x.narrow(1, q_size + k_size, k_size).reshape({5, s.kv_heads, s.dim});
  at::Tensor expected_keys = at::full({4, s.kv_heads, capacity, s.dim}, kPoison, kDtype<T>);
  at::Tensor expected_values = expected_keys.clone(),
             expected_queries = at::full({5, s.heads, s.dim}, kPoison, kDtype<T>);
  for (int64_t row = 0; row < 5; ++row) {
    if (!slots.runs(size_t(row))) continue;
    const int64_t slot = slots.slot_of_row[size_t(row)], at_position = slots.suffix[size_t(slot)];
    expected_queries.select(0, row).copy_(q.select(0, row));
    expected_keys.select(0, slot).select(1, at_position).copy_(k.select(0, row));
    expected_values.select(0, slot).select(1, at_position).copy_(v.select(0, row));
  }
  // NaN marks what must not be written.
  const auto compare = [&](const std::vector<T>& written, const at::Tensor& expected) {
    const at::Tensor found = tensor(written, expected.sizes());
    CHECK(at::equal(found.isnan(), expected.isnan()));
    check_close<T>(found.nan_to_num(), expected.nan_to_num());
  };
  compare(queries, expected_queries);
  compare(arena_keys, expected_keys);
  compare(arena_values, expected_values);
}

template <class T, int N>
void check_swiglu(int64_t rows, int64_t width, Order order) {
  CAPTURE(width);
  std::mt19937 random(5);
  const auto gate_up = decode_test::random_values<T>(random, size_t(rows * 2 * width), 4.0f);
  auto y = decode_test::poisoned<T>(size_t(rows * width));
  const auto blocks =
      static_cast<unsigned>((width / N + cft::kernels::kSwigluThreads - 1) / cft::kernels::kSwigluThreads);
  emulator::launch({blocks, static_cast<unsigned>(rows)}, {cft::kernels::kSwigluThreads}, 0, order,
                   [&] { cft::kernels::swiglu_kernel<T, N>(gate_up.data(), y.data(), width); });
  const at::Tensor x = tensor(gate_up, {rows, 2 * width});
  check_close<T>(tensor(y, {rows, width}), at::silu(x.narrow(1, 0, width)) * x.narrow(1, width, width));
}

template <class T, int N, bool kAdd>
void check_rms_norm(int64_t rows, int64_t width, Order order) {
  CAPTURE(width);
  std::mt19937 random(7);
  const auto x = decode_test::random_values<T>(random, size_t(rows * width)),
             weight = decode_test::random_values<T>(random, size_t(width));
  auto y = kAdd ? decode_test::random_values<T>(random, size_t(rows * width))
                : decode_test::poisoned<T>(size_t(rows * width));
  at::Tensor expected = rms_norm(tensor(x, {rows, width}), tensor(weight, {width}), 1e-5);
  if (kAdd) expected = tensor(y, {rows, width}) + expected;
  const int threads = cft::kernels::row_threads(width / N);
  emulator::launch(
      {static_cast<unsigned>(rows)}, {static_cast<unsigned>(threads)}, threads / 32 * sizeof(float), order,
      [&] { cft::kernels::rms_norm_kernel<T, N, kAdd>(x.data(), weight.data(), y.data(), width, 1e-5f); });
  check_close<T>(tensor(y, {rows, width}), expected);
}

struct End {
  std::vector<int32_t> ring, counters{0, 0}, chosen, end_tokens;
  std::vector<float> values;
  std::vector<int32_t> indices;
  CftEndStep step;

  End(const Slots& slots, int64_t vocab, int32_t ring_steps, std::vector<int32_t> ends)
      : ring(size_t(ring_steps) * slots.status.size(), -7),
        chosen(slots.slot_of_row.size(), -7),
        end_tokens(std::move(ends)),
        values(slots.slot_of_row.size() * blocks(vocab), kPoison),
        indices(values.size(), -7) {
    step.vocab = vocab;
    step.partial_values = values.data();
    step.partial_indices = indices.data();
    step.chosen = chosen.data();
    step.end_tokens = end_tokens.data();
    step.end_token_count = int32_t(end_tokens.size());
    step.ring = ring.data();
    step.ring_steps = ring_steps;
    step.counters = counters.data();
  }

  static unsigned blocks(int64_t vocab) {
    return static_cast<unsigned>((vocab + cft::kernels::kArgmaxElements - 1) / cft::kernels::kArgmaxElements);
  }

  template <class T, int N>
  void argmax_blocks(Slots& slots, const std::vector<T>& logits, Order order) {
    step.logits = logits.data();
    const CftDecodeState state = slots.state();
    emulator::launch({blocks(step.vocab), static_cast<unsigned>(state.rows)}, {cft::kernels::kArgmaxThreads},
                     cft::kernels::kArgmaxShared, order,
                     [&] { cft::kernels::argmax_blocks_kernel<T, N>(state, step); });
  }

  template <bool kArgmax, bool kAdvance>
  void finish(Slots& slots, Order order = Order::kForward) {
    const CftDecodeState state = slots.state();
    const auto grid =
        static_cast<unsigned>((state.rows + cft::kernels::kEndStepWarps - 1) / cft::kernels::kEndStepWarps);
    emulator::launch({grid}, {32 * cft::kernels::kEndStepWarps}, 0, order, [&] {
      cft::kernels::end_step_kernel<kArgmax, kAdvance>(state, step, static_cast<int>(blocks(step.vocab)));
    });
  }
};

template <class T, int N>
void check_argmax(int64_t vocab, Order order) {
  CAPTURE(vocab);
  std::mt19937 random(23);
  Slots slots = five_rows(8);
  auto logits = decode_test::random_values<T>(random, size_t(5 * vocab));
  // Row 0: equals, the first of which counts; row 1: all equal; row 3: the last.
  const T top = cft::kernels::from_float<T>(9.0f);
  for (const int64_t i : {vocab / 3, vocab / 2, vocab - 1}) logits[size_t(i)] = top;
  std::fill(logits.begin() + vocab, logits.begin() + 2 * vocab,
            cft::kernels::from_float<T>(-std::numeric_limits<float>::infinity()));
  logits[size_t(4 * vocab - 1)] = top;
  End end(slots, vocab, 1, {});
  end.argmax_blocks<T, N>(slots, logits, order);
  end.finish<true, false>(slots, order);
  CHECK(end.chosen == std::vector<int32_t>{int32_t(vocab / 3), 0, -1, int32_t(vocab - 1), -1});
  // Nothing but `chosen` was written.
  CHECK(end.ring == std::vector<int32_t>(4, -7));
  CHECK(end.counters == std::vector<int32_t>{0, 0});
  CHECK(slots.suffix == five_rows(8).suffix);
}

}  // namespace

TEST_CASE("emulated begin_step gathers tokens and makes the rotary tables") {
  for (const Order order : {Order::kForward, Order::kBackward}) {
    check_begin_step<float, 1>(129, order);
    check_begin_step<float, 4>(1032, order);
    check_begin_step<Bf16, 1>(3, order);
    check_begin_step<Bf16, 8>(64, order);
  }
}

TEST_CASE("emulated split_qkv equals bias, norms and rotation by libtorch, and writes nothing else") {
  for (const int norm : {CFT_QK_NORM_NONE, CFT_QK_NORM_HEAD, CFT_QK_NORM_PROJECTION})
    for (const bool bias : {false, true})
      for (const Order order : {Order::kForward, Order::kBackward}) {
        check_split_qkv<float>({6, 2, 64, norm, bias}, order);
        check_split_qkv<Bf16>({6, 2, 64, norm, bias}, order);
      }
  for (const int dim : {8, 40, 136, 256})
    for (const int norm : {CFT_QK_NORM_HEAD, CFT_QK_NORM_PROJECTION}) {
      check_split_qkv<float>({3, 1, dim, norm, true}, Order::kForward);
      check_split_qkv<Bf16>({9, 3, dim, norm, false}, Order::kForward);
    }
}

TEST_CASE("emulated swiglu equals libtorch at odd sizes") {
  for (const Order order : {Order::kForward, Order::kBackward}) {
    for (const int64_t width : {1, 255, 256, 257, 600}) {
      check_swiglu<float, 1>(3, width, order);
      check_swiglu<Bf16, 1>(3, width, order);
    }
    check_swiglu<float, 4>(2, 1028, order);
    check_swiglu<Bf16, 8>(2, 2056, order);
    check_swiglu<Bf16, 8>(0, 8, order);
  }
}

TEST_CASE("emulated rms_norm, alone and added to the residual, equals libtorch at odd sizes") {
  for (const Order order : {Order::kForward, Order::kBackward}) {
    for (const int64_t width : {1, 33, 1030}) {
      check_rms_norm<float, 1, false>(3, width, order);
      check_rms_norm<Bf16, 1, true>(3, width, order);
    }
    check_rms_norm<float, 4, true>(2, 4100, order);
    check_rms_norm<Bf16, 8, false>(2, 8200, order);
    check_rms_norm<Bf16, 8, false>(0, 8, order);
  }
}

TEST_CASE("emulated argmax takes the first of equals, in every block of the vocabulary") {
  for (const Order order : {Order::kForward, Order::kBackward}) {
    for (const int64_t vocab : {1, 5, 8192, 8193, 50257}) {
      check_argmax<float, 1>(vocab, order);
      check_argmax<Bf16, 1>(vocab, order);
    }
    check_argmax<float, 4>(20000, order);
    check_argmax<Bf16, 8>(24584, order);
  }
}

TEST_CASE("emulated argmax of NaN alone names no token, and that ends the branch") {
  Slots slots = five_rows(8);
  End end(slots, 9000, 1, {});
  end.argmax_blocks<float, 1>(slots, std::vector<float>(5 * 9000, kPoison), Order::kForward);
  end.finish<true, false>(slots);
  CHECK(end.chosen == std::vector<int32_t>(5, -1));
  end.finish<true, true>(slots);
  CHECK(slots.status == std::vector<int32_t>(4, CFT_SLOT_IDLE));
  CHECK(end.ring == std::vector<int32_t>{-1, -7, -1, -1});
}

TEST_CASE("emulated end of a step: end tokens, budgets, forced tokens, a full arena, rows at rest") {
  for (const Order order : {Order::kForward, Order::kBackward}) {
    Slots slots(7, 6, 10);
    slots.slot_of_row = {5, 0, -1, 1, 2, 3, 4};
    slots.status = std::vector<int32_t>(6, CFT_SLOT_RUNNING);
    slots.status[5] = CFT_SLOT_IDLE;
    slots.suffix = {0, 1, 2, 9, 0, 4};
    slots.budget = {5, 1, 4, 3, 5, 3};
    slots.forced_capacity = 3;
    slots.forced_count = {1, 1, 1, 1, 3, 1};
    slots.forced_tokens = std::vector<int32_t>(18, -9);
    slots.forced_tokens[12] = 70;
    slots.forced_tokens[13] = 71;
    slots.forced_tokens[14] = 72;
    slots.token = {10, 11, 12, 13, 70, 15};
    End end(slots, 100, 2, {2, 42});
    end.counters = {5, 0};
    end.chosen = {99, 30, 98, 31, 42, 33, 97};
    end.finish<false, true>(slots, order);
    // Slot 0 goes on, 1 ends by its budget, 2 by an end token, 3 waits for a larger arena, 4 still feeds.
    CHECK(slots.status == std::vector<int32_t>{CFT_SLOT_RUNNING, CFT_SLOT_IDLE, CFT_SLOT_IDLE,
                                               CFT_SLOT_ARENA_FULL, CFT_SLOT_RUNNING, CFT_SLOT_IDLE});
    CHECK(slots.suffix == std::vector<int32_t>{1, 2, 3, 10, 1, 4});
    CHECK(slots.budget == std::vector<int32_t>{4, 0, 3, 2, 5, 3});
    CHECK(slots.token == std::vector<int32_t>{30, 11, 12, 33, 71, 15});
    CHECK(end.ring == std::vector<int32_t>{-7, -7, -7, -7, -7, -7, 30, 31, 42, 33, -7, -7});
    CHECK(end.counters == std::vector<int32_t>{6, 0});

    end.chosen = {99, 2, 98, 50, 51, 52, 53};
    end.finish<false, true>(slots, order);
    CHECK(slots.status == std::vector<int32_t>{CFT_SLOT_IDLE, CFT_SLOT_IDLE, CFT_SLOT_IDLE,
                                               CFT_SLOT_ARENA_FULL, CFT_SLOT_RUNNING, CFT_SLOT_IDLE});
    CHECK(slots.token[4] == 72);
    end.finish<false, true>(slots, order);
    CHECK(slots.token[4] == 53);  // all forced ones are fed: the first decoded token
    CHECK(slots.budget[4] == 4);
    CHECK(slots.suffix == std::vector<int32_t>{2, 2, 3, 10, 3, 4});
    CHECK(end.ring == std::vector<int32_t>{2, -7, -7, -7, -7, -7, 30, 31, 42, 33, 53, -7});
    CHECK(end.counters == std::vector<int32_t>{8, 0});
  }
}

TEST_CASE("emulated argmax and end of a step together do what they do one after the other") {
  std::mt19937 random(29);
  const auto logits = decode_test::random_values<float>(random, 5 * 9000);
  Slots one = five_rows(20), two = five_rows(20);
  one.budget = two.budget = {3, 3, 3, 3};
  End together(one, 9000, 3, {1}), apart(two, 9000, 3, {1});
  together.argmax_blocks<float, 1>(one, logits, Order::kForward);
  together.finish<true, true>(one);
  apart.argmax_blocks<float, 1>(two, logits, Order::kForward);
  apart.finish<true, false>(two);
  apart.finish<false, true>(two);
  CHECK(one.token == two.token);
  CHECK(one.token != five_rows(20).token);
  CHECK(one.suffix == two.suffix);
  CHECK(one.budget == two.budget);
  CHECK(together.ring == apart.ring);
  CHECK(together.chosen == std::vector<int32_t>(5, -7));
}

TEST_CASE("emulated refill writes the slots named and no others") {
  Slots slots = five_rows(8);
  const Slots before = slots;
  const std::vector<CftSlotRecord> records = {{3, CFT_SLOT_RUNNING, 7, 11, 0, 33, 20, 2},
                                              {1, CFT_SLOT_IDLE, 1, 2, 3, 4, 5, 6}};
  const CftDecodeState state = slots.state();
  emulator::launch({1}, {128}, 0, Order::kForward, [&] {
    cft::kernels::refill_slots_kernel<128>(records.data(), static_cast<int>(records.size()), state);
  });
  CHECK(slots.status == std::vector<int32_t>{1, 0, 1, 1});
  CHECK(slots.token == std::vector<int32_t>{before.token[0], 1, before.token[2], 7});
  CHECK(slots.prefix == std::vector<int32_t>{before.prefix[0], 2, before.prefix[2], 11});
  CHECK(slots.suffix == std::vector<int32_t>{before.suffix[0], 3, before.suffix[2], 0});
  CHECK(slots.trunk_start == std::vector<int32_t>{0, 4, 0, 33});
  CHECK(slots.budget == std::vector<int32_t>{1, 5, 1, 20});
  CHECK(slots.forced_count == std::vector<int32_t>{1, 6, 1, 2});
}

TEST_CASE("trunk_tiles: rows of one trunk together, long prefixes first, no tile too large") {
  const cft::kernels::TrunkTiles found =
      cft::kernels::trunk_tiles({{0, 50, 3}, {1, 10, 9}, {2, 50, 8}, {3, 10, 9}, {4, 10, 2}, {5, 50, 1}}, 2);
  CHECK(found.rows == std::vector<int32_t>{1, 3, 4, 2, 0, 5});
  std::vector<int32_t> spans;
  for (const CftTrunkTile& tile : found.tiles) spans.insert(spans.end(), {tile.first, tile.count});
  CHECK(spans == std::vector<int32_t>{0, 2, 3, 2, 2, 1, 5, 1});
  CHECK(cft::kernels::trunk_tiles({}, 4).tiles.empty());
}
