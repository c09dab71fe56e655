#include "core/rollout/draft.h"

#include <algorithm>

namespace cft {
namespace {

constexpr int64_t kMatch = 2;   // tokens that must agree to call it a join
constexpr int64_t kReach = 48;  // how far from the same position it is looked for

}  // namespace

void TrunkDraft::follow(const std::vector<int32_t>& trunk, const std::vector<int32_t>& tokens,
                        int64_t prefix) {
  const int64_t length = static_cast<int64_t>(trunk.size()), count = static_cast<int64_t>(tokens.size());
  if (next_ >= 0 && next_ < length && trunk[next_] == tokens.back()) {
    ++next_;
    return;
  }
  next_ = -1;
  if (count < kMatch) return;
  // A join at trunk index j means that trunk[j - kMatch .. j) are the last tokens. The nearest to the
  // branch's own position is the likeliest.
  const int64_t here = prefix + count;
  for (int64_t distance = 0; distance <= kReach; ++distance) {
    for (const int64_t j : {here + distance, here - distance}) {
      if (j < kMatch || j > length) continue;
      if (std::equal(tokens.end() - kMatch, tokens.end(), trunk.begin() + (j - kMatch))) {
        next_ = j;
        return;
      }
    }
  }
}

std::vector<int32_t> TrunkDraft::guess(const std::vector<int32_t>& trunk, int64_t count) const {
  const int64_t length = static_cast<int64_t>(trunk.size());
  if (next_ < 0 || next_ >= length || count <= 0) return {};
  return {trunk.begin() + next_, trunk.begin() + std::min(length, next_ + count)};
}

}  // namespace cft
