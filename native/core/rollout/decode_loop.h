// How branches get their tokens: the inner loop of the rollout engine. On the CPU the host decides before
// every forward pass which rows go into it (host_loop.h); on CUDA the device moves its slots on by itself and
// the host looks every few steps (device/device_loop.h). Both give the same tokens.
#pragma once
#include <atomic>
#include <limits>
#include <memory>
#include <unordered_set>
#include <vector>

#include "core/rollout/branch_queue.h"

namespace cft {

using EndTokens = std::unordered_set<int32_t>;

class DecodeLoop {
 public:
  virtual ~DecodeLoop() = default;

  // Keys and values of a prefix, and what it says about tokens [score_from, T), k alternatives each. Throws
  // Error ERR_CFT_OUT_OF_MEMORY where the budget has no room now.
  virtual std::unique_ptr<KvSequence> prefill(const std::vector<int32_t>& tokens, int64_t score_from,
                                              int64_t k, TrunkScores* scores) = 0;

  // Up to max_steps forward passes, see RolloutEngine::step; looks at `interrupted` between them. Throws
  // Error ERR_CFT_OUT_OF_MEMORY where not even one branch fits.
  virtual void run(int64_t max_steps, const std::atomic<bool>& interrupted, StepResult* result) = 0;

  virtual int64_t active() const = 0;
  virtual int64_t used_bytes() const = 0;  // of keys and values
};

// Adds a decoded token. True where the branch is finished by it. Throws Error ERR_CFT_BAD_WEIGHTS for -1, a
// row of logits without a number.
bool accept_token(Branch& branch, int32_t token, const EndTokens& end_tokens, BranchQueue& queue,
                  StepResult* result, float entropy = std::numeric_limits<float>::quiet_NaN());

// Whether a call of step() should end: whoever called wants to know of finished branches; but as long as
// others wait, the batch stays full without it.
bool worth_returning(const StepResult& result, int64_t active, const BranchQueue& queue);

// "12 MiB of 34 MiB are in use", for errors.
std::string memory_text(int64_t used_bytes, int64_t budget_bytes);

}  // namespace cft
