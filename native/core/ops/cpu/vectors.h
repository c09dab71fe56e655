// Vectors of floats for the instruction set that the including file is compiled for, and functions of them.
// Everything lies in an unnamed namespace: two files with different flags must never share a function.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define CFT_INLINE inline __attribute__((always_inline))

namespace cft::cpu {
namespace {

// One vector of kWidth floats; `fma(a, b, c)` is a * b + c rounded once where the machine can.
#if defined(__AVX512F__)
using Vec = __m512;
constexpr int64_t kWidth = 16;
constexpr int kTile = 12;  // 24 of 32 registers hold sums
CFT_INLINE Vec zero() { return _mm512_setzero_ps(); }
CFT_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
CFT_INLINE Vec load(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
CFT_INLINE void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
CFT_INLINE Vec all(float x) { return _mm512_set1_ps(x); }
CFT_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
CFT_INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
CFT_INLINE Vec root(Vec a) { return _mm512_sqrt_ps(a); }
CFT_INLINE bool any_above(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
CFT_INLINE Vec power_of_two(Vec n) {  // n + 12582912, see exp below
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_sub_epi32(_mm512_castps_si512(n), _mm512_set1_epi32(0x4b400000 - 127)), 23));
}
#elif defined(__AVX2__)
using Vec = __m256;
constexpr int64_t kWidth = 8;
constexpr int kTile = 6;  // 12 of 16 registers hold sums
CFT_INLINE Vec zero() { return _mm256_setzero_ps(); }
CFT_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
CFT_INLINE Vec load(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
CFT_INLINE void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
CFT_INLINE Vec all(float x) { return _mm256_set1_ps(x); }
CFT_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
CFT_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
CFT_INLINE Vec root(Vec a) { return _mm256_sqrt_ps(a); }
CFT_INLINE bool any_above(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }
CFT_INLINE Vec power_of_two(Vec n) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_sub_epi32(_mm256_castps_si256(n), _mm256_set1_epi32(0x4b400000 - 127)), 23));
}
#else
typedef float Vec __attribute__((vector_size(16)));
typedef int32_t VecInt __attribute__((vector_size(16)));
constexpr int64_t kWidth = 4;
constexpr int kTile = 4;
CFT_INLINE Vec zero() { return Vec{}; }
CFT_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
CFT_INLINE Vec load(const uint16_t* p) {
  VecInt wide;
  for (int64_t i = 0; i < kWidth; ++i) wide[i] = static_cast<int32_t>(static_cast<uint32_t>(p[i]) << 16);
  Vec v;
  std::memcpy(&v, &wide, sizeof v);
  return v;
}
CFT_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
CFT_INLINE Vec all(float x) { return Vec{} + x; }
// Written so that a compiler that may contract it does so everywhere alike.
CFT_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
CFT_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
CFT_INLINE Vec root(Vec a) {
  for (int64_t i = 0; i < kWidth; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
CFT_INLINE bool any_above(Vec a, Vec b) {
  const VecInt above = a > b;
  int32_t any = 0;
  for (int64_t i = 0; i < kWidth; ++i) any |= above[i];
  return any != 0;
}
CFT_INLINE Vec power_of_two(Vec n) {
  VecInt bits;
  std::memcpy(&bits, &n, sizeof bits);
  bits = (bits - (0x4b400000 - 127)) << 23;
  Vec v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
#endif

CFT_INLINE float lane_sum(Vec v) {
  float lanes[kWidth];
  store(lanes, v);
  for (int64_t half = kWidth / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

CFT_INLINE float lane_max(Vec v) {
  float lanes[kWidth];
  store(lanes, v);
  float top = lanes[0];
  for (int64_t i = 1; i < kWidth; ++i) top = lanes[i] > top ? lanes[i] : top;
  return top;
}

// exp(x) for x <= 88, relative error below 2e-7: range reduction by ln 2, polynomial of degree 6 with the
// coefficients of Cephes' expf. Below -87 it gives the value at -87 (1.6e-38).
CFT_INLINE Vec exp_of_bounded(Vec x) {
  const Vec shifted = fma(x, all(1.44269504088896341f), all(12582912.0f));  // an integer in the low bits
  const Vec n = shifted - all(12582912.0f);
  const Vec r = fma(n, all(2.12194440e-4f), fma(n, all(-0.693359375f), x));
  Vec p = fma(r, all(1.9875691500e-4f), all(1.3981999507e-3f));
  p = fma(p, r, all(8.3334519073e-3f));
  p = fma(p, r, all(4.1665795894e-2f));
  p = fma(p, r, all(1.6666665459e-1f));
  p = fma(p, r, all(5.0000001201e-1f));
  p = fma(p * r, r, r) + all(1.0f);
  return p * power_of_two(shifted);
}
CFT_INLINE Vec exp(Vec x) { return exp_of_bounded(max(x, all(-87.0f))); }
// The same, but NaN for NaN: `max` gives its second operand where one of the two is NaN.
CFT_INLINE Vec exp_or_nan(Vec x) { return exp_of_bounded(max(all(-87.0f), x)); }

// silu(x) * y, silu(x) = x / (1 + exp(-x)); bounded where exp(-x) would overflow, far below where it matters.
CFT_INLINE Vec silu_times(Vec x, Vec y) {
  const Vec negative = zero() - max(x, all(-88.0f));
  return x / (all(1.0f) + exp(negative)) * y;
}

}  // namespace
}  // namespace cft::cpu
