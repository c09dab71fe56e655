#include "core/rollout/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

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

int32_t argmax_row(const float* logits, int64_t vocab) {
  return static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
}

int32_t sample_row(const float* logits, int64_t vocab, double temperature, double top_p, double uniform) {
  double top = -INFINITY;
  for (int64_t i = 0; i < vocab; ++i) top = logits[i] > top ? logits[i] : top;  // skips what is no number
  if (!std::isfinite(top)) return -1;
  std::vector<double> weights(vocab);
  for (int64_t i = 0; i < vocab; ++i)
    weights[i] = std::isnan(logits[i]) ? 0.0 : std::exp((logits[i] - top) / temperature);
  double total = std::accumulate(weights.begin(), weights.end(), 0.0);

  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  if (top_p < 1.0) {
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return weights[a] != weights[b] ? weights[a] > weights[b] : a < b;
    });
    double kept = 0.0;
    size_t count = 0;
    while (count < order.size() && kept < top_p * total) kept += weights[order[count++]];
    order.resize(std::max<size_t>(count, 1));
    total = kept;
  }
  double left = uniform * total;
  for (int32_t token : order) {
    left -= weights[token];
    if (left < 0) return token;
  }
  return order.back();  // rounding used up the last of the mass
}

}  // namespace cft
