// What the tests of the rollout engine share: branches as annotation asks for them, and their results.
#pragma once
#include <map>
#include <vector>

#include "core/rollout/engine.h"

namespace cft_test {

using cft::BranchResult;
using cft::BranchSpec;
using cft::RolloutEngine;

using Results = std::map<int64_t, BranchResult>;

inline Results drain(RolloutEngine& engine, int64_t max_steps = 1000) {
  Results results;
  for (;;) {
    const cft::StepResult step = engine.step(max_steps);
    for (const BranchResult& branch : step.finished) results[branch.id] = branch;
    if (step.active + step.waiting == 0) return results;
  }
}

// Two alternatives at every position of a trunk, as annotation asks for them.
inline std::vector<BranchSpec> counterfactuals(RolloutEngine& engine, const std::vector<int32_t>& ids,
                                               int64_t prompt, int64_t budget, double temperature = 0.0) {
  cft::TrunkScores scores;
  const int64_t trunk = engine.add_trunk(ids, prompt, 2, &scores);
  std::vector<BranchSpec> specs;
  for (size_t i = 0; i < scores.alternative_ids.size(); ++i) {
    BranchSpec spec;
    spec.id = static_cast<int64_t>(i);
    spec.trunk = trunk;
    spec.length = prompt + static_cast<int64_t>(i) / 2;
    spec.forced_tokens = {scores.alternative_ids[i]};
    spec.max_new_tokens = budget;
    spec.temperature = temperature;
    spec.seed = i;
    specs.push_back(spec);
  }
  return specs;
}

inline std::vector<int32_t> some_ids(int64_t count, int64_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * 7 + i * i) % vocab));
  return ids;
}

inline bool same(const Results& a, const Results& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [id, x] : a) {
    const BranchResult& y = b.at(id);
    if (x.token_ids != y.token_ids || x.end_token_id != y.end_token_id) return false;
  }
  return true;
}

constexpr int32_t kEnd = 3;

}  // namespace cft_test
