#include "core/rollout/engine.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "core/errors.h"
#include "core/rollout/sampling.h"

namespace cft {
namespace {

// Tokens of one branch fed at once: bounds the memory of a pass where branches are fed again.
constexpr size_t kMostFed = 256;
constexpr int64_t kMostDraft = 8;

std::string mebibytes(int64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

RolloutEngine::RolloutEngine(Model& model, EngineOptions options)
    : model_(model),
      options_(std::move(options)),
      end_tokens_(options_.end_token_ids.begin(), options_.end_token_ids.end()),
      weight_version_(model.weight_version()),
      limit_(static_cast<size_t>(std::max<int64_t>(options_.max_branches, 1))) {
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

void RolloutEngine::ensure_backend() {
  if (backend_) return;
  const int64_t budget = options_.memory_bytes;
  backend_ = options_.reference ? make_reference_backend(model_, budget > 0 ? budget : INT64_MAX / 2)
                                : make_backend(model_, budget);
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
  ensure_backend();
  auto trunk = std::make_shared<Trunk>();
  trunk->kv = backend_->create_sequence();
  if (!backend_->reserve(*trunk->kv, length)) {
    throw Error("ERR_CFT_OUT_OF_MEMORY", "no room for the keys and values of a trunk of " +
                                             std::to_string(length) +
                                             " tokens: " + mebibytes(backend_->used_bytes()) + " of " +
                                             mebibytes(backend_->budget_bytes()) + " are in use");
  }
  TrunkScores unused;
  backend_->prefill(*trunk->kv, token_ids, score_from, alternatives, scores ? scores : &unused);
  trunk->token_ids = std::move(token_ids);
  const std::lock_guard<std::mutex> lock(mutex_);
  trunks_[next_trunk_] = std::move(trunk);
  return next_trunk_++;
}

// Checks one branch; the caller holds the lock.
RolloutEngine::Branch RolloutEngine::make_branch(const BranchSpec& spec) const {
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
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Branch> fresh;
  std::unordered_set<int64_t> fresh_ids;
  for (const BranchSpec& spec : specs) {
    if (live_.count(spec.id) != 0 || !fresh_ids.insert(spec.id).second)
      throw Error("ERR_CFT_BAD_DATA", "branch " + std::to_string(spec.id) + ": its id is in use");
    fresh.push_back(make_branch(spec));
  }
  for (Branch& branch : fresh) {
    branch.key = {branch.spec.priority, next_order_++};
    live_[branch.spec.id] = branch.key;
    waiting_.emplace(branch.key, std::move(branch));
  }
}

void RolloutEngine::cancel(const std::vector<int64_t>& branch_ids) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (int64_t id : branch_ids) {
    const auto live = live_.find(id);
    if (live == live_.end()) continue;
    if (waiting_.erase(live->second) > 0) {
      live_.erase(live);
    } else {
      cancelled_.insert(id);
    }
  }
}

void RolloutEngine::release_trunk(int64_t trunk) {
  const std::lock_guard<std::mutex> lock(mutex_);
  trunks_.erase(trunk);  // branches that still run hold their own reference
}

void RolloutEngine::follow_weights() {
  if (model_.weight_version() == weight_version_) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  // Keys and values of other weights would silently mix two models.
  weight_version_ = model_.weight_version();
  trunks_.clear();
  const bool busy = !waiting_.empty() || !active_.empty();
  waiting_.clear();
  active_.clear();
  live_.clear();
  cancelled_.clear();
  backend_.reset();
  if (busy) throw Error("ERR_CFT_INTERNAL", "the model's weights changed while branches were being decoded");
}

void RolloutEngine::drop_cancelled() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (cancelled_.empty()) return;
  std::erase_if(active_, [&](const Branch& branch) {
    if (cancelled_.count(branch.spec.id) == 0) return false;
    live_.erase(branch.spec.id);
    return true;
  });
  cancelled_.clear();
}

void RolloutEngine::admit(StepResult* result) {
  const std::lock_guard<std::mutex> lock(mutex_);
  while (active_.size() < limit_ && !waiting_.empty()) {
    Branch branch = std::move(waiting_.extract(waiting_.begin()).mapped());
    if (branch.spec.max_new_tokens == 0) {
      live_.erase(branch.spec.id);
      result->finished.push_back({branch.spec.id, {}, -1});
      continue;
    }
    active_.push_back(std::move(branch));
  }
}

// Takes a branch out of the batch until there is room again; it keeps its tokens and loses its KV.
void RolloutEngine::park(size_t index) {
  Branch branch = std::move(active_[index]);
  active_.erase(active_.begin() + static_cast<int64_t>(index));
  branch.own.reset();
  branch.fed = 0;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (cancelled_.erase(branch.spec.id) > 0) {
    live_.erase(branch.spec.id);
    return;
  }
  waiting_.emplace(branch.key, std::move(branch));
}

// Room for `length` positions of active branch `index`, taken from branches of less priority that stand
// behind it in active_ where need be. False where it had to be parked itself.
bool RolloutEngine::make_room(size_t index, int64_t length) {
  Branch& branch = active_[index];
  if (!branch.own) branch.own = backend_->create_sequence();
  while (!backend_->reserve(*branch.own, length)) {
    if (active_.size() == 1) {
      throw Error("ERR_CFT_OUT_OF_MEMORY", "no room for the keys and values of a single branch of " +
                                               std::to_string(length) +
                                               " tokens: " + mebibytes(backend_->used_bytes()) + " of " +
                                               mebibytes(backend_->budget_bytes()) +
                                               " are in use; give fewer trunks at once or more memory");
    }
    limit_ = active_.size() - 1;
    const bool last = index + 1 == active_.size();
    park(active_.size() - 1);
    if (last) return false;
  }
  return true;
}

// The rows of the next pass: what each branch has not fed yet, then drafts where rows cost little.
void RolloutEngine::compose() {
  rows_.clear();
  spans_.clear();
  size_t pending = 0, drafting = 0;
  for (const Branch& branch : active_) {
    pending += std::min(branch.input.size() - branch.fed, kMostFed);
    drafting += branch.spec.draft && branch.spec.temperature == 0 ? 1 : 0;
  }
  const int64_t spare = backend_->cheap_rows() - static_cast<int64_t>(pending);
  const int64_t share =
      drafting == 0 || spare <= 0 ? 0 : std::min<int64_t>(kMostDraft, spare / static_cast<int64_t>(drafting));
  // Branches that go first keep their room: those behind make way.
  auto before = [](const Branch& a, const Branch& b) { return a.key < b.key; };
  if (!std::is_sorted(active_.begin(), active_.end(), before))
    std::sort(active_.begin(), active_.end(), before);
  for (size_t i = 0; i < active_.size(); ++i) {
    const size_t fed = std::min(active_[i].input.size() - active_[i].fed, kMostFed);
    const bool whole = active_[i].fed + fed == active_[i].input.size();
    std::vector<int32_t> drafts;
    if (whole && share > 0 && active_[i].spec.draft && active_[i].spec.temperature == 0) {
      // The token after the last draft is decoded too, and must still be allowed.
      drafts = active_[i].draft.guess(active_[i].trunk->token_ids, std::min(share, active_[i].left() - 1));
    }
    if (!make_room(i, static_cast<int64_t>(active_[i].fed + fed + drafts.size()))) break;
    Branch& branch = active_[i];
    spans_.push_back({i, rows_.size(), fed + drafts.size(), drafts.size()});
    for (size_t j = 0; j < fed + drafts.size(); ++j) {
      const size_t at = branch.fed + j;
      const bool is_draft = j >= fed, predicts = is_draft || at + 1 == branch.input.size();
      const Wanted wanted = !predicts                     ? Wanted::kNothing
                            : branch.spec.temperature > 0 ? Wanted::kLogits
                                                          : Wanted::kToken;
      rows_.push_back({is_draft ? drafts[j - fed] : branch.input[at],
                       branch.prefix + static_cast<int64_t>(at), branch.trunk->kv.get(), branch.prefix,
                       branch.own.get(), wanted});
    }
  }
}

// The next token of each row that wants one; samples where it asked for logits.
void RolloutEngine::pick_tokens() {
  picked_ = output_.tokens;
  struct Sample {
    size_t row;
    const Branch* branch;
  };
  std::vector<Sample> samples;
  for (const Span& span : spans_) {
    const size_t last = span.first_row + span.rows - 1;
    if (rows_[last].wanted == Wanted::kLogits) samples.push_back({last, &active_[span.branch]});
  }
  const int64_t vocab = model_.config().vocab_size;
  at::parallel_for(0, static_cast<int64_t>(samples.size()), std::max<int64_t>(1, 8192 / vocab),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       const BranchSpec& spec = samples[i].branch->spec;
                       const auto position = static_cast<uint64_t>(rows_[samples[i].row].position);
                       picked_[samples[i].row] =
                           sample_row(output_.logits.data() + i * vocab, vocab, spec.temperature, spec.top_p,
                                      uniform_at(spec.seed, position));
                     }
                   });
}

// Adds a decoded token. True where the branch is finished by it.
bool RolloutEngine::accept(Branch& branch, int32_t token, StepResult* result) {
  if (token < 0) {
    throw Error(
        "ERR_CFT_BAD_WEIGHTS",
        "branch " + std::to_string(branch.spec.id) +
            ": expected logits, found only NaN: the weights are damaged, or too large for this dtype");
  }
  const bool ends = end_tokens_.count(token) != 0;
  if (!ends) {
    branch.input.push_back(token);
    if (branch.spec.draft) branch.draft.follow(branch.trunk->token_ids, branch.input, branch.prefix);
    result->token_branches.push_back(branch.spec.id);
    result->tokens.push_back(token);
  }
  if (!ends && branch.left() > 0) return false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    live_.erase(branch.spec.id);
    cancelled_.erase(branch.spec.id);
  }
  result->finished.push_back(
      {branch.spec.id,
       {branch.input.begin() + static_cast<int64_t>(branch.forced), branch.input.end()},
       ends ? token : -1});
  return true;
}

// What a pass said about one branch: its own rows are fed; then the drafts, as long as they are what it
// decodes.
void RolloutEngine::accept_rows(const Span& span, StepResult* result) {
  Branch& branch = active_[span.branch];
  const size_t own = span.rows - span.drafts;
  branch.fed += own;
  if (branch.fed < branch.input.size()) return;
  size_t row = span.first_row + own - 1;
  for (size_t draft = 0;; ++draft, ++row) {
    if (accept(branch, picked_[row], result)) {
      branch.own.reset();  // marks it as finished
      break;
    }
    if (draft == span.drafts || rows_[row + 1].token != picked_[row]) break;
    ++branch.fed;  // the draft's row is what the branch feeds next
    ++result->accepted;
  }
  result->drafted += static_cast<int64_t>(span.drafts);
}

void RolloutEngine::decode_once(StepResult* result) {
  compose();
  backend_->forward(rows_, &output_);
  pick_tokens();
  ++result->steps;
  result->rows += static_cast<int64_t>(rows_.size());
  const size_t finished = result->finished.size();
  for (const Span& span : spans_) accept_rows(span, result);
  if (result->finished.size() == finished) return;
  std::erase_if(active_, [](const Branch& branch) { return branch.own == nullptr; });
  // Memory was given back: let the batch grow again, a branch at a time.
  limit_ = std::min(limit_ + 1, static_cast<size_t>(options_.max_branches));
}

StepResult RolloutEngine::step(int64_t max_steps) {
  const c10::NoGradGuard no_grad;
  follow_weights();
  StepResult result;
  for (int64_t i = 0; i < max_steps && !interrupted_; ++i) {
    drop_cancelled();
    admit(&result);
    if (active_.empty()) break;
    ensure_backend();
    decode_once(&result);
    if (result.finished.empty()) continue;
    // Whoever called wants to know; but as long as others wait, the batch stays full without it.
    const std::lock_guard<std::mutex> lock(mutex_);
    if (waiting_.empty() || result.finished.size() * 4 >= active_.size()) break;
  }
  interrupted_ = false;  // consumed here, not at the start: an interrupt that comes early must not be lost
  const std::lock_guard<std::mutex> lock(mutex_);
  result.active = static_cast<int64_t>(active_.size());
  result.waiting = static_cast<int64_t>(waiting_.size());
  return result;
}

}  // namespace cft
