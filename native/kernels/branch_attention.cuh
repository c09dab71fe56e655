// Attention of decode rows: each row is one new token of a branch, which sees a prefix of its trunk's keys
// and values and those of its own suffix in the arena. Rows of one trunk are attended together, so that the
// trunk's keys are read once per block of up to 64 (row, query head) pairs; suffixes row by row.
//
// A trunk is cut into chunks and tiles at fixed absolute positions, a suffix into tiles that are dealt to the
// warps by number: what is added to what does not depend on the other rows.
#pragma once
#include "kernels/warp_attention.cuh"

namespace cft::kernels {

constexpr int kTrunkWarps = 4;
constexpr int kTrunkQueries = kTrunkWarps * kWarpQueries;
constexpr int kStages = 2;  // tiles in shared memory: one in use, one on its way

template <class T, int kDim>
constexpr int kTrunkKeys = sizeof(T) == 2 && kDim <= 128 ? 64 : 32;
constexpr int kSuffixKeys = 16;
template <class T>
constexpr int kSuffixWarps = sizeof(T) == 2 ? 4 : 2;

template <class T, int kDim>
constexpr int kTrunkTileBytes = 2 * kTrunkKeys<T, kDim> * kTileStride<T, kDim> * static_cast<int>(sizeof(T));
template <class T, int kDim>
constexpr int kTrunkShared =
    kStages * kTrunkTileBytes<T, kDim> +
    kTrunkWarps * WarpAttention<T, kDim, kTrunkKeys<T, kDim>>::kScratch * 4 + 3 * kTrunkQueries * 4;

template <class T, int kDim>
constexpr int kSuffixTileBytes = 2 * kSuffixKeys * kTileStride<T, kDim> * static_cast<int>(sizeof(T));
// The tiles' memory serves again for the warps' results.
template <class T, int kDim>
constexpr int kSuffixWarpBytes = kSuffixTileBytes<T, kDim> > kWarpQueries*(kDim + 2) * 4
                                     ? kSuffixTileBytes<T, kDim>
                                     : kWarpQueries*(kDim + 2) * 4;
template <class T, int kDim>
constexpr int kSuffixShared =
    kSuffixWarps<T> * (kSuffixWarpBytes<T, kDim> + WarpAttention<T, kDim, kSuffixKeys>::kScratch * 4);

__device__ __forceinline__ float score_scale(int dim) {
  return 1.44269504088896341f / sqrtf(static_cast<float>(dim));
}

// Starts the copy of kKeys rows from position `first` on; rows outside `seen` and columns from `dim` on
// become zeros. `thread` of `threads` take part. `source` is position 0 of the key head.
template <class T, int kDim, int kKeys>
__device__ __forceinline__ void copy_tile(T* target, const T* source, int first, Range seen, int dim,
                                          int thread, int threads) {
  constexpr int kPack = 16 / static_cast<int>(sizeof(T)), kPacks = kDim / kPack;
  for (int n = thread; n < kKeys * kPacks; n += threads) {
    const int key = n / kPacks, column = n % kPacks * kPack, position = first + key;
    const bool valid = position >= seen.begin && position < seen.end && column < dim;
    copy_async(target + key * kTileStride<T, kDim> + column,
               source + (valid ? static_cast<int64_t>(position) * dim + column : 0), valid);
  }
}

// Work items are (tile of rows, kv head, chunk), walked by a grid of any size. Block: 32 * kTrunkWarps.
// Dynamic shared memory: kTrunkShared. Chunks in which a row sees nothing are left unwritten.
template <class T, int kDim>
__global__ void __launch_bounds__(32 * kTrunkWarps)
    trunk_attention_kernel(CftDecodeState state, CftLayerCache cache, CftAttention work) {
  CFT_DYNAMIC_SHARED(unsigned char, shared);
  constexpr int kKeys = kTrunkKeys<T, kDim>;
  using Attention = WarpAttention<T, kDim, kKeys>;
  constexpr int kTile = kKeys * kTileStride<T, kDim>;
  T* tiles = reinterpret_cast<T*>(shared);  // (kStages, keys and values, kTile)
  float* scratch = reinterpret_cast<float*>(shared + kStages * kTrunkTileBytes<T, kDim>);
  int* begins = reinterpret_cast<int*>(scratch + kTrunkWarps * Attention::kScratch);
  int *ends = begins + kTrunkQueries, *rows = ends + kTrunkQueries;

  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int dim = cache.head_dim, group = cache.heads / cache.kv_heads;
  const float scale = score_scale(dim);
  const int items = *work.tile_count * cache.kv_heads * work.chunks;
  for (int item = static_cast<int>(blockIdx.x); item < items; item += static_cast<int>(gridDim.x)) {
    const int chunk = item % work.chunks, kv_head = item / work.chunks % cache.kv_heads;
    const CftTrunkTile tile = work.tiles[item / work.chunks / cache.kv_heads];
    __syncthreads();  // the last item's readers are done
    if (thread < kTrunkQueries) {
      Range range = {0, 0};
      int row = -1;
      if (thread < tile.count * group) {
        row = work.tile_rows[tile.first + thread / group];
        const RowSlot slot = slot_of(state, row);
        if (slot.running) {
          range = slot.trunk(cache.window);
          range.begin = larger(range.begin, chunk * work.chunk_positions);
          range.end = smaller(range.end, (chunk + 1) * work.chunk_positions);
        }
      }
      if (range.begin >= range.end) range = {0, 0}, row = -1;
      begins[thread] = range.begin;
      ends[thread] = range.end;
      rows[thread] = row;
    }
    __syncthreads();
    Range seen = {2147483647, 0};  // by any query
    int some_row = -1;
    for (int i = lane; i < kTrunkQueries; i += 32) {
      if (rows[i] < 0) continue;
      seen = {smaller(seen.begin, begins[i]), larger(seen.end, ends[i])};
      some_row = larger(some_row, rows[i]);
    }
    for (int mask = 16; mask > 0; mask >>= 1) {
      seen.begin = smaller(seen.begin, __shfl_xor_sync(0xffffffffu, seen.begin, mask));
      seen.end = larger(seen.end, __shfl_xor_sync(0xffffffffu, seen.end, mask));
      some_row = larger(some_row, __shfl_xor_sync(0xffffffffu, some_row, mask));
    }
    if (some_row < 0) continue;

    const int start = state.trunk_start[state.slot_of_row[some_row]];
    const int64_t offset = (kv_head * cache.trunk_positions + start) * dim;
    const T* keys = static_cast<const T*>(cache.trunk_keys) + offset;
    const T* values = static_cast<const T*>(cache.trunk_values) + offset;
    const auto fetch = [&](int number) {
      T* target = tiles + number % kStages * 2 * kTile;
      copy_tile<T, kDim, kKeys>(target, keys, number * kKeys, seen, dim, thread, 32 * kTrunkWarps);
      copy_tile<T, kDim, kKeys>(target + kTile, values, number * kKeys, seen, dim, thread, 32 * kTrunkWarps);
      commit_copies();
    };
    const int first_query = warp * kWarpQueries;
    const auto head_of = [&](int query) { return kv_head * group + query % group; };
    const auto query_row = [&](int i) -> const T* {
      const int query = first_query + i, row = rows[query];
      if (row < 0) return nullptr;
      return static_cast<const T*>(work.queries) +
             (static_cast<int64_t>(row) * cache.heads + head_of(query)) * dim;
    };
    Attention attention;
    attention.begin(
        query_row,
        [&](int i) {
          return Range{begins[first_query + i], ends[first_query + i]};
        },
        dim);
    const bool has_queries = first_query < tile.count * group;

    const int first = seen.begin / kKeys, last = (seen.end + kKeys - 1) / kKeys;
    fetch(first);
    for (int number = first; number < last; ++number) {
      if (number + 1 < last) {
        fetch(number + 1);
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      __syncthreads();
      const T* arrived = tiles + number % kStages * 2 * kTile;
      if (has_queries)
        attention.attend(query_row, dim, arrived, arrived + kTile, number * kKeys, scale,
                         scratch + warp * Attention::kScratch);
      __syncthreads();  // the next fetch overwrites this tile
    }
    if (!has_queries) continue;
    const auto partial_of = [&](int i) {
      const int query = first_query + i;
      return (static_cast<int64_t>(rows[query]) * cache.heads + head_of(query)) * work.chunks + chunk;
    };
    attention.write(
        [&](int i) -> float* {
          return rows[first_query + i] < 0 ? nullptr : work.partial + partial_of(i) * dim;
        },
        [&](int i) { return reinterpret_cast<Pack<float, 2>*>(work.partial_stats) + partial_of(i); }, dim);
  }
}

// Grid: (rows, kv_heads, query heads of a kv head by 16). Block: 32 * kSuffixWarps. Dynamic shared memory:
// kSuffixShared. Merges the suffix with the chunks of the trunk that trunk_attention_kernel left.
template <class T, int kDim>
__global__ void __launch_bounds__(32 * kSuffixWarps<T>)
    suffix_attention_kernel(CftDecodeState state, CftLayerCache cache, CftAttention work) {
  CFT_DYNAMIC_SHARED(unsigned char, shared);
  constexpr int kKeys = kSuffixKeys, kWarps = kSuffixWarps<T>, kTile = kKeys * kTileStride<T, kDim>;
  using Attention = WarpAttention<T, kDim, kKeys>;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int row = static_cast<int>(blockIdx.x), kv_head = static_cast<int>(blockIdx.y);
  const int dim = cache.head_dim, group = cache.heads / cache.kv_heads;
  const int first_head = kv_head * group + static_cast<int>(blockIdx.z) * kWarpQueries;
  const int count = smaller(kWarpQueries, group - static_cast<int>(blockIdx.z) * kWarpQueries);
  const RowSlot slot = slot_of(state, row);
  T* out = static_cast<T*>(work.out) + (static_cast<int64_t>(row) * cache.heads + first_head) * dim;
  if (!slot.running) {
    for (int i = thread; i < count * dim; i += 32 * kWarps) out[i] = from_float<T>(0.0f);
    return;
  }

  const Range seen = slot.in_arena(cache.window);
  const int64_t offset = (static_cast<int64_t>(slot.slot) * cache.kv_heads + kv_head) * state.capacity * dim;
  const T* keys = static_cast<const T*>(cache.arena_keys) + offset;
  const T* values = static_cast<const T*>(cache.arena_values) + offset;
  T* tile = reinterpret_cast<T*>(shared + warp * kSuffixWarpBytes<T, kDim>);
  float* scratch =
      reinterpret_cast<float*>(shared + kWarps * kSuffixWarpBytes<T, kDim>) + warp * Attention::kScratch;
  const auto query_row = [&](int i) -> const T* {
    if (i >= count) return nullptr;
    return static_cast<const T*>(work.queries) +
           (static_cast<int64_t>(row) * cache.heads + first_head + i) * dim;
  };
  Attention attention;
  attention.begin(
      query_row,
      [&](int i) {
        return i < count ? seen : Range{0, 0};
      },
      dim);
  const float scale = score_scale(dim);
  for (int number = seen.begin / kKeys; number * kKeys < seen.end; ++number) {
    if (number % kWarps != warp) continue;
    copy_tile<T, kDim, kKeys>(tile, keys, number * kKeys, seen, dim, lane, 32);
    copy_tile<T, kDim, kKeys>(tile + kTile, values, number * kKeys, seen, dim, lane, 32);
    commit_copies();
    wait_copies<0>();
    __syncwarp();
    attention.attend(query_row, dim, tile, tile + kTile, number * kKeys, scale, scratch);
    __syncwarp();
  }

  // A warp's tile memory now takes what it found: (16, kDim) sums, then 16 stats.
  const auto found = [&](int of_warp) {
    return reinterpret_cast<float*>(shared + of_warp * kSuffixWarpBytes<T, kDim>);
  };
  const auto stats_of = [&](int of_warp, int i) {
    return reinterpret_cast<Pack<float, 2>*>(found(of_warp) + kWarpQueries * kDim) + i;
  };
  attention.write([&](int i) { return i < count ? found(warp) + i * kDim : nullptr; },
                  [&](int i) { return stats_of(warp, i); }, dim);
  __syncthreads();

  const Range trunk = slot.trunk(cache.window);
  const int first_chunk = trunk.begin / work.chunk_positions;
  const int last_chunk = trunk.begin < trunk.end ? (trunk.end - 1) / work.chunk_positions + 1 : first_chunk;
  for (int i = warp; i < count; i += kWarps) {
    const int64_t partial = (static_cast<int64_t>(row) * cache.heads + first_head + i) * work.chunks;
    const auto* chunk_stats = reinterpret_cast<const Pack<float, 2>*>(work.partial_stats) + partial;
    float top = minus_infinity();
    for (int chunk = first_chunk; chunk < last_chunk; ++chunk)
      top = larger(top, chunk_stats[chunk].values[0]);
    CFT_UNROLL for (int w = 0; w < kWarps; ++w) top = larger(top, stats_of(w, i)->values[0]);
    float total = 0.0f, mixed[kDim / 32];
    CFT_UNROLL for (int j = 0; j < kDim / 32; ++j) mixed[j] = 0.0f;
    const auto add = [&](const Pack<float, 2>& stats, const float* sums) {
      const float weight = exp2f(stats.values[0] - top);
      total += weight * stats.values[1];
      CFT_UNROLL for (int j = 0; j < kDim / 32; ++j) if (lane + 32 * j < dim) mixed[j] +=
          weight * sums[lane + 32 * j];
    };
    for (int chunk = first_chunk; chunk < last_chunk; ++chunk)
      add(chunk_stats[chunk], work.partial + (partial + chunk) * dim);
    CFT_UNROLL for (int w = 0; w < kWarps; ++w) add(*stats_of(w, i), found(w) + i * kDim);
    CFT_UNROLL for (int j = 0; j < kDim / 32; ++j) if (lane + 32 * j < dim) out[i * dim + lane + 32 * j] =
        from_float<T>(mixed[j] / total);
  }
}

}  // namespace cft::kernels
