// Softmax attention of one warp: 16 queries against tiles of keys and values in shared memory, with a running
// maximum and sum per query. bf16 goes through tensor cores; fp32 through plain multiply-adds, exact and
// slow.
//
// Scores are kept as logarithms to base 2: `scale` is 1 / sqrt(head_dim) / ln 2. A key outside a query's
// range changes no bit of its result, so tiles may be walked that only other queries of the warp need.
#pragma once
#include "kernels/slots.cuh"
#include "kernels/tensor_core.cuh"

namespace cft::kernels {

constexpr int kWarpQueries = 16;

// Elements between neighbouring rows of a tile: rows shifted against the banks of shared memory.
template <class T, int kDim>
constexpr int kTileStride = kDim + 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ float minus_infinity() { return -INFINITY; }

// kDim: head_dim rounded up to what is compiled. `row(i)` is query i (head_dim elements) or null; `range(i)`
// the positions that it sees.
template <class T, int kDim, int kKeys>
class WarpAttention;

template <int kDim, int kKeys>
class WarpAttention<Bf16, kDim, kKeys> {
 public:
  static constexpr int kScratch = 0;  // floats of shared memory per warp

  template <class Row, class GetRange>
  __device__ __forceinline__ void begin(Row row, GetRange range, int dim) {
    const Bf16* const rows[2] = {row(group()), row(group() + 8)};
    CFT_UNROLL for (int i = 0; i < 2; ++i) range_[i] = range(group() + 8 * i);
    CFT_UNROLL for (int k = 0; k < kDim / 16; ++k) CFT_UNROLL for (int i = 0; i < 4; ++i) {
      const Bf16* from = rows[i % 2];
      const int column = 16 * k + 8 * (i / 2);
      query_[k][i] = from == nullptr || column >= dim
                         ? 0u
                         : *reinterpret_cast<const uint32_t*>(from + column + 2 * pair());
    }
    CFT_UNROLL for (int j = 0; j < kDim / 8; ++j) CFT_UNROLL for (int i = 0; i < 4; ++i) out_[j][i] = 0.0f;
  }

  // Keys at positions first, first + 1, ...
  template <class Row>
  __device__ __forceinline__ void attend(Row, int, const Bf16* keys, const Bf16* values, int first,
                                         float scale, float*) {
    constexpr int kStride = kTileStride<Bf16, kDim>;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float p[kKeys / 8][4];  // scores, then weights: keys 8 j + 2 pair + i % 2 of query group + 8 (i / 2)
    CFT_UNROLL for (int j = 0; j < kKeys / 8; ++j) CFT_UNROLL for (int i = 0; i < 4; ++i) p[j][i] = 0.0f;
    {
      const Bf16* place = keys + (lane % 8 + lane / 16 * 8) * kStride + lane / 8 % 2 * 8;
      CFT_UNROLL for (int k = 0; k < kDim / 16; ++k) CFT_UNROLL for (int j = 0; j < kKeys / 16; ++j) {
        uint32_t b[4];
        load_matrices<false>(b, place + 16 * j * kStride + 16 * k);
        mma_16x8x16(p[2 * j], query_[k], b[0], b[1]);
        mma_16x8x16(p[2 * j + 1], query_[k], b[2], b[3]);
      }
    }
    CFT_UNROLL for (int i = 0; i < 2; ++i) {
      float top = top_[i];
      CFT_UNROLL for (int j = 0; j < kKeys / 8; ++j) CFT_UNROLL for (int c = 0; c < 2; ++c) {
        const int position = first + 8 * j + 2 * pair() + c;
        float& score = p[j][2 * i + c];
        score = position >= range_[i].begin && position < range_[i].end ? score * scale : minus_infinity();
        top = larger(top, score);
      }
      top = larger(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = larger(top, __shfl_xor_sync(0xffffffffu, top, 2));
      const float base =
          top == minus_infinity() ? 0.0f : top;  // nothing seen yet: no difference of infinities
      const float keep = exp2f(top_[i] - base);
      top_[i] = top;
      sum_[i] *= keep;
      CFT_UNROLL for (int j = 0; j < kDim / 8; ++j) CFT_UNROLL for (int c = 0; c < 2; ++c)
          out_[j][2 * i + c] *= keep;
      CFT_UNROLL for (int j = 0; j < kKeys / 8; ++j) CFT_UNROLL for (int c = 0; c < 2; ++c) {
        float& weight = p[j][2 * i + c];
        weight = exp2f(weight - base);
        sum_[i] += weight;
      }
    }
    const Bf16* place = values + (lane % 8 + lane / 8 % 2 * 8) * kStride + lane / 16 * 8;
    CFT_UNROLL for (int k = 0; k < kKeys / 16; ++k) {
      const uint32_t a[4] = {pack_bf16(p[2 * k][0], p[2 * k][1]), pack_bf16(p[2 * k][2], p[2 * k][3]),
                             pack_bf16(p[2 * k + 1][0], p[2 * k + 1][1]),
                             pack_bf16(p[2 * k + 1][2], p[2 * k + 1][3])};
      CFT_UNROLL for (int j = 0; j < kDim / 16; ++j) {
        uint32_t b[4];
        load_matrices<true>(b, place + 16 * k * kStride + 16 * j);
        mma_16x8x16(out_[2 * j], a, b[0], b[1]);
        mma_16x8x16(out_[2 * j + 1], a, b[2], b[3]);
      }
    }
  }

  // Writes the unscaled sums to `out(i)` (head_dim floats, null for none) and {top, sum} to `stats(i)`.
  template <class Out, class Stats>
  __device__ __forceinline__ void write(Out out, Stats stats, int dim) {
    CFT_UNROLL for (int i = 0; i < 2; ++i) {
      float sum = sum_[i];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int query = group() + 8 * i;
      float* to = out(query);
      if (to == nullptr) continue;
      if (pair() == 0) *stats(query) = {{top_[i], sum}};
      CFT_UNROLL for (int j = 0; j < kDim / 8; ++j) if (8 * j < dim) {
        *reinterpret_cast<Pack<float, 2>*>(to + 8 * j + 2 * pair()) = {{out_[j][2 * i], out_[j][2 * i + 1]}};
      }
    }
  }

 private:
  // The fragments' coordinates, see tensor_core.cuh.
  __device__ static int group() { return static_cast<int>(threadIdx.x) % 32 / 4; }
  __device__ static int pair() { return static_cast<int>(threadIdx.x) % 4; }

  uint32_t query_[kDim / 16][4];
  float out_[kDim / 8][4];
  float top_[2] = {minus_infinity(), minus_infinity()};
  float sum_[2] = {0.0f, 0.0f};  // of this lane's keys
  Range range_[2];
};

// Lane i below 16 keeps the maximum and sum of query i; every lane keeps elements lane + 32 j of all outputs.
template <int kDim, int kKeys>
class WarpAttention<float, kDim, kKeys> {
 public:
  static constexpr int kScratch = kWarpQueries * (kKeys + 1) + kWarpQueries;

  template <class Row, class GetRange>
  __device__ __forceinline__ void begin(Row, GetRange range, int) {
    range_ = range(lane() % kWarpQueries);
    CFT_UNROLL for (int i = 0; i < kWarpQueries; ++i) CFT_UNROLL for (int j = 0; j < kDim / 32; ++j)
        out_[i][j] = 0.0f;
  }

  template <class Row>
  __device__ __forceinline__ void attend(Row row, int dim, const float* keys, const float* values, int first,
                                         float scale, float* scratch) {
    constexpr int kStride = kTileStride<float, kDim>;
    using Quad = Pack<float, 4>;
    float* keeps = scratch + kWarpQueries * (kKeys + 1);
    for (int n = lane(); n < kWarpQueries * kKeys; n += 32) {
      const int i = n / kKeys, key = n % kKeys;
      const float* query = row(i);
      if (query == nullptr) continue;
      float score = 0.0f;
      for (int d = 0; d < dim; d += 4) {
        const Quad a = *reinterpret_cast<const Quad*>(query + d);
        const Quad b = *reinterpret_cast<const Quad*>(keys + key * kStride + d);
        CFT_UNROLL for (int j = 0; j < 4; ++j) score += a.values[j] * b.values[j];
      }
      scratch[i * (kKeys + 1) + key] = score * scale;
    }
    __syncwarp();
    if (lane() < kWarpQueries) {
      float* scores = scratch + lane() * (kKeys + 1);
      float top = top_;
      for (int key = 0; key < kKeys; ++key) {
        const bool seen = first + key >= range_.begin && first + key < range_.end;
        if (!seen) scores[key] = minus_infinity();
        top = larger(top, scores[key]);
      }
      const float base = top == minus_infinity() ? 0.0f : top;
      const float keep = exp2f(top_ - base);
      sum_ *= keep;
      for (int key = 0; key < kKeys; ++key) {
        scores[key] = exp2f(scores[key] - base);
        sum_ += scores[key];
      }
      top_ = top;
      keeps[lane()] = keep;
    }
    __syncwarp();
    CFT_UNROLL for (int i = 0; i < kWarpQueries; ++i) CFT_UNROLL for (int j = 0; j < kDim / 32; ++j)
        out_[i][j] *= keeps[i];
    for (int key = 0; key < kKeys; ++key) {
      float value[kDim / 32];
      CFT_UNROLL for (int j = 0; j < kDim / 32; ++j) value[j] = values[key * kStride + lane() + 32 * j];
      CFT_UNROLL for (int i = 0; i < kWarpQueries; ++i) {
        const float weight = scratch[i * (kKeys + 1) + key];
        CFT_UNROLL for (int j = 0; j < kDim / 32; ++j) out_[i][j] += weight * value[j];
      }
    }
    __syncwarp();
  }

  template <class Out, class Stats>
  __device__ __forceinline__ void write(Out out, Stats stats, int dim) {
    if (lane() < kWarpQueries && out(lane()) != nullptr) *stats(lane()) = {{top_, sum_}};
    CFT_UNROLL for (int i = 0; i < kWarpQueries; ++i) {
      float* to = out(i);
      if (to == nullptr) continue;
      CFT_UNROLL for (int j = 0; j < kDim / 32; ++j) if (lane() + 32 * j < dim) to[lane() + 32 * j] =
          out_[i][j];
    }
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }

  float out_[kWarpQueries][kDim / 32];
  float top_ = minus_infinity(), sum_ = 0.0f;
  Range range_;
};

}  // namespace cft::kernels
