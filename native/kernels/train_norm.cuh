// RMSNorm of training: the forward keeps each row's 1 / rms, the backward gives the gradients of input and
// weight. Narrow rows (heads) are a warp's each, wide ones a block's.
#pragma once
#include "kernels/launch.cuh"
#include "kernels/train.h"

namespace cft::kernels {

constexpr int kNormWarps = 4;         // of a block whose warps have rows of their own
constexpr int kNormScratch = 32;      // floats
constexpr int64_t kNormParts = 512;   // sums of the weight's gradient, at most
constexpr int64_t kNarrowPacks = 64;  // two per lane

// Who works on a row, and the threads' sum over it. Scratch: one float per warp.
template <bool kWarp>
struct RowTeam {
  int lane, size;
  int64_t first, step;  // rows first, first + step, ...

  __device__ RowTeam() {
    const int warps = static_cast<int>(blockDim.x) / 32;
    lane = static_cast<int>(kWarp ? threadIdx.x % 32 : threadIdx.x);
    size = static_cast<int>(kWarp ? 32 : blockDim.x);
    first = kWarp ? static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32 : blockIdx.x;
    step = kWarp ? static_cast<int64_t>(gridDim.x) * warps : gridDim.x;
  }

  __device__ float sum(float x, float* scratch) const {
    if (kWarp) return warp_sum(x);
    x = block_sum(x, scratch);
    __syncthreads();  // the scratch is free for the next row
    return x;
  }
};

// Grid: any. Dynamic shared memory: kNormScratch floats.
template <class T, int N, bool kWarp>
__global__ void train_norm_kernel(CftTrainNorm norm) {
  CFT_DYNAMIC_SHARED(float, scratch);
  using Values = Pack<T, N>;
  const RowTeam<kWarp> team;
  const int64_t packs = norm.width / N;
  const Values* weights = static_cast<const Values*>(norm.weight);
  for (int64_t row = team.first; row < norm.rows; row += team.step) {
    const Values* in = static_cast<const Values*>(norm.x) + row * packs;
    Values* out = static_cast<Values*>(norm.y) + row * packs;
    float squares = 0.0f;
    for (int64_t i = team.lane; i < packs; i += team.size) {
      const Values x = in[i];
      CFT_UNROLL for (int j = 0; j < N; ++j) squares += to_float(x.values[j]) * to_float(x.values[j]);
    }
    const float scale = rsqrtf(team.sum(squares, scratch) / static_cast<float>(norm.width) + norm.eps);
    if (team.lane == 0) norm.inverse[row] = scale;
    for (int64_t i = team.lane; i < packs; i += team.size) {
      const Values x = in[i], factor = weights[i];
      Values y;
      CFT_UNROLL for (int j = 0; j < N; ++j) {
        const float scaled = to_float(from_float<T>(to_float(x.values[j]) * scale));
        y.values[j] = from_float<T>(scaled * to_float(factor.values[j]));
      }
      out[i] = y;
    }
  }
}

// With h = x * inverse and g = dy * weight: dx = inverse * (g - h * mean(g h)), and the weight's gradient is
// the sum of dy h over the rows: a block's share of it goes to partial[block], element j of pack i at
// j * packs + i. Grid: cft_train_norm_parts(rows). Dynamic shared memory: kNormScratch floats and, with a
// weight gradient, width floats per team.
template <class T, int N, bool kWarp>
__global__ void train_norm_backward_kernel(CftTrainNorm norm) {
  CFT_DYNAMIC_SHARED(float, shared);
  using Values = Pack<T, N>;
  const RowTeam<kWarp> team;
  const int64_t packs = norm.width / N;
  const bool wanted = norm.dweight != nullptr;
  float* const all_sums = shared + kNormScratch;
  float* const sums = all_sums + (kWarp ? threadIdx.x / 32 * norm.width : 0);
  // Each thread adds to its own columns alone.
  for (int64_t i = team.lane; wanted && i < packs; i += team.size)
    for (int j = 0; j < N; ++j) sums[j * packs + i] = 0.0f;
  const Values* weights = static_cast<const Values*>(norm.weight);
  for (int64_t row = team.first; row < norm.rows; row += team.step) {
    const Values* in = static_cast<const Values*>(norm.x) + row * packs;
    const Values* slopes = static_cast<const Values*>(norm.dy) + row * packs;
    Values* out = static_cast<Values*>(norm.dx) + row * packs;
    const float scale = norm.inverse[row];
    float products = 0.0f;
    for (int64_t i = team.lane; i < packs; i += team.size) {
      const Values x = in[i], d = slopes[i], factor = weights[i];
      CFT_UNROLL for (int j = 0; j < N; ++j) products +=
          to_float(d.values[j]) * to_float(factor.values[j]) * to_float(x.values[j]);
    }
    const float pull =
        team.sum(products, shared) * scale * scale / static_cast<float>(norm.width);  // mean(g h) * inverse
    for (int64_t i = team.lane; i < packs; i += team.size) {
      const Values x = in[i], d = slopes[i], factor = weights[i];
      Values dx;
      CFT_UNROLL for (int j = 0; j < N; ++j) {
        const float value = to_float(x.values[j]), slope = to_float(d.values[j]);
        dx.values[j] = from_float<T>((slope * to_float(factor.values[j]) - value * pull) * scale);
        if (wanted) sums[j * packs + i] += slope * value * scale;
      }
      out[i] = dx;
    }
  }
  if (!wanted) return;
  float* const partial = norm.partial + static_cast<int64_t>(blockIdx.x) * norm.width;
  if (kWarp) {
    __syncthreads();
    for (int64_t c = threadIdx.x; c < norm.width; c += blockDim.x) {
      float sum = 0.0f;
      for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) sum += all_sums[w * norm.width + c];
      partial[c] = sum;
    }
  } else {
    for (int64_t i = team.lane; i < packs; i += team.size)
      for (int j = 0; j < N; ++j) partial[j * packs + i] = sums[j * packs + i];
  }
}

constexpr int kSumColumns = 32, kSumSlices = 8;

// dweight from the partial sums of `parts` blocks, in an order of their own: the same bits each time. Block:
// kSumColumns columns by kSumSlices slices of the parts. Dynamic shared memory: a float per thread.
template <int N>
__global__ void __launch_bounds__(kSumColumns* kSumSlices)
    train_norm_sum_kernel(const float* __restrict__ partial, float* __restrict__ dweight, int64_t parts,
                          int64_t width) {
  CFT_DYNAMIC_SHARED(float, shared);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kSumColumns + threadIdx.x % kSumColumns;
  const int slice = static_cast<int>(threadIdx.x) / kSumColumns;
  float sum = 0.0f;
  if (column < width)
    for (int64_t p = slice; p < parts; p += kSumSlices) sum += partial[p * width + column];
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (slice != 0 || column >= width) return;
  for (int s = 1; s < kSumSlices; ++s) sum += shared[s * kSumColumns + threadIdx.x];
  const int64_t packs = width / N;
  dweight[column % packs * N + column / packs] = sum;
}

}  // namespace cft::kernels
