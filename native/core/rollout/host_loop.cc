#include "core/rollout/host_loop.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>

#include "core/errors.h"
#include "core/rollout/sampling.h"

namespace cft {
namespace {

// Tokens of one branch fed at once: bounds the memory of a pass where branches are fed again.
constexpr size_t kMostFed = 256;
constexpr int64_t kMostDraft = 8;

}  // namespace

HostLoop::HostLoop(const Model& model, std::unique_ptr<Backend> backend, const EndTokens& end_tokens,
                   int64_t max_branches, BranchQueue& queue)
    : model_(model),
      backend_(std::move(backend)),
      end_tokens_(end_tokens),
      max_branches_(static_cast<size_t>(max_branches)),
      queue_(queue),
      limit_(max_branches_) {}

// Whether trunks leave branches what they need: a quarter of the memory, and room for the longest of them
// when it is alone. That counts branches that are done, too: a verdict on one may ask for the next on its
// trunk.
bool HostLoop::leaves_room() {
  if (backend_->used_bytes() > backend_->budget_bytes() / 4 * 3) return false;
  longest_ = std::max(longest_, queue_.most_positions());
  return backend_->reserve(*backend_->create_sequence(), longest_);
}

std::unique_ptr<KvSequence> HostLoop::prefill(const std::vector<int32_t>& tokens, int64_t score_from,
                                              int64_t k, TrunkScores* scores) {
  drop_cancelled();  // they hold memory
  const int64_t length = static_cast<int64_t>(tokens.size());
  std::unique_ptr<KvSequence> kv = backend_->create_sequence();
  const bool first = backend_->used_bytes() == 0;
  if (first) longest_ = 0;
  if (!backend_->reserve(*kv, length) || (!first && !leaves_room())) {
    kv.reset();  // not among what is in use
    throw Error("ERR_CFT_OUT_OF_MEMORY",
                "no room for the keys and values of a trunk of " + std::to_string(length) +
                    " tokens: " + memory_text(backend_->used_bytes(), backend_->budget_bytes()));
  }
  backend_->prefill(*kv, tokens, score_from, k, scores);
  return kv;
}

void HostLoop::drop_cancelled() {
  const std::unordered_set<int64_t> cancelled = queue_.take_cancelled();
  if (cancelled.empty()) return;
  std::erase_if(active_, [&](const Branch& branch) { return cancelled.count(branch.spec.id) != 0; });
}

void HostLoop::admit(StepResult* result) {
  while (active_.size() < limit_) {
    std::optional<Branch> branch = queue_.next(result);
    if (!branch) return;
    longest_ = std::max(longest_, branch->most_positions());
    active_.push_back(std::move(*branch));
  }
}

// Takes a branch out of the batch until there is room again; it keeps its tokens and loses its KV.
void HostLoop::park(size_t index) {
  Branch branch = std::move(active_[index]);
  active_.erase(active_.begin() + static_cast<int64_t>(index));
  queue_.put_back(std::move(branch));
}

// Room for `length` positions of active branch `index`, taken from branches of less priority that stand
// behind it in active_ where need be. False where it had to be parked itself.
bool HostLoop::make_room(size_t index, int64_t length) {
  while (!backend_->reserve(*active_[index].own, length)) {
    if (active_.size() == 1) {
      // One that goes first may need less, and its trunk may be in the way.
      if (queue_.goes_before(active_[0].key)) {
        park(0);
        return false;
      }
      throw Error("ERR_CFT_OUT_OF_MEMORY",
                  "no room for the keys and values of a single branch of " + std::to_string(length) +
                      " tokens: " + memory_text(backend_->used_bytes(), backend_->budget_bytes()) +
                      "; allow fewer new tokens, free memory, or keep fewer prefixes at once");
    }
    limit_ = active_.size() - 1;
    const bool last = index + 1 == active_.size();
    park(active_.size() - 1);
    if (last) return false;
  }
  return true;
}

// The rows of the next pass: what each branch has not fed yet, then drafts where rows cost little.
void HostLoop::compose() {
  rows_.clear();
  spans_.clear();
  size_t pending = 0;
  int64_t drafting = 0;
  for (const Branch& branch : active_) {
    pending += std::min(branch.input.size() - branch.fed, kMostFed);
    drafting += branch.spec.draft && branch.spec.temperature == 0 ? 1 : 0;
  }
  int64_t spare = std::max<int64_t>(backend_->cheap_rows() - static_cast<int64_t>(pending), 0);
  // Branches that go first keep their room: those behind make way.
  auto before = [](const Branch& a, const Branch& b) { return a.key < b.key; };
  if (!std::is_sorted(active_.begin(), active_.end(), before))
    std::sort(active_.begin(), active_.end(), before);
  for (size_t i = 0; i < active_.size(); ++i) {
    const size_t fed = std::min(active_[i].input.size() - active_[i].fed, kMostFed);
    const bool whole = active_[i].fed + fed == active_[i].input.size();
    std::vector<int32_t> drafts;
    if (active_[i].spec.draft && active_[i].spec.temperature == 0) {
      const int64_t share = whole ? std::min(kMostDraft, (spare + drafting - 1) / drafting) : 0;
      --drafting;
      // The token after the last draft is decoded too, and must still be allowed.
      drafts = active_[i].draft.guess(active_[i].trunk->drafts(), std::min(share, active_[i].left() - 1));
    }
    Branch& branch = active_[i];
    if (!branch.own) branch.own = backend_->create_sequence();
    // Nobody makes way for a guess.
    if (!drafts.empty() &&
        !backend_->reserve(*branch.own, static_cast<int64_t>(branch.fed + fed + drafts.size())))
      drafts.clear();
    spare -= static_cast<int64_t>(drafts.size());
    if (!make_room(i, static_cast<int64_t>(branch.fed + fed + drafts.size()))) break;
    spans_.push_back({i, rows_.size(), fed + drafts.size(), drafts.size()});
    for (size_t j = 0; j < fed + drafts.size(); ++j) {
      const size_t at = branch.fed + j;
      const bool is_draft = j >= fed, predicts = is_draft || at + 1 == branch.input.size();
      const bool logits = branch.spec.temperature > 0 || branch.spec.entropy;
      const Wanted wanted = !predicts ? Wanted::kNothing : logits ? Wanted::kLogits : Wanted::kToken;
      rows_.push_back({is_draft ? drafts[j - fed] : branch.input[at],
                       branch.prefix + static_cast<int64_t>(at), branch.trunk->kv.get(), branch.prefix,
                       branch.own.get(), wanted});
    }
  }
}

// The next token of each row that wants one; from its logits where it asked for them.
void HostLoop::pick_tokens() {
  picked_ = output_.tokens;
  entropies_.assign(rows_.size(), std::numeric_limits<float>::quiet_NaN());
  struct Choice {
    size_t row;
    const BranchSpec* spec;
  };
  std::vector<Choice> choices;
  for (const Span& span : spans_) {
    for (size_t row = span.first_row; row < span.first_row + span.rows; ++row) {
      if (rows_[row].wanted == Wanted::kLogits) choices.push_back({row, &active_[span.branch].spec});
    }
  }
  const int64_t vocab = model_.config().vocab_size;
  at::parallel_for(0, static_cast<int64_t>(choices.size()), std::max<int64_t>(1, 8192 / vocab),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       const auto& [row, spec] = choices[i];
                       const float* logits = output_.logits.data() + i * vocab;
                       if (spec->entropy) {
                         const RowChoice choice = greedy_row(logits, vocab);
                         picked_[row] = choice.token;
                         entropies_[row] = choice.entropy;
                       }
                       if (spec->temperature > 0) {
                         const auto position = static_cast<uint64_t>(rows_[row].position);
                         picked_[row] = sample_row(logits, vocab, spec->temperature, spec->top_p,
                                                   uniform_at(spec->seed, position));
                       }
                     }
                   });
}

// What a pass said about one branch: its own rows are fed; then the drafts, as long as they are what it
// decodes.
void HostLoop::accept_rows(const Span& span, StepResult* result) {
  Branch& branch = active_[span.branch];
  const size_t own = span.rows - span.drafts;
  branch.fed += own;
  if (branch.fed < branch.input.size()) return;
  size_t row = span.first_row + own - 1;
  for (size_t draft = 0;; ++draft, ++row) {
    if (accept_token(branch, picked_[row], end_tokens_, queue_, result, entropies_[row])) {
      branch.own.reset();  // marks it as finished
      break;
    }
    if (draft == span.drafts || rows_[row + 1].token != picked_[row]) break;
    ++branch.fed;  // the draft's row is what the branch feeds next
    ++result->accepted;
  }
  result->drafted += static_cast<int64_t>(span.drafts);
}

void HostLoop::decode_once(StepResult* result) {
  backend_->forward(rows_, &output_);
  pick_tokens();
  ++result->steps;
  result->rows += static_cast<int64_t>(rows_.size());
  const size_t finished = result->finished.size();
  for (const Span& span : spans_) accept_rows(span, result);
  if (result->finished.size() == finished) return;
  std::erase_if(active_, [](const Branch& branch) { return branch.own == nullptr; });
  // Memory was given back: let the batch grow again, a branch at a time.
  limit_ = std::min(limit_ + 1, max_branches_);
}

void HostLoop::run(int64_t max_steps, const std::atomic<bool>& interrupted, StepResult* result) {
  for (int64_t i = 0; i < max_steps && !interrupted; ++i) {
    drop_cancelled();
    admit(result);
    if (active_.empty()) return;
    try {
      compose();
    } catch (const Error&) {
      if (result->finished.empty() && result->steps == 0) throw;
      return;  // what was decoded is not lost, and the caller may give back trunks
    }
    if (spans_.empty()) continue;  // the only branch made way
    decode_once(result);
    if (worth_returning(*result, active(), queue_)) return;
  }
}

}  // namespace cft
