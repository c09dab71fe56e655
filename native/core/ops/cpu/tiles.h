// Register tiles of matrix products for the instruction set that the including file is compiled for.
// Everything lies in an unnamed namespace: two files with different flags must never share a function.
#pragma once
#include <cstdint>

#include "core/ops/cpu/vectors.h"

namespace cft::cpu {
namespace {

constexpr int64_t kPanel = 2 * kWidth;

// c[r][0..2w) = sum over k of a[r][k] * b[k][0..2w), each element one chain over k from its present value
// (kFrom) or from zero. kTiled: a is a tile [count][kTile] instead of rows a_stride apart.
template <int kRows, bool kFrom, bool kTiled, class Element>
CFT_INLINE void multiply(const float* a, int64_t a_stride, const Element* b, int64_t b_stride, int64_t count,
                         float* c, int64_t c_stride) {
  Vec sums[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    sums[r][0] = kFrom ? load(c + r * c_stride) : zero();
    sums[r][1] = kFrom ? load(c + r * c_stride + kWidth) : zero();
  }
  for (int64_t k = 0; k < count; ++k) {
    const Vec low = load(b + k * b_stride), high = load(b + k * b_stride + kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec x = all(kTiled ? a[k * kTile + r] : a[r * a_stride + k]);
      sums[r][0] = fma(x, low, sums[r][0]);
      sums[r][1] = fma(x, high, sums[r][1]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    store(c + r * c_stride, sums[r][0]);
    store(c + r * c_stride + kWidth, sums[r][1]);
  }
}

template <bool kFrom, bool kTiled = false, class Element>
void multiply_rows(int64_t rows, const float* a, int64_t a_stride, const Element* b, int64_t b_stride,
                   int64_t count, float* c, int64_t c_stride) {
#define CFT_CASE(n) \
  case n:           \
    return multiply<(n < kTile ? n : kTile), kFrom, kTiled>(a, a_stride, b, b_stride, count, c, c_stride)
  switch (rows) {
    CFT_CASE(1);
    CFT_CASE(2);
    CFT_CASE(3);
    CFT_CASE(4);
#if defined(__AVX2__) || defined(__AVX512F__)
    CFT_CASE(5);
    CFT_CASE(6);
#endif
#if defined(__AVX512F__)
    CFT_CASE(7);
    CFT_CASE(8);
    CFT_CASE(9);
    CFT_CASE(10);
    CFT_CASE(11);
    CFT_CASE(12);
#endif
    default:
      __builtin_unreachable();
  }
#undef CFT_CASE
}

}  // namespace
}  // namespace cft::cpu
