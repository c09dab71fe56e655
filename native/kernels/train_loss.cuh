// Cross-entropy of rows of logits with its own gradient: one pass that reads, one that reads and writes.
#pragma once
#include "kernels/launch.cuh"
#include "kernels/train.h"

namespace cft::kernels {

constexpr int kLossThreads = 512;
constexpr int kLossShared = kLossThreads / 32 * 8;

// Sum of exp(x - top) over values of which `top` is the largest.
struct ExpSum {
  float top = -INFINITY;
  float sum = 0.0f;

  __device__ void meet(float other_top, float other_sum) {
    const float both = fmaxf(top, other_top);
    // Where both tops are one their difference may be no number (both infinite).
    const float own = top == both ? sum : sum * expf(top - both);
    const float other = other_top == both ? other_sum : other_sum * expf(other_top - both);
    top = both;
    sum = own + other;
  }
};

// Grid: rows. vocab a multiple of N. Dynamic shared memory: kLossShared.
template <class T, class S, int N>
__global__ void __launch_bounds__(kLossThreads) train_loss_kernel(CftTrainLoss work) {
  CFT_DYNAMIC_SHARED(float, tops);
  float* const sums = tops + kLossThreads / 32;
  const int64_t row = blockIdx.x, packs = work.vocab / N, target = work.targets[row];
  const T* start = static_cast<const T*>(work.logits) + row * work.vocab;
  const auto* logits = reinterpret_cast<const Pack<T, N>*>(start);
  const float at_target = to_float(start[target]);

  ExpSum all;
  for (int64_t i = threadIdx.x; i < packs; i += kLossThreads) {
    const Pack<T, N> x = logits[i];
    float top = all.top;
    CFT_UNROLL for (int j = 0; j < N; ++j) top = fmaxf(top, to_float(x.values[j]));
    if (top > all.top) {
      all.sum *= expf(all.top - top);
      all.top = top;
    }
    CFT_UNROLL for (int j = 0; j < N; ++j) {
      const float value = to_float(x.values[j]);
      if (value != -INFINITY) all.sum += expf(value - top);
    }
  }
  for (int mask = 16; mask > 0; mask >>= 1) {
    const float top = __shfl_xor_sync(0xffffffffu, all.top, mask);
    const float sum = __shfl_xor_sync(0xffffffffu, all.sum, mask);
    all.meet(top, sum);
  }
  if (threadIdx.x % 32 == 0) {
    tops[threadIdx.x / 32] = all.top;
    sums[threadIdx.x / 32] = all.sum;
  }
  __syncthreads();  // from here on the logits may be written over
  all = {tops[0], sums[0]};
  for (int w = 1; w < kLossThreads / 32; ++w) all.meet(tops[w], sums[w]);

  const float weight = work.weights[row];
  const float nll = all.top - at_target + logf(all.sum);
  const float scale = nll - nll == 0.0f ? weight / all.sum : NAN;
  if (threadIdx.x == 0) work.nll[row] = nll;
  auto* slopes = reinterpret_cast<Pack<S, N>*>(static_cast<S*>(work.slopes) + row * work.vocab);
  for (int64_t i = threadIdx.x; i < packs; i += kLossThreads) {
    const Pack<T, N> x = logits[i];
    Pack<S, N> slope;
    CFT_UNROLL for (int j = 0; j < N; ++j) {
      const float value = expf(to_float(x.values[j]) - all.top) * scale;
      slope.values[j] = from_float<S>(i * N + j == target ? value - weight : value);
    }
    slopes[i] = slope;
  }
}

}  // namespace cft::kernels
