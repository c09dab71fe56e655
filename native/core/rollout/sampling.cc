#include "core/rollout/sampling.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/ops/cpu/kernels.h"

namespace cft {
namespace {

uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

double uniform_at(uint64_t seed, uint64_t position) {
  return static_cast<double>(mix(mix(seed) ^ position) >> 11) * 0x1.0p-53;
}

int32_t sample_row(const float* logits, int64_t vocab, double temperature, double top_p, double uniform) {
  double top = -INFINITY;
  for (int64_t i = 0; i < vocab; ++i) top = logits[i] > top ? logits[i] : top;  // skips what is no number
  if (!std::isfinite(top)) return -1;
  std::vector<double> weights(vocab);
  for (int64_t i = 0; i < vocab; ++i)
    weights[i] = std::isnan(logits[i]) ? -INFINITY : (logits[i] - top) / temperature;
  at::from_blob(weights.data(), {vocab}, at::kDouble).exp_();
  double total = std::accumulate(weights.begin(), weights.end(), 0.0);

  double left = uniform * total;
  if (top_p >= 1.0) {
    for (int64_t i = 0; i < vocab; ++i) {
      left -= weights[i];
      if (left < 0) return static_cast<int32_t>(i);
    }
    return static_cast<int32_t>(vocab - 1);  // rounding used up the last of the mass
  }
  // A heap, for the nucleus is mostly a small part of a large vocabulary.
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  const auto later = [&](int32_t a, int32_t b) {
    return weights[a] != weights[b] ? weights[a] < weights[b] : a > b;
  };
  std::make_heap(order.begin(), order.end(), later);
  auto end = order.end();  // the nucleus stands behind it, the most probable token last
  double kept = 0.0;
  do {
    std::pop_heap(order.begin(), end, later);
    kept += weights[*--end];
  } while (end != order.begin() && kept < top_p * total);
  left = uniform * kept;
  for (auto token = order.end(); token != end;) {
    left -= weights[*--token];
    if (left < 0) return *token;
  }
  return *end;
}

RowChoice greedy_row(const float* logits, int64_t vocab) {
  float top;
  const float entropy = cpu::kernels().entropy(logits, vocab, &top);
  const float* first = std::find(logits, logits + vocab, top);
  const bool found = first != logits + vocab && top > -INFINITY;
  return {found ? static_cast<int32_t>(first - logits) : -1, entropy};
}

}  // namespace cft
