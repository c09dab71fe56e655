// What the kernels of a decode step read of a row's slot, the start of a step, and the refill of slots.
#pragma once
#include "kernels/decode.h"
#include "kernels/device.cuh"

namespace cft::kernels {

// Positions [begin, end).
struct Range {
  int begin, end;
};

// The slot of a row; `running` is false for padding and for slots at rest.
struct RowSlot {
  bool running = false;
  int slot = -1;
  int prefix = 0, suffix = 0;

  // The first absolute position that the row's new token still sees.
  __device__ int seen_from(int window) const {
    const int first = prefix + suffix + 1 - window;
    return window > 0 && first > 0 ? first : 0;
  }
  __device__ Range trunk(int window) const { return {smaller(seen_from(window), prefix), prefix}; }
  // With the new token itself.
  __device__ Range in_arena(int window) const { return {larger(seen_from(window) - prefix, 0), suffix + 1}; }
};

__device__ __forceinline__ RowSlot slot_of(const CftDecodeState& state, int row) {
  RowSlot found;
  found.slot = state.slot_of_row[row];
  if (found.slot < 0 || state.status[found.slot] != CFT_SLOT_RUNNING) return found;
  found.running = true;
  found.prefix = state.prefix[found.slot];
  found.suffix = state.suffix[found.slot];
  return found;
}

// One thread per record. Block: kThreads. (A template, so that the header may stand in several files.)
template <int kThreads>
__global__ void refill_slots_kernel(const CftSlotRecord* records, int count, CftDecodeState state) {
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= count) return;
  const CftSlotRecord record = records[i];
  state.status[record.slot] = record.status;
  state.token[record.slot] = record.token;
  state.prefix[record.slot] = record.prefix;
  state.suffix[record.slot] = record.suffix;
  state.trunk_start[record.slot] = record.trunk_start;
  state.budget[record.slot] = record.budget;
  state.forced_count[record.slot] = record.forced_count;
}

constexpr int kBeginStepThreads = 128;

// Grid: rows. width a multiple of N.
template <class T, int N>
__global__ void begin_step_kernel(CftDecodeState state, CftBeginStep step) {
  using Values = Pack<T, N>;
  const int row = static_cast<int>(blockIdx.x);
  const RowSlot slot = slot_of(state, row);
  const int64_t packs = step.width / N;
  Values* out = static_cast<Values*>(step.hidden) + row * packs;
  const Values* in =
      static_cast<const Values*>(step.embedding) + (slot.running ? state.token[slot.slot] * packs : 0);
  Values zeros;
  CFT_UNROLL for (int j = 0; j < N; ++j) zeros.values[j] = from_float<T>(0.0f);
  for (int64_t i = threadIdx.x; i < packs; i += blockDim.x) out[i] = slot.running ? in[i] : zeros;

  // Once per step rather than in every layer and head.
  const int half = step.head_dim / 2;
  const float position = static_cast<float>(slot.prefix + slot.suffix);
  auto* table = reinterpret_cast<Pack<float, 2>*>(step.cos_sin);
  for (int i = static_cast<int>(threadIdx.x); i < step.ropes * half; i += static_cast<int>(blockDim.x)) {
    const int rope = i / half;
    const float angle = position * step.inverse_frequencies[i], scale = step.rope_scales[rope];
    table[(static_cast<int64_t>(rope) * state.rows + row) * half + i % half] = {
        {cosf(angle) * scale, sinf(angle) * scale}};
  }
}

}  // namespace cft::kernels
