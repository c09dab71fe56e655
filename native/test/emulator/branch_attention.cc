// The kernels of native/kernels/branch_attention.cuh, run under the emulator, against attention in doubles.
#include "kernels/branch_attention.cuh"

#include "test/emulator/attention_case.h"

namespace {

using cft::kernels::Bf16;
using decode_test::Case;
using decode_test::kPoison;
using decode_test::Memory;
using decode_test::mixed_case;
using decode_test::Shape;
using emulator::Order;

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
  const std::vector<T> out = emulated<T, kDim>(c, m, order, 3);
  CHECK(decode_test::worst_difference(c, m, out) < decode_test::kAttentionTolerance<T>);
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

TEST_CASE("emulated branch attention: chunks of several tiles, in which some warps have no queries") {
  for (const Order order : {Order::kForward, Order::kBackward}) {
    compare<float, 64>(mixed_case({2, 1, 16, 0, 128}), order);
    compare<Bf16, 64>(mixed_case({2, 1, 16, 0, 192}), order);
    compare<Bf16, 64>(mixed_case({8, 1, 16, 70, 192}), order);
  }
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
    for (size_t i = 1; i < all.rows.size(); i += 3) {  // suffixes of several tiles
      Memory<T> alone(all, 5);
      const size_t other = (i + 5) % all.rows.size();  // nor does its place matter
      std::copy_n(together.queries.begin() + i * width, width, alone.queries.begin() + other * width);
      for (size_t j = 0; j < all.rows.size(); ++j)
        alone.slots.slot_of_row[j] = j == other ? together.slots.slot_of_row[i] : -1;
      const std::vector<T> found = emulated<T, 64>(all, alone, Order::kForward, 5);
      CHECK(decode_test::same_bits(found.data() + other * width, expected.data() + i * width, width));
    }
  };
  for (const int window : {0, 30}) {
    check(float{}, window);
    check(Bf16{}, window);
  }
}
