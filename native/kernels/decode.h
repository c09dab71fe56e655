// C interface of the CUDA kernels of a decode step: one new token per row through all layers, without a word
// from the host. Every size that changes from token to token is read from the device, so that a whole step
// can be captured in a CUDA graph; docs/decisions/0005-cuda-rollout-kernels.md puts the calls in order.
//
// All pointers are device pointers, contiguous and aligned to 16 bytes; `stream` is a cudaStream_t. Functions
// return a cudaError_t and synchronise nothing. T is float or bfloat16, as the name says.
#pragma once
#include <cstdint>

extern "C" {

// A slot's status.
enum {
  CFT_SLOT_IDLE = 0,       // free, or its branch has ended
  CFT_SLOT_RUNNING = 1,    // takes part in steps
  CFT_SLOT_ARENA_FULL = 2  // its next position lies outside the arena: run again once that is larger
};

// The rows of a step and the slots they stand for, int32. Slots own a part of the arena; a step computes the
// rows of a bucket. The device changes status, token, suffix and budget, the host the rest. Rows without a
// running slot read and write nothing of a slot and give zeros.
struct CftDecodeState {
  int32_t rows = 0;  // of the bucket
  int32_t slots = 0;
  int32_t capacity = 0;  // arena positions per slot
  int32_t forced_capacity = 0;
  const int32_t* slot_of_row = nullptr;    // (rows) -1: padding
  int32_t* status = nullptr;               // (slots)
  int32_t* token = nullptr;                // (slots) that the next step feeds
  int32_t* prefix = nullptr;               // (slots) trunk positions that the branch sees
  int32_t* suffix = nullptr;               // (slots) its positions in the arena; the next step writes there
  int32_t* trunk_start = nullptr;          // (slots) the trunk's first position in the pool
  int32_t* budget = nullptr;               // (slots) tokens that may still be decoded, at least 1
  int32_t* forced_count = nullptr;         // (slots) tokens to feed before decoding begins, at least 1
  const int32_t* forced_tokens = nullptr;  // (slots, forced_capacity)
};

// A new branch in a slot. Its first token to feed is also the first of its forced ones; only where there are
// more need forced_tokens hold them.
struct CftSlotRecord {
  int32_t slot, status, token, prefix, suffix, trunk_start, budget, forced_count;
};
int cft_refill_slots(const CftSlotRecord* records, int32_t count, const CftDecodeState* state, void* stream);

// hidden (rows, width) = embedding (vocab, width) at the rows' tokens; cos_sin (ropes, rows, head_dim / 2, 2)
// fp32 = cos and sin of position * inverse_frequencies (ropes, head_dim / 2), times rope_scales (ropes).
struct CftBeginStep {
  const void* embedding = nullptr;
  void* hidden = nullptr;
  int64_t width = 0;
  const float* inverse_frequencies = nullptr;
  const float* rope_scales = nullptr;
  float* cos_sin = nullptr;
  int32_t ropes = 0, head_dim = 0;
};
int cft_begin_step_float32(const CftDecodeState* state, const CftBeginStep* step, void* stream);
int cft_begin_step_bfloat16(const CftDecodeState* state, const CftBeginStep* step, void* stream);

// Keys and values of one layer. Head h of the queries reads key head h / (heads / kv_heads).
struct CftLayerCache {
  void* arena_keys = nullptr;  // (slots, kv_heads, capacity, head_dim)
  void* arena_values = nullptr;
  const void* trunk_keys = nullptr;  // (kv_heads, trunk_positions, head_dim): the pool of all trunks
  const void* trunk_values = nullptr;
  int64_t trunk_positions = 0;
  int32_t heads = 0, kv_heads = 0;
  int32_t head_dim = 0;  // a multiple of 8, at most 256
  int32_t window = 0;    // sliding window in tokens, 0 = all
};

enum { CFT_QK_NORM_NONE = 0, CFT_QK_NORM_HEAD = 1, CFT_QK_NORM_PROJECTION = 2 };

// Splits qkv (rows, (heads + 2 kv_heads) * head_dim): adds the bias, norms q and k, rotates them, writes q to
// queries (rows, heads, head_dim) and k and v to the arena at the row's next position.
struct CftSplitQkv {
  const void* qkv = nullptr;
  const void* bias = nullptr;    // or null
  const void* q_norm = nullptr;  // (head_dim), or (heads * head_dim) for a norm over the projection
  const void* k_norm = nullptr;  // (head_dim), or (kv_heads * head_dim)
  int32_t norm = CFT_QK_NORM_NONE;
  float eps = 0;
  const float* cos_sin = nullptr;  // of the layer's rope: (rows, head_dim / 2, 2)
  void* queries = nullptr;
};
int cft_split_qkv_float32(const CftDecodeState* state, const CftLayerCache* cache, const CftSplitQkv* split,
                          void* stream);
int cft_split_qkv_bfloat16(const CftDecodeState* state, const CftLayerCache* cache, const CftSplitQkv* split,
                           void* stream);

// Rows of one trunk that a block attends together: tile_rows[first .. first + count).
struct CftTrunkTile {
  int32_t first, count;
};

// Most rows of a tile; 0 where the shape is not supported (more than 64 query heads per key head).
int32_t cft_trunk_tile_rows(int32_t heads, int32_t kv_heads);

// Trunk positions in a chunk: a row's attention is summed chunk by chunk, in borders that depend on absolute
// positions alone, so a row's result does not depend on the other rows. Keep it the same within a run.
struct CftAttention {
  const void* queries = nullptr;        // (rows, heads, head_dim)
  const CftTrunkTile* tiles = nullptr;  // (*tile_count), longest prefixes first
  const int32_t* tile_count = nullptr;  // one number on the device
  const int32_t* tile_rows = nullptr;   // row numbers grouped by trunk
  int32_t most_tiles = 0;               // bound of *tile_count, for the grid
  int32_t chunk_positions = 0;          // a multiple of 64
  int32_t chunks = 0;                   // chunk_positions * chunks covers every prefix of the bucket
  float* partial = nullptr;             // (rows, heads, chunks, head_dim)
  float* partial_stats = nullptr;       // (rows, heads, chunks, 2): top and sum of each chunk
  void* out = nullptr;                  // (rows, heads * head_dim)
};
// Every row against its trunk's chunks.
int cft_trunk_attention_float32(const CftDecodeState* state, const CftLayerCache* cache,
                                const CftAttention* attention, void* stream);
int cft_trunk_attention_bfloat16(const CftDecodeState* state, const CftLayerCache* cache,
                                 const CftAttention* attention, void* stream);
// Every row against its suffix, merged with the chunks of its trunk.
int cft_suffix_attention_float32(const CftDecodeState* state, const CftLayerCache* cache,
                                 const CftAttention* attention, void* stream);
int cft_suffix_attention_bfloat16(const CftDecodeState* state, const CftLayerCache* cache,
                                  const CftAttention* attention, void* stream);

// y (rows, width) = silu(gate) * up of gate_up (rows, 2 * width).
int cft_swiglu_float32(const void* gate_up, void* y, int64_t rows, int64_t width, void* stream);
int cft_swiglu_bfloat16(const void* gate_up, void* y, int64_t rows, int64_t width, void* stream);

// y (rows, width) = x / rms(x) * weight.
int cft_rms_norm_float32(const void* x, const void* weight, void* y, int64_t rows, int64_t width, float eps,
                         void* stream);
int cft_rms_norm_bfloat16(const void* x, const void* weight, void* y, int64_t rows, int64_t width, float eps,
                          void* stream);
// residual (rows, width) += x / rms(x) * weight: families that norm after attention and MLP.
int cft_rms_norm_add_float32(const void* x, const void* weight, void* residual, int64_t rows, int64_t width,
                             float eps, void* stream);
int cft_rms_norm_add_bfloat16(const void* x, const void* weight, void* residual, int64_t rows, int64_t width,
                              float eps, void* stream);

// The end of a step.
struct CftEndStep {
  const void* logits = nullptr;  // (rows, vocab)
  int64_t vocab = 0;
  float* partial_values = nullptr;     // (rows, cft_argmax_blocks(vocab))
  int32_t* partial_indices = nullptr;  // the same
  int32_t* chosen = nullptr;           // (rows) the tokens, -1 for rows without a running slot
  const int32_t* end_tokens = nullptr;
  int32_t end_token_count = 0;
  int32_t* ring =
      nullptr;  // (ring_steps, slots) decoded tokens, the end token too; step s writes s % ring_steps
  int32_t ring_steps = 0;
  int32_t* counters = nullptr;  // (2) zero at first: steps done, and blocks of this step that are done
};
int64_t cft_argmax_blocks(int64_t vocab);
// chosen = the first index of the largest logit; -1 where all are NaN.
int cft_argmax_float32(const CftDecodeState* state, const CftEndStep* end, void* stream);
int cft_argmax_bfloat16(const CftDecodeState* state, const CftEndStep* end, void* stream);
// Moves the slots on with `chosen`, which the host or a sampler may have written: the fed token's position
// is counted, the token goes to the ring and is fed next; an end token, the end of the budget or -1 ends a
// branch. A branch that still feeds forced tokens ignores its chosen one.
int cft_advance(const CftDecodeState* state, const CftEndStep* end, void* stream);
// Both, in as many launches as argmax alone; does not write `chosen`.
int cft_argmax_advance_float32(const CftDecodeState* state, const CftEndStep* end, void* stream);
int cft_argmax_advance_bfloat16(const CftDecodeState* state, const CftEndStep* end, void* stream);
}
