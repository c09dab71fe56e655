// The device loop's memory: what fits, who gets a slot, and what happens when there is not enough.
#include <c10/util/Exception.h>

#include <algorithm>

#include "core/errors.h"
#include "core/rollout/device/device_loop.h"

namespace cft {
namespace {

constexpr int64_t kPlannedChunks = 4;  // of trunks, for the plan

int64_t rounded_up(int64_t positions) { return (positions + 15) / 16 * 16; }

}  // namespace

// Free memory, less what prefills, samplers and libraries take, less the buffers of the largest step; half of
// the rest, because other engines and the training after this one want some, too.
void DeviceLoop::plan_memory(int64_t budget_bytes) {
  if (budget_bytes <= 0) {
    const int64_t free = runtime_.free_bytes();
    const int64_t left = free - std::min((int64_t{1} << 30) + free / 16, free / 2);
    while (most_slots_ > 1 && DecodeStep::bytes(model_, row_bucket(most_slots_), kPlannedChunks) > left / 4)
      most_slots_ = std::max<int64_t>(most_slots_ / 2, 1);
    budget_bytes = (left - DecodeStep::bytes(model_, row_bucket(most_slots_), kPlannedChunks)) / 2;
  }
  budget_positions_ = budget_bytes / position_bytes_;
  if (budget_positions_ <= 0) {
    throw Error("ERR_CFT_OUT_OF_MEMORY", "no memory is left for keys and values beside the model's weights");
  }
}

void DeviceLoop::no_room(int64_t positions) const {
  throw Error("ERR_CFT_OUT_OF_MEMORY",
              "no room for the keys and values of a single branch of " + std::to_string(positions) +
                  " tokens: " + memory_text(used_bytes(), budget_positions_ * position_bytes_) +
                  "; allow fewer new tokens, free memory, or keep fewer prefixes at once");
}

void DeviceLoop::drop_cancelled() {
  const std::unordered_set<int64_t> cancelled = queue_.take_cancelled();
  if (cancelled.empty()) return;
  for (Slot& slot : slots_) {
    if (!slot.branch || cancelled.count(slot.branch->spec.id) == 0) continue;
    slot.branch.reset();  // no row names its slot any more, so the device need not know
    rows_dirty_ = true;
  }
}

int64_t DeviceLoop::positions_left() const { return budget_positions_ - pool_.positions(); }

// Branches need room beside the trunks, so only the first may take all: a quarter of it, and what the longest
// of them needs when it is alone. That counts branches that are done, too: a verdict on one may ask for the
// next on its trunk.
int64_t DeviceLoop::positions_for_trunks() {
  if (pool_.used() == 0) {
    longest_ = 0;
    return budget_positions_;
  }
  longest_ = std::max(longest_, queue_.most_positions());
  return std::min(budget_positions_ / 4 * 3, budget_positions_ - longest_);
}

// A quarter of the budget stays for trunks, lest few of them keep a large batch waiting; save for one slot.
int64_t DeviceLoop::slots_that_fit(int64_t capacity) const {
  const int64_t share = budget_positions_ - std::max(pool_.positions(), budget_positions_ / 4);
  const int64_t slots = std::max<int64_t>(share, 0) / capacity;
  return std::min(most_slots_, slots > 0 ? slots : std::min<int64_t>(positions_left() / capacity, 1));
}

// Its slot is free again; it keeps its tokens and is fed them anew.
void DeviceLoop::park(size_t slot) {
  queue_.put_back(std::move(*slots_[slot].branch));
  slots_[slot].branch.reset();
  rows_dirty_ = true;
}

// Gives the arena that many slots of that capacity, or fewer where memory is short: then the branches that go
// last wait again. Throws where not even one fits.
void DeviceLoop::shape_arena(int64_t slots, int64_t capacity) {
  for (;;) {
    int64_t fit = slots_that_fit(capacity);
    if (fit == 0 && pool_.trim()) fit = slots_that_fit(capacity);
    if (fit == 0) no_room(capacity);
    slots = std::min(slots, fit);
    std::vector<size_t> used;
    for (size_t i = 0; i < slots_.size(); ++i)
      if (slots_[i].branch) used.push_back(i);
    std::sort(used.begin(), used.end(),
              [&](size_t a, size_t b) { return slots_[a].branch->key < slots_[b].branch->key; });
    while (static_cast<int64_t>(used.size()) > slots) {
      park(used.back());
      used.pop_back();
    }
    // Slots that can stay where they are do.
    std::sort(used.begin(), used.end());
    std::vector<int64_t> keep(used.begin(), used.end());
    if (!used.empty() && static_cast<int64_t>(used.back()) < slots) {
      keep.clear();
      for (size_t i = 0; i <= used.back(); ++i) keep.push_back(static_cast<int64_t>(i));
    }
    try {
      arena_.reshape(slots, capacity, keep);
      std::vector<Slot> moved(slots);
      for (size_t i = 0; i < keep.size(); ++i) moved[i] = std::move(slots_[keep[i]]);
      slots_ = std::move(moved);
      forget_addresses();
      return;
    } catch (const c10::OutOfMemoryError&) {
      // Less is there than was planned. Nothing of the arena can be kept; half of it is tried.
      for (size_t i = 0; i < slots_.size(); ++i)
        if (slots_[i].branch) park(i);
      slots_.clear();
      arena_.release();
      forget_addresses();
      budget_positions_ = pool_.positions() + slots * capacity / 2;
    }
  }
}

// Room for the next position of every branch.
void DeviceLoop::make_room() {
  const int64_t capacity = arena_.capacity();
  int64_t most = 0;
  bool full = false;
  for (const Slot& slot : slots_) {
    if (!slot.branch) continue;
    most = std::max(most, slot.branch->most_positions());
    full = full || static_cast<int64_t>(slot.branch->fed) >= capacity;
  }
  if (!full) return;
  int64_t wanted = std::min(2 * capacity, rounded_up(most));
  if (positions_left() < wanted) {
    pool_.trim();
    wanted = std::min(wanted, positions_left());
  }
  if (wanted <= capacity) {
    // One that goes first may need less, and its trunk may be in the way.
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (!slots_[i].branch) continue;
      if (!queue_.goes_before(slots_[i].branch->key)) no_room(capacity + 1);
      park(i);
    }
    return;
  }
  shape_arena(arena_.slots(), wanted);
}

void DeviceLoop::admit(StepResult* result) {
  const int64_t waiting = queue_.waiting();
  if (waiting == 0) return;
  const int64_t target = std::min(most_slots_, row_bucket(active() + waiting));
  if (arena_.slots() < target) {
    int64_t capacity = arena_.capacity();
    if (capacity == 0) {
      if (positions_left() < parts_->first_capacity) pool_.trim();
      capacity = std::min(parts_->first_capacity, positions_left());
      if (capacity < 1) no_room(1);
    }
    // Branches have become shorter than they were: more of them fit.
    size_t longest = 0;
    for (const Slot& slot : slots_)
      if (slot.branch) longest = std::max(longest, slot.branch->fed);
    if (slots_that_fit(capacity) < target && capacity > parts_->first_capacity &&
        static_cast<int64_t>(longest) * 4 <= capacity)
      capacity = std::max(capacity / 2, parts_->first_capacity);
    const int64_t slots = std::min(target, slots_that_fit(capacity));
    // Not for a few slots: whatever moves has to be captured again.
    if (arena_.slots() == 0 || slots == target || slots * 4 >= arena_.slots() * 5)
      shape_arena(std::max<int64_t>(slots, 1), capacity);
  }
  for (Slot& slot : slots_) {
    if (slot.branch) continue;
    slot.branch = queue_.next(result);
    if (!slot.branch) return;
    longest_ = std::max(longest_, slot.branch->most_positions());
    slot.branch->spec.draft = false;  // a row more costs as much as the token that it may save
    slot.dirty = rows_dirty_ = true;
  }
}

// Half the branches, because buffers that their number needs were refused. Those that go last wait again.
void DeviceLoop::shrink_batch() {
  runtime_.synchronize();  // staging memory may be on its way
  const int64_t count = active();
  if (count <= 1)
    throw Error("ERR_CFT_OUT_OF_MEMORY", "the device has no memory for the step of a single branch");
  most_slots_ = count / 2;
  shape_arena(most_slots_, arena_.capacity());
}

}  // namespace cft
