// The kernels of native/kernels/branch_attention.cuh, run under the emulator, against attention in doubles.
#include "kernels/branch_attention.cuh"

#include <cmath>

#include "test/emulator/decode_slots.h"

namespace {

using cft::kernels::Bf16;
using decode_test::kPoison;
using decode_test::Slots;
using emulator::Order;

struct Shape {
  int heads, kv_heads, dim, window = 0, chunk = 64;
};

struct Row {
  int trunk, prefix, suffix;  // suffix: positions before the new one
  bool running = true;
};

struct Case {
  Shape shape;
  std::vector<int> trunks;  // lengths
  std::vector<Row> rows;
};

// A case's memory. Whatever no row may see is NaN: the pool between the trunks, the arena behind suffixes.
template <class T>
struct Memory {
  Slots slots;
  std::vector<T> queries, trunk_keys, trunk_values, arena_keys, arena_values;
  int pool = 0, chunks = 0;

  Memory(const Case& c, unsigned seed, int capacity = 40)
      : slots(c.rows.size() + 1, c.rows.size() + 2, capacity) {
    std::mt19937 random(seed);
    const Shape& s = c.shape;
    std::vector<int> starts;
    int longest = 1;
    for (const int length : c.trunks) {
      starts.push_back(pool + 3);
      pool += length + 3;
      longest = std::max(longest, length);
    }
    pool += 2;
    chunks = (longest + s.chunk - 1) / s.chunk;
    queries = decode_test::random_values<T>(random, slots.slot_of_row.size() * s.heads * s.dim, 2.0f);
    for (auto* part : {&trunk_keys, &trunk_values}) {
      *part = decode_test::poisoned<T>(size_t(s.kv_heads) * pool * s.dim);
      for (size_t t = 0; t < c.trunks.size(); ++t)
        for (int h = 0; h < s.kv_heads; ++h) {
          const auto values = decode_test::random_values<T>(random, size_t(c.trunks[t]) * s.dim);
          std::copy(values.begin(), values.end(), part->begin() + (size_t(h) * pool + starts[t]) * s.dim);
        }
    }
    for (auto* part : {&arena_keys, &arena_values})
      *part = decode_test::poisoned<T>(slots.status.size() * s.kv_heads * capacity * s.dim);
    for (size_t i = 0; i < c.rows.size(); ++i) {
      const Row& row = c.rows[i];
      const size_t slot = c.rows.size() - i;  // another order than the rows'
      slots.slot_of_row[i] = static_cast<int32_t>(slot);
      slots.status[slot] = row.running ? CFT_SLOT_RUNNING : CFT_SLOT_IDLE;
      slots.prefix[slot] = row.prefix;
      slots.suffix[slot] = row.suffix;
      slots.trunk_start[slot] = starts[row.trunk];
      for (auto* part : {&arena_keys, &arena_values})
        for (int h = 0; h < s.kv_heads; ++h) {
          const auto values = decode_test::random_values<T>(random, size_t(row.suffix + 1) * s.dim);
          std::copy(values.begin(), values.end(), part->begin() + (slot * s.kv_heads + h) * capacity * s.dim);
        }
    }
  }
};

// One row in doubles: plain softmax over all keys that it sees.
template <class T>
std::vector<double> reference(const Case& c, Memory<T>& m, size_t i) {
  const Shape& s = c.shape;
  std::vector<double> result(size_t(s.heads) * s.dim, 0.0);
  if (i >= c.rows.size() || !c.rows[i].running) return result;
  const Row& row = c.rows[i];
  const size_t slot = static_cast<size_t>(m.slots.slot_of_row[i]);
  const int position = row.prefix + row.suffix;
  for (int h = 0; h < s.heads; ++h) {
    const int kv = h / (s.heads / s.kv_heads);
    const T* query = m.queries.data() + (i * s.heads + h) * s.dim;
    std::vector<double> scores;
    std::vector<const T*> values;
    for (int p = 0; p <= position; ++p) {
      if (s.window > 0 && p <= position - s.window) continue;
      const size_t place = p < row.prefix
                               ? (size_t(kv) * m.pool + m.slots.trunk_start[slot] + p) * s.dim
                               : ((slot * s.kv_heads + kv) * m.slots.capacity + (p - row.prefix)) * s.dim;
      const T* key = (p < row.prefix ? m.trunk_keys : m.arena_keys).data() + place;
      values.push_back((p < row.prefix ? m.trunk_values : m.arena_values).data() + place);
      double score = 0;
      for (int d = 0; d < s.dim; ++d)
        score += double(cft::kernels::to_float(query[d])) * cft::kernels::to_float(key[d]);
      scores.push_back(score / std::sqrt(double(s.dim)));
    }
    const double top = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (double& score : scores) total += score = std::exp(score - top);
    for (size_t k = 0; k < scores.size(); ++k)
      for (int d = 0; d < s.dim; ++d)
        result[size_t(h) * s.dim + d] += scores[k] / total * cft::kernels::to_float(values[k][d]);
  }
  return result;
}

template <class T, int kDim>
std::vector<T> emulated(const Case& c, Memory<T>& m, Order order, unsigned blocks) {
  using namespace cft::kernels;
  const Shape& s = c.shape;
  const int group = s.heads / s.kv_heads;
  TrunkTiles tiles = m.slots.tiles(kTrunkQueries / group);
  const auto tile_count = static_cast<int32_t>(tiles.tiles.size());
  const size_t rows = m.slots.slot_of_row.size();
  std::vector<float> partial(rows * s.heads * m.chunks * s.dim, kPoison);
  std::vector<float> stats(rows * s.heads * m.chunks * 2, kPoison);
  std::vector<T> out = decode_test::poisoned<T>(rows * s.heads * s.dim);
  CftLayerCache cache;
  cache.arena_keys = m.arena_keys.data();
  cache.arena_values = m.arena_values.data();
  cache.trunk_keys = m.trunk_keys.data();
  cache.trunk_values = m.trunk_values.data();
  cache.trunk_positions = m.pool;
  cache.heads = s.heads;
  cache.kv_heads = s.kv_heads;
  cache.head_dim = s.dim;
  cache.window = s.window;
  CftAttention work;
  work.queries = m.queries.data();
  work.tiles = tiles.tiles.data();
  work.tile_count = &tile_count;
  work.tile_rows = tiles.rows.data();
  work.chunk_positions = s.chunk;
  work.chunks = m.chunks;
  work.partial = partial.data();
  work.partial_stats = stats.data();
  work.out = out.data();
  const CftDecodeState state = m.slots.state();
  emulator::launch({blocks}, {32 * kTrunkWarps}, kTrunkShared<T, kDim>, order,
                   [&] { trunk_attention_kernel<T, kDim>(state, cache, work); });
  emulator::launch({static_cast<unsigned>(rows), static_cast<unsigned>(s.kv_heads),
                    static_cast<unsigned>((group + kWarpQueries - 1) / kWarpQueries)},
                   {32 * kSuffixWarps<T>}, kSuffixShared<T, kDim>, order,
                   [&] { suffix_attention_kernel<T, kDim>(state, cache, work); });
  return out;
}

template <class T, int kDim>
void compare(const Case& c, Order order = Order::kForward) {
  CAPTURE(c.shape.heads);
  CAPTURE(c.shape.dim);
  CAPTURE(c.shape.window);
  CAPTURE(sizeof(T));
  Memory<T> m(c, 11);
  const std::vector<double> found = decode_test::to_double(emulated<T, kDim>(c, m, order, 3));
  const size_t width = size_t(c.shape.heads) * c.shape.dim;
  double worst = 0;
  for (size_t i = 0; i <= c.rows.size(); ++i) {
    const std::vector<double> expected = reference(c, m, i);
    for (size_t d = 0; d < width; ++d) {
      const double difference = std::abs(found[i * width + d] - expected[d]);
      worst = std::isnan(difference) ? 1e9 : std::max(worst, difference);
    }
  }
  // Values are of size 1. bf16: weights and results are rounded to 8 bits.
  CHECK(worst < (sizeof(T) == 4 ? 2e-6 : 1.2e-2));
}

// Three trunks; rows that see nothing of theirs, one position, a border of tiles and chunks, all of it; a row
// that has ended; suffixes of one position, a whole tile, more tiles than warps.
Case mixed_case(const Shape& shape) {
  return {shape,
          {130, 1, 67},
          {{0, 130, 0},
           {2, 67, 39},
           {0, 0, 3},
           {1, 1, 15},
           {0, 64, 16},
           {0, 65, 7},
           {0, 129, 38, false},
           {2, 1, 31},
           {0, 63, 0},
           {1, 0, 1},
           {0, 128, 20}}};
}

}  // namespace

TEST_CASE("emulated branch attention equals softmax in doubles: heads, head_dim, rows at borders") {
  for (const Order order : {Order::kForward, Order::kBackward}) {
    compare<float, 64>(mixed_case({4, 2, 64}), order);
    compare<Bf16, 64>(mixed_case({4, 2, 64}), order);
  }
  compare<Bf16, 64>(mixed_case({7, 1, 40}));
  compare<float, 64>(mixed_case({3, 3, 8}));
  compare<Bf16, 64>(mixed_case({3, 3, 8}));
  compare<float, 128>(mixed_case({3, 1, 72}));
  compare<Bf16, 128>(mixed_case({3, 1, 128}));
  compare<float, 256>(mixed_case({2, 1, 136}));
  compare<Bf16, 256>(mixed_case({2, 1, 256}));
}

TEST_CASE("emulated branch attention: more query heads per key head than a warp or a tile takes") {
  compare<float, 64>(mixed_case({17, 1, 16}));
  compare<Bf16, 64>(mixed_case({35, 1, 16}));
}

TEST_CASE("emulated branch attention: sliding windows end in the suffix, in the trunk, at borders") {
  for (const int window : {1, 2, 16, 40, 64, 66, 100, 1000}) {
    compare<float, 64>(mixed_case({2, 1, 16, window}));
    compare<Bf16, 64>(mixed_case({2, 1, 16, window}));
  }
}

TEST_CASE("emulated branch attention: no rows, rows at rest alone, more rows than a tile") {
  compare<Bf16, 64>({{4, 1, 16}, {5}, {}});
  compare<Bf16, 64>({{4, 1, 16}, {5}, {{0, 5, 1, false}, {0, 3, 0, false}}});
  Case crowd{{4, 1, 16}, {70, 9}, {}};
  for (int i = 0; i < 37; ++i) crowd.rows.push_back({i % 5 == 0, i % 5 == 0 ? i % 9 : i * 2 % 71, i % 8});
  compare<Bf16, 64>(crowd);
  compare<float, 64>(crowd);
}

TEST_CASE("emulated branch attention: a row has the same bits alone and in any company") {
  const auto check = [](auto type, int window) {
    using T = decltype(type);
    const Case all = mixed_case({4, 2, 24, window});
    Memory<T> together(all, 5);
    const std::vector<T> expected = emulated<T, 64>(all, together, Order::kForward, 2);
    const size_t width = size_t(all.shape.heads) * all.shape.dim;
    for (size_t i = 0; i < all.rows.size(); i += 3) {
      Memory<T> alone(all, 5);
      for (size_t j = 0; j < all.rows.size(); ++j)
        if (j != i) alone.slots.slot_of_row[j] = -1;
      const std::vector<T> found = emulated<T, 64>(all, alone, Order::kForward, 5);
      CHECK(decode_test::same_bits(found.data() + i * width, expected.data() + i * width, width));
    }
  };
  for (const int window : {0, 30}) {
    check(float{}, window);
    check(Bf16{}, window);
  }
}
