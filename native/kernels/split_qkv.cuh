// What happens to a row of the fused q, k, v projection before attention: bias, RMSNorm of q and k, rotary
// embedding by halves, and the way of k and v into the arena.
#pragma once
#include "kernels/slots.cuh"

namespace cft::kernels {

constexpr int kSplitQkvThreads = 256;
constexpr int kSplitQkvShared = 2 * kSplitQkvThreads / 32 * static_cast<int>(sizeof(float));

// Grid: rows. Dynamic shared memory: kSplitQkvShared. A warp takes a head at a time, a lane two neighbouring
// elements and the two half a head further on, which rotate with them. Norms round to T where the separate
// operations would; the rotation is in fp32 and rounded once.
template <class T>
__global__ void __launch_bounds__(kSplitQkvThreads)
    split_qkv_kernel(CftDecodeState state, CftLayerCache cache, CftSplitQkv split) {
  CFT_DYNAMIC_SHARED(float, scratch);
  using Pair = Pack<T, 2>;
  constexpr int kQuads = 2;  // head_dim / 4 quads over 32 lanes, head_dim at most 256
  const int row = static_cast<int>(blockIdx.x);
  const RowSlot slot = slot_of(state, row);
  if (!slot.running) return;
  const int dim = cache.head_dim, heads = cache.heads, kv_heads = cache.kv_heads;
  const int q_size = heads * dim, k_size = kv_heads * dim;
  const T* in = static_cast<const T*>(split.qkv) + static_cast<int64_t>(row) * (q_size + 2 * k_size);
  const T* bias = static_cast<const T*>(split.bias);
  const auto load = [&](int i) {
    const float x = to_float(in[i]);
    return bias == nullptr ? x : to_float(from_float<T>(x + to_float(bias[i])));
  };

  float projection_scale[2] = {1.0f, 1.0f};  // of q and of k
  if (split.norm == CFT_QK_NORM_PROJECTION) {
    CFT_UNROLL for (int part = 0; part < 2; ++part) {
      const int first = part == 0 ? 0 : q_size, size = part == 0 ? q_size : k_size;
      float squares = 0.0f;
      for (int i = static_cast<int>(threadIdx.x); i < size; i += kSplitQkvThreads) {
        const float x = load(first + i);
        squares += x * x;
      }
      squares = block_sum(squares, scratch + part * kSplitQkvThreads / 32);
      projection_scale[part] = rsqrtf(squares / static_cast<float>(size) + split.eps);
    }
  }

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int half = dim / 2;
  const auto* rope =
      reinterpret_cast<const Pack<float, 2>*>(split.cos_sin) + static_cast<int64_t>(row) * half;
  for (int head = warp; head < heads + 2 * kv_heads; head += kSplitQkvThreads / 32) {
    const bool is_q = head < heads, is_v = head >= heads + kv_heads;
    float low[kQuads][2] = {}, high[kQuads][2] = {};
    float squares = 0.0f;
    CFT_UNROLL for (int n = 0; n < kQuads; ++n) {
      const int i = 2 * (lane + 32 * n);
      if (i >= half) continue;
      CFT_UNROLL for (int j = 0; j < 2; ++j) {
        low[n][j] = load(head * dim + i + j);
        high[n][j] = load(head * dim + half + i + j);
        squares += low[n][j] * low[n][j] + high[n][j] * high[n][j];
      }
    }
    float scale = projection_scale[is_q ? 0 : 1];
    if (split.norm == CFT_QK_NORM_HEAD)
      scale = rsqrtf(warp_sum(squares) / static_cast<float>(dim) + split.eps);
    const T* weight = nullptr;
    if (split.norm != CFT_QK_NORM_NONE && !is_v) {
      weight = static_cast<const T*>(is_q ? split.q_norm : split.k_norm);
      if (split.norm == CFT_QK_NORM_PROJECTION) weight += (is_q ? head : head - heads) * dim;
    }
    T* out;
    if (is_q) {
      out = static_cast<T*>(split.queries) + static_cast<int64_t>(row) * q_size + head * dim;
    } else {
      const int kv = is_v ? head - heads - kv_heads : head - heads;
      const int64_t position =
          (static_cast<int64_t>(slot.slot) * kv_heads + kv) * state.capacity + slot.suffix;
      out = static_cast<T*>(is_v ? cache.arena_values : cache.arena_keys) + position * dim;
    }
    CFT_UNROLL for (int n = 0; n < kQuads; ++n) {
      const int i = 2 * (lane + 32 * n);
      if (i >= half) continue;
      Pair first, second;
      CFT_UNROLL for (int j = 0; j < 2; ++j) {
        float a = low[n][j], b = high[n][j];
        if (weight != nullptr) {
          a = to_float(from_float<T>(to_float(from_float<T>(a * scale)) * to_float(weight[i + j])));
          b = to_float(from_float<T>(to_float(from_float<T>(b * scale)) * to_float(weight[half + i + j])));
        }
        if (!is_v) {
          const Pack<float, 2> turn = rope[i + j];
          const float turned = a * turn.values[0] - b * turn.values[1];
          b = b * turn.values[0] + a * turn.values[1];
          a = turned;
        }
        first.values[j] = from_float<T>(a);
        second.values[j] = from_float<T>(b);
      }
      *reinterpret_cast<Pair*>(out + i) = first;
      *reinterpret_cast<Pair*>(out + half + i) = second;
    }
  }
}

}  // namespace cft::kernels
