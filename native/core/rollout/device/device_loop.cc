#include "core/rollout/device/device_loop.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

#include "core/errors.h"
#include "core/model/decoder.h"
#include "core/rollout/device/sampler.h"
#include "core/rollout/scoring.h"

namespace cft {
namespace {

// Rows of logits held at once in a prefill.
constexpr int64_t kHeadRows = 256;
// The largest bucket whose rows fit into a grid's y, which ends at 65,535.
constexpr int64_t kMostRows = 49152;

}  // namespace

#ifdef CFT_CUDA
std::shared_ptr<const DeviceParts> cuda_parts(const Model& model) {
  auto parts = std::make_shared<DeviceParts>();
  parts->kernels = cuda_kernels(model.dtype());
  if (parts->kernels == nullptr) return nullptr;
  parts->runtime = make_cuda_runtime(model.device());
  return parts;
}
#endif

bool device_loop_takes(const Model& model, const DeviceParts& parts) {
  const ModelConfig& c = model.config();
  const bool dtype = model.dtype() == at::kFloat || model.dtype() == at::kBFloat16;
  return dtype && c.head_dim % 8 == 0 && c.head_dim <= 256 && c.layers > 0 &&
         parts.kernels->trunk_tile_rows(static_cast<int32_t>(c.heads), static_cast<int32_t>(c.kv_heads)) > 0;
}

int64_t row_bucket(int64_t rows) {
  if (rows <= 1) return 1;
  // Powers of two, and from 64 on what lies half way: the products' tiles are 64 to 128 rows high.
  int64_t bucket = 4;
  while (bucket < rows) bucket *= 2;
  const int64_t between = bucket / 4 * 3;
  return bucket >= 128 && between >= rows ? between : bucket;
}

DeviceLoop::DeviceLoop(const Model& model, std::shared_ptr<const DeviceParts> parts,
                       const EndTokens& end_tokens, int64_t max_branches, int64_t budget_bytes,
                       BranchQueue& queue)
    : model_(model),
      parts_(std::move(parts)),
      runtime_(*parts_->runtime),
      end_tokens_(end_tokens),
      queue_(queue),
      most_slots_(std::min(max_branches, kMostRows)),
      layout_(model.config(), model.dtype()),
      position_bytes_(layout_.position_bytes()),
      pool_(layout_, runtime_),
      arena_(layout_, runtime_),
      step_(model, *parts_->kernels, runtime_, parts_->chunk_positions),
      device_slots_(runtime_, end_tokens, parts_->most_steps),
      caches_(model.config().layers) {
  for (size_t i = 0; i < caches_.size(); ++i) {
    caches_[i].heads = static_cast<int32_t>(model.config().heads);
    caches_[i].kv_heads = static_cast<int32_t>(layout_.kv_heads);
    caches_[i].head_dim = static_cast<int32_t>(layout_.head_dim);
    caches_[i].window = static_cast<int32_t>(model.config().window_of_layer[i]);
  }
  plan_memory(budget_bytes);
}

int64_t DeviceLoop::active() const {
  return std::count_if(slots_.begin(), slots_.end(),
                       [](const Slot& slot) { return slot.branch.has_value(); });
}

std::unique_ptr<KvSequence> DeviceLoop::prefill(const std::vector<int32_t>& tokens, int64_t score_from,
                                                int64_t k, TrunkScores* scores) {
  const std::shared_ptr<void> on_stream = runtime_.enter();
  drop_cancelled();  // they hold memory
  const auto length = static_cast<int64_t>(tokens.size());
  const int64_t most = positions_for_trunks();
  const bool fits = pool_.used() + length <= most;
  std::unique_ptr<PooledTrunk> trunk;
  if (fits) trunk = pool_.take(length, std::min(most, budget_positions_ - arena_.positions()));
  if (fits && !trunk && active() == 0 && arena_.slots() > 0) {
    arena_.release();
    slots_.clear();
    forget_addresses();
    trunk = pool_.take(length, most);
  }
  if (!trunk) {
    throw Error("ERR_CFT_OUT_OF_MEMORY",
                "no room for the keys and values of a trunk of " + std::to_string(length) +
                    " tokens: " + memory_text(used_bytes(), budget_positions_ * position_bytes_));
  }
  ForwardHooks hooks;
  hooks.keys_values = [&](int64_t layer, const at::Tensor& keys, const at::Tensor& values) {
    pool_.write(*trunk, layer, keys, values);
  };
  try {
    const at::Tensor hidden = forward_hidden(model_, PackedTokens::make(model_, tokens, {0, length}), hooks);
    for (int64_t first = score_from; first < length; first += kHeadRows) {
      const int64_t rows = std::min(kHeadRows, length - first);
      // The hidden state at i - 1 predicts token i.
      score_rows(forward_head(model_, hidden.narrow(0, first - 1, rows)), tokens.data() + first, k, scores);
    }
  } catch (const c10::OutOfMemoryError&) {
    throw Error("ERR_CFT_OUT_OF_MEMORY", "the device has no memory for the forward pass over a trunk of " +
                                             std::to_string(length) + " tokens");
  }
  runtime_.synchronize();
  return trunk;
}

void DeviceLoop::run(int64_t max_steps, const std::atomic<bool>& interrupted, StepResult* result) {
  const std::shared_ptr<void> on_stream = runtime_.enter();
  // What was decoded is not lost, and the caller may give back trunks; else the next call says it.
  const auto may_end = [&] { return result->steps > 0 || !result->finished.empty(); };
  while (result->steps < max_steps && !interrupted) {
    drop_cancelled();
    try {
      make_room();
      admit(result);
    } catch (const Error&) {
      if (may_end()) return;
      throw;
    }
    if (active() == 0) return;
    const int64_t steps = steps_of_look(max_steps - result->steps);
    try {
      fit_step();
      fit_slots();
      choose_rows();
      tell_slots();
      launch(steps);
    } catch (const c10::OutOfMemoryError&) {
      try {
        shrink_batch();
      } catch (const Error&) {
        if (may_end()) return;
        throw;
      }
      continue;
    }
    replay(steps, result);
    if (worth_returning(*result, active(), queue_)) return;
  }
}

// Addresses that captured steps hold have changed, or what the device has of the slots was lost.
void DeviceLoop::forget_addresses() {
  graphs_.clear();
  for (size_t i = 0; i < caches_.size(); ++i) {
    pool_.place(static_cast<int64_t>(i), &caches_[i]);
    arena_.place(static_cast<int64_t>(i), &caches_[i]);
  }
  pool_version_ = pool_.version();
  for (Slot& slot : slots_) slot.dirty = true;
  rows_dirty_ = true;
}

// The buffers of a step for as many rows as there are branches.
void DeviceLoop::fit_step() {
  int64_t longest = 1, chunks = 1;
  for (const Slot& slot : slots_)
    if (slot.branch) longest = std::max(longest, slot.branch->prefix);
  while (chunks * parts_->chunk_positions < longest) chunks *= 2;  // powers of two: few buckets
  shape_ = {row_bucket(active()), chunks, arena_.capacity()};
  if (step_.reserve(shape_.rows, shape_.chunks)) forget_addresses();
}

// The device's memory for slots, rows and the tokens that slots have to be given.
void DeviceLoop::fit_slots() {
  size_t most = 1;
  for (const Slot& slot : slots_) {
    if (slot.branch && slot.branch->input.size() - slot.branch->fed > 1)
      most = std::max(most, slot.branch->input.size());
  }
  const auto slots = static_cast<int64_t>(slots_.size());
  int64_t forced = std::max<int64_t>(device_slots_.forced_capacity(), 1);
  if (device_slots_.slots() == slots && forced >= static_cast<int64_t>(most)) return;
  while (forced < static_cast<int64_t>(most)) forced *= 2;
  device_slots_.resize(slots, row_bucket(slots), forced);
  forget_addresses();
}

// Which slot each row of the bucket computes, and how rows attend to their trunks.
void DeviceLoop::choose_rows() {
  if (pool_version_ != pool_.version()) forget_addresses();
  if (!rows_dirty_) return;
  std::vector<cft::kernels::TrunkRow> rows;
  slot_of_row_.clear();
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].branch) continue;
    const Branch& branch = *slots_[i].branch;
    const auto& trunk = static_cast<const PooledTrunk&>(*branch.trunk->kv);
    rows.push_back({static_cast<int32_t>(slot_of_row_.size()), static_cast<int32_t>(trunk.range->start()),
                    static_cast<int32_t>(branch.prefix)});
    slot_of_row_.push_back(static_cast<int32_t>(i));
  }
  slot_of_row_.resize(shape_.rows, -1);
  const ModelConfig& c = model_.config();
  const int32_t tile_rows =
      parts_->kernels->trunk_tile_rows(static_cast<int32_t>(c.heads), static_cast<int32_t>(c.kv_heads));
  device_slots_.set_rows(slot_of_row_, cft::kernels::trunk_tiles(std::move(rows), tile_rows));
  sampled_ = sampled_rows();
  rows_dirty_ = false;
}

std::vector<DeviceLoop::Sampled> DeviceLoop::sampled_rows() const {
  std::vector<Sampled> found;
  for (const bool cut : {false, true}) {
    std::vector<int64_t> rows, slots, seeds;
    std::vector<double> temperatures, top_p;
    for (size_t row = 0; row < slot_of_row_.size(); ++row) {
      if (slot_of_row_[row] < 0) continue;
      const BranchSpec& spec = slots_[slot_of_row_[row]].branch->spec;
      if (spec.temperature == 0 || (spec.top_p < 1) != cut) continue;
      rows.push_back(static_cast<int64_t>(row));
      slots.push_back(slot_of_row_[row]);
      seeds.push_back(static_cast<int64_t>(spec.seed));
      temperatures.push_back(spec.temperature);
      top_p.push_back(spec.top_p);
    }
    if (rows.empty()) continue;
    const auto send = [&](const auto& values, at::ScalarType dtype) {
      return at::tensor(values, dtype).to(model_.device());
    };
    found.push_back({send(rows, at::kLong), send(slots, at::kLong), send(temperatures, at::kDouble),
                     send(top_p, at::kDouble), send(seeds, at::kLong), cut});
  }
  return found;
}

void DeviceLoop::tell_slots() {
  device_slots_.forget_slots();
  for (size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (!slot.branch || !slot.dirty) continue;
    const Branch& branch = *slot.branch;
    const auto& trunk = static_cast<const PooledTrunk&>(*branch.trunk->kv);
    device_slots_.set_slot({static_cast<int32_t>(i), CFT_SLOT_RUNNING, branch.input[branch.fed],
                            static_cast<int32_t>(branch.prefix), static_cast<int32_t>(branch.fed),
                            static_cast<int32_t>(trunk.range->start()), static_cast<int32_t>(branch.left()),
                            static_cast<int32_t>(branch.input.size())},
                           branch.input, branch.fed);
  }
  // Until the mirror has followed it counts: where something throws before, all slots are written anew.
  for (Slot& slot : slots_) slot.dirty = true;
}

// A branch that ends leaves its slot idle for half the steps until the next look on average, and a look is
// taken to cost an eighth of a step: with branches of L steps the sum is least at sqrt(L / 4). It follows
// from the branches alone, not from a clock, so that a run can be repeated.
int64_t DeviceLoop::steps_of_look(int64_t most) const {
  int64_t steps = std::min(most, parts_->most_steps), longest = 1;
  if (queue_.waiting() > 0) {
    const auto wanted = static_cast<int64_t>(std::lround(std::sqrt(mean_steps_ / 4)));
    steps = std::min(steps, std::max(wanted, parts_->least_steps));
  }
  for (const Slot& slot : slots_) {
    if (!slot.branch) continue;
    const auto fed = static_cast<int64_t>(slot.branch->fed);
    longest = std::max(longest, slot.branch->most_positions() - fed);
    // It would rest from there on: then the arena has to grow first.
    if (slot.branch->most_positions() > arena_.capacity()) steps = std::min(steps, arena_.capacity() - fed);
  }
  return std::min(steps, longest);
}

void DeviceLoop::launch(int64_t steps) {
  void* stream = runtime_.stream();
  device_slots_.upload(*parts_->kernels, device_slots_.state(shape_.rows, shape_.capacity), stream);
  const bool moves_on = sampled_.empty();
  std::unique_ptr<DeviceGraph>& graph = graphs_[{shape_.rows, shape_.chunks, shape_.capacity, moves_on}];
  // Holds what it was made from, as a captured step holds addresses.
  const auto step = [step = step_, slots = device_slots_, caches = caches_, shape = shape_, moves_on,
                     stream] { step.run(shape, slots, caches, moves_on, stream); };
  for (int64_t i = 0; i < steps; ++i) {
    if (graph) {
      graph->replay();
    } else {
      step();  // the first of a bucket also lets libraries take what they need
      graph = runtime_.capture(step);
    }
    if (moves_on) continue;
    at::Tensor chosen = step_.chosen();
    for (const Sampled& s : sampled_) {
      const at::Tensor uniforms = uniforms_at(s.seeds, device_slots_.positions(s.slots));
      const at::Tensor tokens = sample_rows(step_.logits(shape_.rows).index_select(0, s.rows), s.temperatures,
                                            s.top_p, uniforms, s.cut);
      // A row without a number stays one, and rows at rest stay -1.
      const at::Tensor greedy = chosen.index_select(0, s.rows);
      chosen.index_copy_(0, s.rows, at::where(greedy.lt(0), greedy, tokens.to(at::kInt)));
    }
    step_.advance(shape_, device_slots_, stream);
  }
}

// Does on the mirror what the device did, by the rules of cft_advance.
void DeviceLoop::replay(int64_t steps, StepResult* result) {
  const DeviceSlots::Report report = device_slots_.download(steps);
  const int64_t capacity = arena_.capacity(), stride = device_slots_.slots();
  std::vector<size_t> running;
  for (const int32_t slot : slot_of_row_)
    if (slot >= 0) running.push_back(static_cast<size_t>(slot));
  for (int64_t step = 0; step < steps; ++step) {
    ++result->steps;
    result->rows += static_cast<int64_t>(running.size());
    std::erase_if(running, [&](size_t i) {
      Branch& branch = *slots_[i].branch;
      ++branch.fed;
      if (branch.fed < branch.input.size()) return static_cast<int64_t>(branch.fed) >= capacity;
      const auto taken = static_cast<double>(branch.fed);
      if (!accept_token(branch, report.ring[step * stride + static_cast<int64_t>(i)], end_tokens_, queue_,
                        result))
        return static_cast<int64_t>(branch.fed) >= capacity;
      mean_steps_ += (taken - mean_steps_) / 64;
      slots_[i].branch.reset();
      rows_dirty_ = true;
      return true;
    });
  }
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].branch) continue;
    const int32_t expected =
        static_cast<int64_t>(slots_[i].branch->fed) >= capacity ? CFT_SLOT_ARENA_FULL : CFT_SLOT_RUNNING;
    if (report.status[i] != expected) {
      throw Error("ERR_CFT_INTERNAL", "slot " + std::to_string(i) + ": expected status " +
                                          std::to_string(expected) + " on the device, found " +
                                          std::to_string(report.status[i]));
    }
  }
  for (Slot& slot : slots_) slot.dirty = false;
}

}  // namespace cft
