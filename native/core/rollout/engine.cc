#include "core/rollout/engine.h"

#include <c10/core/GradMode.h>

#include <algorithm>

#include "core/errors.h"
#include "core/rollout/make_loop.h"

namespace cft {

RolloutEngine::RolloutEngine(Model& model, EngineOptions options)
    : model_(model),
      options_(std::move(options)),
      end_tokens_(options_.end_token_ids.begin(), options_.end_token_ids.end()),
      weight_version_(model.weight_version()) {
  if (options_.max_branches < 1) {
    throw Error("ERR_CFT_BAD_OPTION",
                "maxBranches: expected at least 1, found " + std::to_string(options_.max_branches));
  }
  for (int32_t id : options_.end_token_ids) {
    if (id < 0 || id >= model.config().vocab_size) {
      throw Error("ERR_CFT_BAD_OPTION", "end token " + std::to_string(id) + ": expected 0 to " +
                                            std::to_string(model.config().vocab_size - 1));
    }
  }
}

DecodeLoop& RolloutEngine::loop() {
  if (!loop_) loop_ = make_decode_loop(model_, options_, end_tokens_, queue_);
  return *loop_;
}

int64_t RolloutEngine::add_trunk(std::vector<int32_t> token_ids, int64_t score_from, int64_t alternatives,
                                 TrunkScores* scores) {
  const c10::NoGradGuard no_grad;
  follow_weights();
  const ModelConfig& c = model_.config();
  const int64_t length = static_cast<int64_t>(token_ids.size());
  auto refuse = [](const std::string& what, int64_t low, int64_t high, int64_t found) {
    throw Error("ERR_CFT_BAD_DATA", what + ": expected " + std::to_string(low) + " to " +
                                        std::to_string(high) + ", found " + std::to_string(found));
  };
  if (length < 1 || length > c.max_positions) refuse("tokens of a trunk", 1, c.max_positions, length);
  if (score_from < 1 || score_from > length) refuse("scoreFrom", 1, length, score_from);
  if (alternatives < 0 || alternatives >= c.vocab_size)
    refuse("alternatives", 0, c.vocab_size - 1, alternatives);
  for (const int32_t id : token_ids) {
    if (id < 0 || id >= c.vocab_size) refuse("token id of a trunk", 0, c.vocab_size - 1, id);
  }
  TrunkScores unused;
  auto trunk = std::make_shared<Trunk>();
  trunk->kv = loop().prefill(token_ids, score_from, alternatives, scores ? scores : &unused);
  trunk->token_ids = std::move(token_ids);
  const std::lock_guard<std::mutex> lock(mutex_);
  trunks_[next_trunk_] = std::move(trunk);
  return next_trunk_++;
}

// Checks one branch; the caller holds the lock.
Branch RolloutEngine::make_branch(const BranchSpec& spec) const {
  const ModelConfig& c = model_.config();
  auto refuse = [&](const std::string& what) {
    throw Error("ERR_CFT_BAD_DATA", "branch " + std::to_string(spec.id) + ": " + what);
  };
  const auto trunk = trunks_.find(spec.trunk);
  if (trunk == trunks_.end()) refuse("there is no trunk " + std::to_string(spec.trunk));
  const int64_t trunk_length = static_cast<int64_t>(trunk->second->token_ids.size());
  if (spec.length < 1 || spec.length > trunk_length) {
    refuse("length: expected 1 to " + std::to_string(trunk_length) + ", found " +
           std::to_string(spec.length));
  }
  for (int32_t id : spec.forced_tokens) {
    if (id < 0 || id >= c.vocab_size)
      refuse("forced token " + std::to_string(id) + " is outside the vocabulary");
  }
  if (spec.max_new_tokens < 0) refuse("maxNewTokens: expected 0 or more");
  if (!(spec.temperature >= 0) || !(spec.top_p > 0)) refuse("expected temperature >= 0 and topP > 0");
  const int64_t forced = static_cast<int64_t>(spec.forced_tokens.size());
  // The last decoded token is never fed back, so it needs no position.
  const int64_t needed = spec.length + forced + std::max<int64_t>(spec.max_new_tokens - 1, 0);
  if (needed > c.max_positions) {
    refuse("needs " + std::to_string(needed) + " positions (prefix " + std::to_string(spec.length) +
           ", forced " + std::to_string(forced) + ", new " + std::to_string(spec.max_new_tokens) +
           "), the model has " + std::to_string(c.max_positions));
  }
  Branch branch;
  branch.spec = spec;
  branch.trunk = trunk->second;
  branch.input = spec.forced_tokens;
  branch.prefix = spec.length;
  if (branch.input.empty()) {
    // Decoding starts from the last kept token, which is fed again: no logits need to be kept with the trunk.
    branch.input.push_back(branch.trunk->token_ids[spec.length - 1]);
    branch.prefix = spec.length - 1;
  }
  branch.forced = branch.input.size();
  branch.draft.start(branch.prefix, static_cast<int64_t>(branch.forced));
  return branch;
}

void RolloutEngine::submit(const std::vector<BranchSpec>& specs) {
  std::vector<Branch> fresh;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const BranchSpec& spec : specs) fresh.push_back(make_branch(spec));
  }
  queue_.submit(std::move(fresh));
}

void RolloutEngine::cancel(const std::vector<int64_t>& branch_ids) { queue_.cancel(branch_ids); }

void RolloutEngine::release_trunk(int64_t trunk) {
  const std::lock_guard<std::mutex> lock(mutex_);
  trunks_.erase(trunk);  // branches that still run hold their own reference
}

void RolloutEngine::follow_weights() {
  if (model_.weight_version() == weight_version_) return;
  // Keys and values of other weights would silently mix two models.
  weight_version_ = model_.weight_version();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    trunks_.clear();
  }
  const bool busy = queue_.clear();
  loop_.reset();
  if (busy) throw Error("ERR_CFT_INTERNAL", "the model's weights changed while branches were being decoded");
}

StepResult RolloutEngine::step(int64_t max_steps) {
  const c10::NoGradGuard no_grad;
  follow_weights();
  StepResult result;
  if (loop_ || queue_.waiting() > 0) loop().run(max_steps, interrupted_, &result);
  interrupted_ = false;  // consumed here, not at the start: an interrupt that comes early must not be lost
  result.active = loop_ ? loop_->active() : 0;
  result.waiting = queue_.waiting();
  return result;
}

}  // namespace cft
