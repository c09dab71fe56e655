#include "core/rollout/device/sampler.h"

#include <algorithm>
#include <vector>

namespace cft {
namespace {

// Elements of a block of rows: in doubles 32 MiB.
constexpr int64_t kBlock = int64_t{1} << 22;

// x >> bits of the 64 bits without their sign.
at::Tensor shifted(const at::Tensor& x, int64_t bits) {
  return x.bitwise_right_shift(bits).bitwise_and((int64_t{1} << (64 - bits)) - 1);
}

at::Tensor mix(at::Tensor x) {
  const auto number = [](uint64_t bits) { return at::Scalar(static_cast<int64_t>(bits)); };
  x = x + number(0x9e3779b97f4a7c15ULL);
  x = x.bitwise_xor(shifted(x, 30)) * number(0xbf58476d1ce4e5b9ULL);
  x = x.bitwise_xor(shifted(x, 27)) * number(0x94d049bb133111ebULL);
  return x.bitwise_xor(shifted(x, 31));
}

at::Tensor sample_block(const at::Tensor& logits, const at::Tensor& temperatures, const at::Tensor& top_p,
                        const at::Tensor& uniforms, bool cut) {
  const int64_t last = logits.size(1) - 1;
  at::Tensor weights = logits.to(at::kDouble);
  weights = (weights - weights.amax(1, true)).div_(temperatures.unsqueeze(1)).exp_();
  // The first token whose running sum is above uniform * total.
  const auto pick = [&](const at::Tensor& sums, const at::Tensor& total, const at::Tensor& most) {
    const at::Tensor below = sums.le((uniforms * total).unsqueeze(1)).sum(1);
    return at::minimum(below, most);  // rounding may use up the last of the mass
  };
  if (!cut) {
    const at::Tensor sums = weights.cumsum(1);
    return pick(sums, sums.select(1, last), at::full_like(uniforms, last, at::kLong));
  }
  const auto [sorted, order] = weights.sort(/*stable=*/true, /*dim=*/1, /*descending=*/true);
  const at::Tensor sums = sorted.cumsum(1);
  // A token is kept as long as those before it do not reach top_p.
  const at::Tensor enough = (top_p * sums.select(1, last)).unsqueeze(1);
  const at::Tensor kept = sums.narrow(1, 0, last).lt(enough).sum(1);  // beside the first: also its index
  const at::Tensor total = sums.gather(1, kept.unsqueeze(1)).squeeze(1);
  return order.gather(1, pick(sums, total, kept).unsqueeze(1)).squeeze(1);
}

}  // namespace

at::Tensor uniforms_at(const at::Tensor& seeds, const at::Tensor& positions) {
  return shifted(mix(mix(seeds).bitwise_xor(positions)), 11).to(at::kDouble) * 0x1.0p-53;
}

at::Tensor sample_rows(const at::Tensor& logits, const at::Tensor& temperatures, const at::Tensor& top_p,
                       const at::Tensor& uniforms, bool cut) {
  const int64_t rows = logits.size(0), some = std::max<int64_t>(1, kBlock / logits.size(1));
  std::vector<at::Tensor> tokens;
  for (int64_t first = 0; first < rows; first += some) {
    const int64_t count = std::min(some, rows - first);
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, first, count); };
    tokens.push_back(sample_block(part(logits), part(temperatures), part(top_p), part(uniforms), cut));
  }
  return at::cat(tokens);
}

}  // namespace cft
