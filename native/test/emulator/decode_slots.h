// State of a decode step in plain memory, for tests of its kernels under the emulator. Vectors are exactly as
// large as the kernels may touch.
#pragma once
#include <doctest.h>

#include <limits>
#include <random>
#include <vector>

#include "kernels/slots.cuh"
#include "kernels/trunk_tiles.h"

namespace decode_test {

using cft::kernels::Bf16;
using emulator::Order;

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

template <class T>
std::vector<T> poisoned(size_t count) {
  return std::vector<T>(count, cft::kernels::from_float<T>(kPoison));
}

template <class T>
std::vector<T> random_values(std::mt19937& random, size_t count, float size = 1.0f) {
  std::normal_distribution<float> normal(0.0f, size);
  std::vector<T> values(count);
  for (T& value : values) value = cft::kernels::from_float<T>(normal(random));
  return values;
}

template <class T>
std::vector<double> to_double(const std::vector<T>& values) {
  std::vector<double> result;
  for (const T& value : values) result.push_back(cft::kernels::to_float(value));
  return result;
}

// Whether two results have the same bits.
template <class T>
bool same_bits(const T* a, const T* b, size_t count) {
  return std::memcmp(a, b, count * sizeof(T)) == 0;
}

struct Slots {
  std::vector<int32_t> slot_of_row, status, token, prefix, suffix, trunk_start, budget, forced_count,
      forced_tokens;
  int32_t capacity = 0, forced_capacity = 1;

  Slots(size_t rows, size_t slots, int32_t arena_capacity)
      : slot_of_row(rows, -1),
        status(slots, CFT_SLOT_IDLE),
        token(slots, 0),
        prefix(slots, 0),
        suffix(slots, 0),
        trunk_start(slots, 0),
        budget(slots, 1),
        forced_count(slots, 1),
        forced_tokens(slots, 0),
        capacity(arena_capacity) {}

  CftDecodeState state() {
    CftDecodeState state;
    state.rows = static_cast<int32_t>(slot_of_row.size());
    state.slots = static_cast<int32_t>(status.size());
    state.capacity = capacity;
    state.forced_capacity = forced_capacity;
    state.slot_of_row = slot_of_row.data();
    state.status = status.data();
    state.token = token.data();
    state.prefix = prefix.data();
    state.suffix = suffix.data();
    state.trunk_start = trunk_start.data();
    state.budget = budget.data();
    state.forced_count = forced_count.data();
    state.forced_tokens = forced_tokens.data();
    return state;
  }

  bool runs(size_t row) const {
    return slot_of_row[row] >= 0 && status[static_cast<size_t>(slot_of_row[row])] == CFT_SLOT_RUNNING;
  }

  // Every row with a slot, also one at rest: between two refills tiles keep rows that have ended.
  cft::kernels::TrunkTiles tiles(int32_t tile_rows) const {
    std::vector<cft::kernels::TrunkRow> rows;
    for (size_t row = 0; row < slot_of_row.size(); ++row) {
      if (slot_of_row[row] < 0) continue;
      const auto slot = static_cast<size_t>(slot_of_row[row]);
      rows.push_back({static_cast<int32_t>(row), trunk_start[slot], prefix[slot]});
    }
    return cft::kernels::trunk_tiles(rows, tile_rows);
  }
};

}  // namespace decode_test
