// Portable vectors for the CPU paths: GCC and Clang vector extensions, and functions compiled for several
// instruction sets with the choice made at load time.
#pragma once
#include <cstdint>
#include <cstring>

// Put before a hot function: compiled once per instruction set, dispatched by what the CPU has.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define CFT_MULTIVERSION __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CFT_MULTIVERSION
#endif
#define CFT_INLINE inline __attribute__((always_inline))

namespace cft::simd {

typedef float Vec __attribute__((vector_size(32)));  // 8 floats; two SSE registers where there is no AVX
typedef int32_t VecInt __attribute__((vector_size(32)));
constexpr int64_t kLanes = 8;

// References, not values: a by-value vector would change the ABI between instruction sets.
CFT_INLINE void load(Vec& out, const float* from) { std::memcpy(&out, from, sizeof(Vec)); }
CFT_INLINE void store(float* to, const Vec& value) { std::memcpy(to, &value, sizeof(Vec)); }

CFT_INLINE float sum(const Vec& v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

// The sums of four vectors, each in the order of sum() above, so that a sum has the same bits either way.
CFT_INLINE void sum4(float* out, const Vec& a, const Vec& b, const Vec& c, const Vec& d) {
  const Vec ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
                 __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  const Vec cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 8, 9, 10, 11) +
                 __builtin_shufflevector(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
  const Vec pairs = __builtin_shufflevector(ab, cd, 0, 1, 4, 5, 8, 9, 12, 13) +
                    __builtin_shufflevector(ab, cd, 2, 3, 6, 7, 10, 11, 14, 15);
  const Vec sums = __builtin_shufflevector(pairs, pairs, 0, 2, 4, 6, 0, 2, 4, 6) +
                   __builtin_shufflevector(pairs, pairs, 1, 3, 5, 7, 1, 3, 5, 7);
  std::memcpy(out, &sums, 4 * sizeof(float));
}

// x := exp(x) for x <= 88, relative error below 2e-7 (range reduction by ln 2, degree 6; coefficients of
// Cephes expf).
CFT_INLINE void exp_in_place(Vec& x) {
  const Vec floor = Vec{} - 87.0f;  // exp underflows below; also keeps -inf out of the arithmetic
  const Vec low = x < floor ? floor : x;
  const Vec shifted =
      low * 1.44269504088896341f + 12582912.0f;  // rounds to an integer in the low mantissa bits
  const Vec n = shifted - 12582912.0f;
  const Vec r = (low - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  VecInt bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = ((bits - 0x4b400000) + 127) << 23;
  Vec power;
  std::memcpy(&power, &bits, sizeof power);
  x = p * power;
}

}  // namespace cft::simd
