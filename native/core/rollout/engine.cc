#include "core/rollout/engine.h"

#include <c10/core/GradMode.h>

#include <algorithm>

#include "core/errors.h"
#include "core/ops/lanes.h"
#include "core/rollout/decode.h"
#include "core/rollout/sampling.h"

namespace cft {
namespace {

constexpr int64_t kFirstCapacity =
    64;  // arena positions per slot to begin with; doubled when a branch needs more

at::Tensor long_tensor(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(values, at::kLong).to(device);
}

}  // namespace

RolloutEngine::RolloutEngine(Model& model, int64_t max_branches, std::vector<int32_t> end_token_ids)
    : model_(model),
      max_branches_(static_cast<size_t>(std::max<int64_t>(max_branches, 1))),
      end_tokens_(end_token_ids.begin(), end_token_ids.end()),
      weight_version_(model.weight_version()) {
  if (max_branches < 1) {
    throw Error("ERR_CFT_BAD_OPTION",
                "maxBranches: expected at least 1, found " + std::to_string(max_branches));
  }
  for (int32_t id : end_token_ids) {
    if (id < 0 || id >= model.config().vocab_size) {
      throw Error("ERR_CFT_BAD_OPTION", "end token " + std::to_string(id) + ": expected 0 to " +
                                            std::to_string(model.config().vocab_size - 1));
    }
  }
}

int64_t RolloutEngine::add_trunk(std::vector<int32_t> token_ids, int64_t score_from, int64_t alternatives,
                                 TrunkScores* scores) {
  c10::NoGradGuard no_grad;
  follow_weights();
  std::shared_ptr<const Trunk> trunk;
  run_one_lane(model_, [&] {
    const c10::NoGradGuard lane_no_grad;
    trunk = std::make_shared<const Trunk>(
        prefill_trunk(model_, std::move(token_ids), score_from, alternatives, scores));
  });
  const std::lock_guard<std::mutex> lock(mutex_);
  trunks_[next_trunk_] = std::move(trunk);
  return next_trunk_++;
}

void RolloutEngine::submit(const std::vector<BranchSpec>& specs) {
  const ModelConfig& c = model_.config();
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<Branch> fresh;
  std::unordered_set<int64_t> fresh_ids;
  for (const BranchSpec& spec : specs) {
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
    if (live_.count(spec.id) != 0 || !fresh_ids.insert(spec.id).second) refuse("its id is in use");
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
      // Decoding starts from the last kept token, which is fed again: no logits need to be kept with the
      // trunk.
      branch.input.push_back(branch.trunk->token_ids[spec.length - 1]);
      branch.prefix = spec.length - 1;
    }
    fresh.push_back(std::move(branch));
  }
  for (Branch& branch : fresh) {
    live_.insert(branch.spec.id);
    waiting_.push_back(std::move(branch));
  }
}

void RolloutEngine::cancel(const std::vector<int64_t>& branch_ids) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (int64_t id : branch_ids) {
    const auto waiting = std::find_if(waiting_.begin(), waiting_.end(),
                                      [&](const Branch& branch) { return branch.spec.id == id; });
    if (waiting != waiting_.end()) {
      waiting_.erase(waiting);
      live_.erase(id);
    } else if (live_.count(id) != 0) {
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
  if (!waiting_.empty() || !active_.empty()) {
    waiting_.clear();
    active_.clear();
    live_.clear();
    cancelled_.clear();
    throw Error("ERR_CFT_INTERNAL", "the model's weights changed while branches were being decoded");
  }
}

void RolloutEngine::drop_cancelled() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (cancelled_.empty()) return;
  for (size_t slot = active_.size(); slot-- > 0;) {
    const int64_t id = active_[slot].spec.id;
    if (cancelled_.erase(id) == 0) continue;
    live_.erase(id);
    finish(slot, -1, nullptr);
  }
  cancelled_.clear();
}

void RolloutEngine::admit(StepResult* result) {
  const std::lock_guard<std::mutex> lock(mutex_);
  while (active_.size() < max_branches_ && !waiting_.empty()) {
    Branch branch = std::move(waiting_.front());
    waiting_.pop_front();
    if (branch.spec.max_new_tokens == 0) {
      live_.erase(branch.spec.id);
      result->finished.push_back({branch.spec.id, {}, -1});
      continue;
    }
    active_.push_back(std::move(branch));
  }
}

void RolloutEngine::reserve_arena() {
  int64_t needed = 0;
  for (const Branch& branch : active_) needed = std::max(needed, branch.suffix() + 1);
  const int64_t slots = static_cast<int64_t>(active_.size());
  if (needed <= arena_capacity_ && slots <= arena_slots_) return;
  int64_t capacity = std::max(arena_capacity_, kFirstCapacity);
  while (capacity < needed) capacity *= 2;
  const int64_t new_slots = std::max(slots, arena_slots_);
  const ModelConfig& c = model_.config();
  const auto options = at::TensorOptions().dtype(model_.dtype()).device(model_.device());
  auto grow = [&](std::vector<at::Tensor>& arena) {
    arena.resize(c.layers);
    for (at::Tensor& tensor : arena) {
      at::Tensor larger = at::empty({new_slots, capacity, c.kv_heads, c.head_dim}, options);
      if (tensor.defined()) larger.narrow(0, 0, arena_slots_).narrow(1, 0, arena_capacity_).copy_(tensor);
      tensor = larger;
    }
  };
  grow(arena_keys_);
  grow(arena_values_);
  arena_slots_ = new_slots;
  arena_capacity_ = capacity;
}

void RolloutEngine::finish(size_t slot, int32_t end_token, StepResult* result) {
  Branch& branch = active_[slot];
  if (result != nullptr) result->finished.push_back({branch.spec.id, std::move(branch.decoded), end_token});
  const size_t last = active_.size() - 1;
  if (slot != last) {
    // Slots stay dense: the last branch moves into the hole, with its part of the arena.
    const int64_t used = active_[last].suffix();
    if (used > 0) {
      for (std::vector<at::Tensor>* arena : {&arena_keys_, &arena_values_}) {
        for (at::Tensor& tensor : *arena) {
          tensor.select(0, static_cast<int64_t>(slot))
              .narrow(0, 0, used)
              .copy_(tensor.select(0, static_cast<int64_t>(last)).narrow(0, 0, used));
        }
      }
    }
    branch = std::move(active_[last]);
  }
  active_.pop_back();
}

void RolloutEngine::accept(size_t slot, int32_t token, StepResult* result) {
  Branch& branch = active_[slot];
  const bool ends = end_tokens_.count(token) != 0;
  if (!ends) {
    branch.decoded.push_back(token);
    branch.input.push_back(token);
    result->token_branches.push_back(branch.spec.id);
    result->tokens.push_back(token);
  }
  const int64_t used = static_cast<int64_t>(branch.decoded.size()) + (ends ? 1 : 0);
  if (!ends && used < branch.spec.max_new_tokens) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    live_.erase(branch.spec.id);
    cancelled_.erase(branch.spec.id);
  }
  finish(slot, ends ? token : -1, result);
}

// Branches [first, last) through all layers; writes their logits to the rows [first, last) of `logits`.
void RolloutEngine::decode_block(int64_t first, int64_t last, at::Tensor& logits) {
  const ModelConfig& c = model_.config();
  const int64_t count = last - first;
  const int64_t padded = (count + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
  std::vector<int64_t> ids(padded, 0), positions(padded, 0), arena_rows(count);
  std::vector<ops::BranchRow> rows(count);
  for (int64_t i = 0; i < count; ++i) {
    const Branch& branch = active_[first + i];
    ids[i] = branch.input[branch.fed];
    positions[i] = branch.position();
    arena_rows[i] = (first + i) * arena_capacity_ + branch.suffix();
    rows[i].slot = first + i;
  }
  const at::Tensor targets = long_tensor(arena_rows, model_.device());
  const DecodeRows decode{long_tensor(ids, model_.device()), long_tensor(positions, model_.device()), count};
  auto attend = [&](int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    auto put = [&](const at::Tensor& arena, const at::Tensor& fresh) {
      arena.view({-1, c.kv_heads, c.head_dim}).index_copy_(0, targets, fresh.narrow(0, 0, count));
    };
    put(arena_keys_[layer], k);
    put(arena_values_[layer], v);
    const int64_t window = c.window_of_layer[layer];
    for (int64_t i = 0; i < count; ++i) {
      const Branch& branch = active_[first + i];
      // The first absolute position that this row still sees.
      const int64_t seen = window > 0 ? std::max<int64_t>(positions[i] - window + 1, 0) : 0;
      ops::BranchRow& row = rows[i];
      row.trunk_keys = &branch.trunk->keys[layer];
      row.trunk_values = &branch.trunk->values[layer];
      row.trunk_begin = std::min(seen, branch.prefix);
      row.trunk_end = branch.prefix;
      row.suffix_begin = std::max<int64_t>(seen - branch.prefix, 0);
      row.suffix_end = branch.suffix() + 1;
    }
    return ops::branch_attention(q, rows, arena_keys_[layer], arena_values_[layer]);
  };
  logits.narrow(0, first, count).copy_(decode_rows(model_, decode, attend));
}

void RolloutEngine::decode_once(StepResult* result) {
  const ModelConfig& c = model_.config();
  const int64_t count = static_cast<int64_t>(active_.size());
  at::Tensor logits =
      at::empty({count, c.vocab_size}, at::TensorOptions().dtype(at::kFloat).device(model_.device()));
  const int64_t lanes = runs_by_lanes(model_) ? at::get_num_threads() : 1;
  // The rows of a lane: a multiple of kRowMultiple, so that only the last one pads.
  const int64_t blocks = (count + kRowMultiple - 1) / kRowMultiple;
  const int64_t lane_rows = (blocks + lanes - 1) / lanes * kRowMultiple;
  run_lanes(lanes, [&](int64_t lane) {
    const c10::NoGradGuard no_grad;  // thread-local
    const int64_t first = lane * lane_rows, last = std::min(count, first + lane_rows);
    if (first < last) decode_block(first, last, logits);
  });

  const bool sampling = std::any_of(active_.begin(), active_.end(),
                                    [](const Branch& branch) { return branch.spec.temperature > 0; });
  const bool on_host = sampling || logits.is_cpu();
  const at::Tensor host = on_host ? logits.cpu() : logits.argmax(-1).cpu();
  // From the last slot down, so that a finished branch's slot is filled by one that has already been looked
  // at.
  for (int64_t i = count - 1; i >= 0; --i) {
    Branch& branch = active_[i];
    const uint64_t position = static_cast<uint64_t>(branch.position());
    ++branch.fed;
    if (branch.fed < branch.input.size()) continue;  // still feeding forced tokens
    int32_t token;
    if (!on_host) {
      token = static_cast<int32_t>(host.const_data_ptr<int64_t>()[i]);
    } else {
      const float* row = host.const_data_ptr<float>() + i * c.vocab_size;
      token = branch.spec.temperature > 0
                  ? sample_row(row, c.vocab_size, branch.spec.temperature, branch.spec.top_p,
                               uniform_at(branch.spec.seed, position))
                  : argmax_row(row, c.vocab_size);
    }
    accept(static_cast<size_t>(i), token, result);
  }
}

StepResult RolloutEngine::step(int64_t max_steps) {
  c10::NoGradGuard no_grad;
  follow_weights();
  StepResult result;
  for (int64_t i = 0; i < max_steps && !interrupted_; ++i) {
    drop_cancelled();
    admit(&result);
    if (active_.empty()) break;
    reserve_arena();
    decode_once(&result);
    if (!result.finished.empty()) break;
  }
  interrupted_ = false;  // consumed here, not at the start: an interrupt that comes early must not be lost
  const std::lock_guard<std::mutex> lock(mutex_);
  result.active = static_cast<int64_t>(active_.size());
  result.waiting = static_cast<int64_t>(waiting_.size());
  return result;
}

}  // namespace cft
