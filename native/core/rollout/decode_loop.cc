#include "core/rollout/decode_loop.h"

#include "core/errors.h"

namespace cft {

bool accept_token(Branch& branch, int32_t token, const EndTokens& end_tokens, BranchQueue& queue,
                  StepResult* result, float entropy) {
  if (token < 0) {
    throw Error(
        "ERR_CFT_BAD_WEIGHTS",
        "branch " + std::to_string(branch.spec.id) +
            ": expected logits, found only NaN: the weights are damaged, or too large for this dtype");
  }
  const bool ends = end_tokens.count(token) != 0;
  if (!ends) {
    branch.input.push_back(token);
    if (branch.spec.draft) branch.draft.follow(branch.trunk->drafts(), branch.input, branch.prefix);
    result->token_branches.push_back(branch.spec.id);
    result->tokens.push_back(token);
    result->entropies.push_back(entropy);
  }
  if (!ends && branch.left() > 0) return false;
  queue.finish(branch.spec.id);
  result->finished.push_back(
      {branch.spec.id,
       {branch.input.begin() + static_cast<int64_t>(branch.forced), branch.input.end()},
       ends ? token : -1});
  return true;
}

bool worth_returning(const StepResult& result, int64_t active, const BranchQueue& queue) {
  if (result.finished.empty()) return false;
  return queue.waiting() == 0 || static_cast<int64_t>(result.finished.size()) * 4 >= active;
}

std::string memory_text(int64_t used_bytes, int64_t budget_bytes) {
  const bool small = budget_bytes < (int64_t{10} << 20);
  const char* unit = small ? " KiB" : " MiB";
  const int shift = small ? 10 : 20;
  return std::to_string(used_bytes >> shift) + unit + " of " + std::to_string(budget_bytes >> shift) + unit +
         " are in use";
}

}  // namespace cft
