#include "core/rollout/device/device_slots.h"

#include <algorithm>
#include <cstring>

namespace cft {
namespace {

// The plan, in int32: two counters, the tile count and one of padding; slot_of_row, tile rows and tiles (two
// each); the slots' records.
constexpr int64_t kCounters = 0, kTileCount = 2, kRows = 4, kRecordInts = sizeof(CftSlotRecord) / 4;
int64_t tile_rows_at(int64_t rows) { return kRows + rows; }
int64_t tiles_at(int64_t rows) { return kRows + 2 * rows; }
int64_t records_at(int64_t rows) { return kRows + 4 * rows; }

}  // namespace

DeviceSlots::DeviceSlots(DeviceRuntime& runtime, const EndTokens& end_tokens, int64_t ring_steps)
    : runtime_(runtime), ring_steps_(ring_steps) {
  const std::vector<int32_t> ids(end_tokens.begin(), end_tokens.end());
  end_tokens_ = runtime.empty({static_cast<int64_t>(ids.size())}, at::kInt);
  if (!ids.empty()) end_tokens_.copy_(at::tensor(ids, at::kInt));
}

void DeviceSlots::resize(int64_t slots, int64_t most_rows, int64_t forced_capacity) {
  most_rows = (most_rows + 3) / 4 * 4;  // keeps what follows aligned
  slots_ = 0;                           // until all is there
  const int64_t plan = records_at(most_rows) + kRecordInts * slots, report = (1 + ring_steps_) * slots;
  state_ = runtime_.empty({6, slots}, at::kInt);
  report_ = runtime_.empty({report}, at::kInt);
  report_staging_ = runtime_.staging({report}, at::kInt);
  forced_ = runtime_.empty({slots, forced_capacity}, at::kInt);
  forced_staging_ = runtime_.staging({slots, forced_capacity}, at::kInt);
  forced_staging_.zero_();
  plan_ = runtime_.empty({plan}, at::kInt);
  plan_staging_ = runtime_.staging({plan}, at::kInt);
  report_.zero_();  // all slots idle
  records_ = 0;
  rows_changed_ = forced_changed_ = false;
  slots_ = slots;
  most_rows_ = most_rows;
  forced_capacity_ = forced_capacity;
}

void DeviceSlots::set_rows(const std::vector<int32_t>& slot_of_row, const cft::kernels::TrunkTiles& tiles) {
  int32_t* to = staged();
  std::copy(slot_of_row.begin(), slot_of_row.end(), to + kRows);
  std::copy(tiles.rows.begin(), tiles.rows.end(), to + tile_rows_at(most_rows_));
  std::memcpy(to + tiles_at(most_rows_), tiles.tiles.data(), tiles.tiles.size() * sizeof(CftTrunkTile));
  to[kTileCount] = static_cast<int32_t>(tiles.tiles.size());
  rows_changed_ = true;
}

void DeviceSlots::set_slot(const CftSlotRecord& record, const std::vector<int32_t>& tokens, size_t fed) {
  std::memcpy(staged() + records_at(most_rows_) + kRecordInts * records_++, &record, sizeof(record));
  if (tokens.size() - fed < 2) return;  // the record holds the only one
  std::copy(tokens.begin(), tokens.end(),
            static_cast<int32_t*>(forced_staging_.data_ptr()) + record.slot * forced_capacity_);
  forced_changed_ = true;
}

void DeviceSlots::upload(const DecodeKernels& kernels, const CftDecodeState& state, void* stream) {
  // The longest beginning that holds what has changed; the counters always start anew.
  staged()[kCounters] = staged()[kCounters + 1] = 0;
  const int64_t ints = records_ > 0    ? records_at(most_rows_) + kRecordInts * records_
                       : rows_changed_ ? records_at(most_rows_)
                                       : kTileCount;
  plan_.narrow(0, 0, ints).copy_(plan_staging_.narrow(0, 0, ints), /*non_blocking=*/true);
  if (forced_changed_) forced_.copy_(forced_staging_, /*non_blocking=*/true);
  if (records_ > 0) {
    const auto* records = reinterpret_cast<const CftSlotRecord*>(plan() + records_at(most_rows_));
    check_launch(kernels.refill_slots(records, static_cast<int32_t>(records_), &state, stream),
                 "refill_slots");
  }
  records_ = 0;
  rows_changed_ = forced_changed_ = false;
}

CftDecodeState DeviceSlots::state(int64_t rows, int64_t capacity) const {
  CftDecodeState state;
  state.rows = static_cast<int32_t>(rows);
  state.slots = static_cast<int32_t>(slots_);
  state.capacity = static_cast<int32_t>(capacity);
  state.forced_capacity = static_cast<int32_t>(forced_capacity_);
  state.slot_of_row = plan() + kRows;
  auto* first = static_cast<int32_t*>(state_.data_ptr());
  state.status = static_cast<int32_t*>(report_.data_ptr());
  state.token = first;
  state.prefix = first + slots_;
  state.suffix = first + 2 * slots_;
  state.trunk_start = first + 3 * slots_;
  state.budget = first + 4 * slots_;
  state.forced_count = first + 5 * slots_;
  state.forced_tokens = static_cast<const int32_t*>(forced_.data_ptr());
  return state;
}

void DeviceSlots::place(CftAttention* attention) const {
  attention->tile_count = plan() + kTileCount;
  attention->tile_rows = plan() + tile_rows_at(most_rows_);
  attention->tiles = reinterpret_cast<const CftTrunkTile*>(plan() + tiles_at(most_rows_));
}

void DeviceSlots::place(CftEndStep* end) const {
  end->end_tokens = static_cast<const int32_t*>(end_tokens_.data_ptr());
  end->end_token_count = static_cast<int32_t>(end_tokens_.numel());
  end->ring = static_cast<int32_t*>(report_.data_ptr()) + slots_;
  end->ring_steps = static_cast<int32_t>(ring_steps_);
  end->counters = plan() + kCounters;
}

at::Tensor DeviceSlots::positions(const at::Tensor& slots) const {
  const at::Tensor sum = state_[1] + state_[2];  // prefix + suffix
  return sum.index_select(0, slots).to(at::kLong);
}

DeviceSlots::Report DeviceSlots::download(int64_t steps) {
  const int64_t ints = (1 + steps) * slots_;
  report_staging_.narrow(0, 0, ints).copy_(report_.narrow(0, 0, ints), /*non_blocking=*/true);
  runtime_.synchronize();
  const auto* first = static_cast<const int32_t*>(report_staging_.data_ptr());
  return {first, first + slots_};
}

}  // namespace cft
