// The CPU's arithmetic of the rollout engine: one table of functions per instruction set, chosen when first
// used. All of it is fp32 (bf16 weights are widened exactly while they are read), but for the products of
// bf16_tiles.h.
//
// Every result depends on its own row alone: each element of a product is one chain of multiply-adds over the
// inner dimension in ascending order, whatever the number of rows, their place, or who computes the columns
// beside it. So tokens and log-probabilities have the same bits at every batch size and number of threads.
#pragma once
#include <cstdint>

namespace cft::cpu {

enum class WeightLayout : uint8_t {
  kFloat,      // [panels][in][panel] floats
  kBf16,       // the same as bf16, widened while read
  kBf16Tiles,  // [panels][in / 2][panel][2] bf16, for bf16_tiles.h
};

// W of y = x W^T in panels of `panel` outputs, the last one padded with zeros.
struct PackedWeight {
  const void* data = nullptr;
  WeightLayout layout = WeightLayout::kFloat;
  int64_t in = 0, out = 0, panel = 0;
  const float* bias = nullptr;  // (panels * panel) or null

  int64_t panels() const { return (out + panel - 1) / panel; }
};

enum class Epilogue {
  kStore,   // c = x W^T + b
  kAdd,     // c += x W^T + b
  kSwiglu,  // panels hold gate in their first half and up in their second: c = silu(gate) * up, half as wide
  kArgmax,  // only the largest output of each row, the first of equals
};

// The largest output of a row so far. index -1: nothing but NaN.
struct Best {
  float value;
  int32_t index;
};

// Rows times a range of panels.
struct LinearTask {
  const float* x = nullptr;  // (rows, in), rows x_stride apart
  int64_t x_stride = 0, rows = 0;
  const PackedWeight* weight = nullptr;
  int64_t first_panel = 0, last_panel = 0;
  Epilogue epilogue = Epilogue::kStore;
  float* c = nullptr;  // rows c_stride apart; exactly weight->out columns are written (half for kSwiglu)
  int64_t c_stride = 0;
  Best* best = nullptr;  // (rows), for kArgmax: updated
};

struct Kernels {
  const char* name;
  int64_t panel;  // outputs of a weight panel (but of tiles) and keys of a key panel: two vectors
  int64_t tile;   // rows of the register tile

  void (*linear)(const LinearTask&);
  // y = x / rms(x) * weight over n values; y may be x. With `add`, x is left alone and y += the result.
  void (*rms_norm)(const float* x, const float* weight, float* y, int64_t n, float eps, bool add);
  // Rotates the halves of x (n values) by cos and sin (n / 2 each).
  void (*rotate)(float* x, const float* cos, const float* sin, int64_t n);
  // scores[r][k] = queries[r] . keys[k] for up to `tile` rows and `count` whole panels of keys [dim][panel].
  void (*scores)(const float* queries, int64_t query_stride, int64_t rows, const float* keys, int64_t panels,
                 int64_t dim, float* scores, int64_t score_stride);
  // out[r][0..width) += sum over count positions of p[r][k] * values[k][0..width); width a multiple of panel.
  void (*add_values)(const float* p, int64_t p_stride, int64_t rows, const float* values, int64_t count,
                     int64_t width, float* out, int64_t out_stride);
  // scores[k] := exp(scores[k] - max) for begin <= k < end and 0 for the others up to `end` rounded up to a
  // panel; returns their sum, whose order depends on the absolute k alone.
  float (*softmax)(float* scores, int64_t begin, int64_t end);
  // Entropy in nats of softmax(logits) over n values; NaN where one of them is. `top` becomes the largest
  // logit that is a number.
  float (*entropy)(const float* logits, int64_t n, float* top);
};

// Those of this machine. Set CFT_CPU_KERNELS=generic|avx2|avx512 to choose (tests).
const Kernels& kernels();
// One set by name, or null where this machine or compiler lacks it.
const Kernels* kernels_named(const char* name);

}  // namespace cft::cpu
