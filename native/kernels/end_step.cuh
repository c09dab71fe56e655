// The end of a decode step: argmax over the vocabulary in two stages, and what follows from the token for its
// slot: end token, budget, position, output ring.
#pragma once
#include "kernels/slots.cuh"

namespace cft::kernels {

constexpr int kArgmaxThreads = 256;
constexpr int kArgmaxElements = 8192;  // of the vocabulary per block
constexpr int kArgmaxShared = kArgmaxThreads / 32 * 8;
constexpr int kEndStepWarps = 4;  // rows per block of the second stage

// The larger value wins, the lower index among equals.
struct Best {
  float value = -INFINITY;
  int index = 2147483647;

  __device__ void meet(float other_value, int other_index) {
    if (other_value > value || (other_value == value && other_index < index)) {
      value = other_value;
      index = other_index;
    }
  }
};

__device__ __forceinline__ Best warp_best(Best best) {
  for (int mask = 16; mask > 0; mask >>= 1) {
    const float value = __shfl_xor_sync(0xffffffffu, best.value, mask);
    const int index = __shfl_xor_sync(0xffffffffu, best.index, mask);
    best.meet(value, index);
  }
  return best;
}

// Grid: (cft_argmax_blocks(vocab), rows). Dynamic shared memory: kArgmaxShared. vocab a multiple of N.
template <class T, int N>
__global__ void __launch_bounds__(kArgmaxThreads) argmax_blocks_kernel(CftDecodeState state, CftEndStep end) {
  CFT_DYNAMIC_SHARED(float, values);
  int* indices = reinterpret_cast<int*>(values + kArgmaxThreads / 32);
  const int row = static_cast<int>(blockIdx.y), warp = static_cast<int>(threadIdx.x) / 32;
  if (!slot_of(state, row).running) return;
  const auto* logits =
      reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(end.logits) + row * end.vocab);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kArgmaxElements / N;
  const int64_t last = smaller<int64_t>(first + kArgmaxElements / N, end.vocab / N);
  Best best;
  for (int64_t i = first + threadIdx.x; i < last; i += kArgmaxThreads) {
    const Pack<T, N> pack = logits[i];
    CFT_UNROLL for (int j = 0; j < N; ++j) best.meet(to_float(pack.values[j]), static_cast<int>(i * N + j));
  }
  best = warp_best(best);
  if (threadIdx.x % 32 == 0) {
    values[warp] = best.value;
    indices[warp] = best.index;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kArgmaxThreads / 32; ++i) best.meet(values[i], indices[i]);
  const int64_t place = static_cast<int64_t>(row) * gridDim.x + blockIdx.x;
  end.partial_values[place] = best.value;
  end.partial_indices[place] = best.index;
}

// The lane that calls it moves the row's slot on.
__device__ inline void advance_slot(const CftDecodeState& state, const CftEndStep& end, const RowSlot& slot,
                                    int token, int step) {
  const int s = slot.slot, fed = slot.suffix + 1;
  state.suffix[s] = fed;
  if (fed < state.forced_count[s]) {
    state.token[s] = state.forced_tokens[static_cast<int64_t>(s) * state.forced_capacity + fed];
  } else {
    end.ring[static_cast<int64_t>(step % end.ring_steps) * state.slots + s] = token;
    bool ends = --state.budget[s] <= 0 || token < 0;
    for (int i = 0; i < end.end_token_count; ++i) ends = ends || end.end_tokens[i] == token;
    if (ends) {
      state.status[s] = CFT_SLOT_IDLE;
      return;
    }
    state.token[s] = token;
  }
  if (fed >= state.capacity) state.status[s] = CFT_SLOT_ARENA_FULL;
}

// A warp per row: kArgmax takes the token from the blocks' results, else from `chosen`; kAdvance moves the
// slot on, else the token goes to `chosen`. Grid: rows by kEndStepWarps. Block: 32 * kEndStepWarps.
template <bool kArgmax, bool kAdvance>
__global__ void __launch_bounds__(32 * kEndStepWarps)
    end_step_kernel(CftDecodeState state, CftEndStep end, int blocks) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(blockIdx.x) * kEndStepWarps + static_cast<int>(threadIdx.x) / 32;
  const RowSlot slot = row < state.rows ? slot_of(state, row) : RowSlot{};
  int token = -1;
  if (slot.running) {
    if (kArgmax) {
      Best best;
      for (int i = lane; i < blocks; i += 32) {
        const int64_t place = static_cast<int64_t>(row) * blocks + i;
        best.meet(end.partial_values[place], end.partial_indices[place]);
      }
      token = warp_best(best).index;
      if (token >= end.vocab) token = -1;  // logits of NaN alone
    } else {
      token = end.chosen[row];
    }
  }
  if (!kAdvance) {
    if (row < state.rows && lane == 0) end.chosen[row] = token;
    return;
  }
  const int step = end.counters[0];
  if (slot.running && lane == 0) advance_slot(state, end, slot, token, step);
  // The block that is done last counts the step: by then all have read the count.
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  if (atomicAdd(&end.counters[1], 1) != static_cast<int>(gridDim.x) - 1) return;
  end.counters[1] = 0;
  end.counters[0] = step + 1;
}

}  // namespace cft::kernels
