// What softmax, cross-entropy and entropy need of a row of logits, for the instruction set that the including
// file is compiled for.
#pragma once
#include "core/ops/cpu/vectors.h"

namespace cft::cpu {
namespace {

// One value through the function of vectors, so that a row's end has the arithmetic of its middle.
CFT_INLINE float exp_or_nan_one(float x) {
  float lanes[kWidth];
  store(lanes, exp_or_nan(all(x)));
  return lanes[0];
}

// The largest of n values that is a number; minus infinity where none is.
CFT_INLINE float largest(const float* x, int64_t n) {
  const int64_t whole = n / kWidth * kWidth;
  // The maximum so far stands second: it wins against NaN.
  Vec tops = all(-__builtin_inff());
  for (int64_t i = 0; i < whole; i += kWidth) tops = max(load(x + i), tops);
  float top = lane_max(tops);
  for (int64_t i = whole; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

// With d = logit - top: the sums of exp(d) and of d exp(d), NaN where a logit is. The partial sums are added
// in double: a vocabulary is long.
struct SoftmaxSums {
  float top;
  double sum, weighted;

  double log_sum() const { return __builtin_log(sum); }
  float entropy() const { return static_cast<float>(log_sum() - weighted / sum); }  // nats
};

CFT_INLINE SoftmaxSums softmax_sums(const float* logits, int64_t n) {
  const int64_t whole = n / kWidth * kWidth;
  const float top = largest(logits, n);
  SoftmaxSums all_of{top, 0, 0};
  // Below -87 exp(d) is nothing, and d may be infinite. It stands first: NaN passes.
  const Vec shift = all(top), least = all(-87.0f);
  for (int64_t begin = 0; begin < whole; begin += 64 * kWidth) {
    Vec sums = zero(), products = zero();
    for (int64_t i = begin; i < whole && i < begin + 64 * kWidth; i += kWidth) {
      const Vec d = max(least, load(logits + i) - shift), p = exp_or_nan(d);
      sums = sums + p;
      products = fma(p, d, products);
    }
    all_of.sum += lane_sum(sums);
    all_of.weighted += lane_sum(products);
  }
  for (int64_t i = whole; i < n; ++i) {
    const float d = logits[i] - top, p = exp_or_nan_one(d);
    all_of.sum += p;
    all_of.weighted += static_cast<double>(p) * (d < -87.0f ? -87.0f : d);
  }
  return all_of;
}

}  // namespace
}  // namespace cft::cpu
