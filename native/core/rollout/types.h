// Plain data of the rollout engine.
#pragma once
#include <cstdint>
#include <vector>

namespace cft {

// What a prefill says about the tokens of a trunk from score_from on (S of them) and their k alternatives.
struct TrunkScores {
  std::vector<float> log_probs;              // (S) log p(token | prefix), natural logarithm
  std::vector<int32_t> alternative_ids;      // (S, k) most probable first, never the trunk's own token
  std::vector<float> alternative_log_probs;  // (S, k)
};

// One continuation to decode from a trunk.
struct BranchSpec {
  int64_t id = 0;
  int64_t trunk = 0;
  int64_t length = 0;                  // trunk tokens kept, 1..T
  std::vector<int32_t> forced_tokens;  // put after them before decoding starts
  int64_t max_new_tokens = 0;          // decoded after the forced ones; the end token counts
  double temperature = 0.0;            // 0 = greedy
  double top_p = 1.0;
  uint64_t seed = 0;
  bool entropy = false;   // entropies of its tokens are wanted (not on CUDA)
  bool draft = false;     // greedy only: what was said before may be tried as a draft; same result
  double priority = 0.0;  // lower ones enter the batch first, equal ones in the order of submission
};

struct BranchResult {
  int64_t id = 0;
  std::vector<int32_t> token_ids;  // decoded, without forced and end tokens
  int32_t end_token_id = -1;       // -1: the budget ran out
};

struct StepResult {
  std::vector<BranchResult> finished;
  std::vector<int64_t> token_branches;  // tokens decoded in this call, in decoding order
  std::vector<int32_t> tokens;
  std::vector<float> entropies;  // of the distributions before temperature, nats; NaN where not wanted
  int64_t active = 0, waiting = 0;
  int64_t steps = 0, rows = 0;        // forward passes and the rows in them
  int64_t drafted = 0, accepted = 0;  // draft tokens tried, and those that were right
};

}  // namespace cft
