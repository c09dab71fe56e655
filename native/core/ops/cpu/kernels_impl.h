// The functions of kernels.h for the instruction set that the including file is compiled for. Everything lies
// in an unnamed namespace: two files with different flags must never share a function.
#include <cstdint>
#include <cstring>

#include "core/ops/cpu/kernels.h"
#include "core/ops/cpu/softmax_sums.h"
#include "core/ops/cpu/tiles.h"
#include "core/ops/cpu/vectors.h"

namespace cft::cpu {
namespace {

// Few rows leave the multiply-add units idle while a chain waits for itself: two panels side by side.
template <int kRows, bool kFrom, class Element>
CFT_INLINE void multiply_two(const float* a, int64_t a_stride, const Element* b, const Element* b2,
                             int64_t b_stride, int64_t count, float* c, float* c2, int64_t c_stride) {
  Vec sums[kRows][4];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    sums[r][0] = kFrom ? load(c + r * c_stride) : zero();
    sums[r][1] = kFrom ? load(c + r * c_stride + kWidth) : zero();
    sums[r][2] = kFrom ? load(c2 + r * c_stride) : zero();
    sums[r][3] = kFrom ? load(c2 + r * c_stride + kWidth) : zero();
  }
  for (int64_t k = 0; k < count; ++k) {
    const Element *p = b + k * b_stride, *p2 = b2 + k * b_stride;
    const Vec v0 = load(p), v1 = load(p + kWidth), v2 = load(p2), v3 = load(p2 + kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec x = all(a[r * a_stride + k]);
      sums[r][0] = fma(x, v0, sums[r][0]);
      sums[r][1] = fma(x, v1, sums[r][1]);
      sums[r][2] = fma(x, v2, sums[r][2]);
      sums[r][3] = fma(x, v3, sums[r][3]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    store(c + r * c_stride, sums[r][0]);
    store(c + r * c_stride + kWidth, sums[r][1]);
    store(c2 + r * c_stride, sums[r][2]);
    store(c2 + r * c_stride + kWidth, sums[r][3]);
  }
}

CFT_INLINE void find_best(const float* values, int64_t count, int64_t first, Best* best) {
  if (count == kPanel) {
    const Vec top = all(best->value);
    if (!any_above(load(values), top) && !any_above(load(values + kWidth), top)) return;
  }
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] > best->value) {
      best->value = values[i];
      best->index = static_cast<int32_t>(first + i);
    }
  }
}

// Products (rows, kPanel) of panel `panel` on their way out, bias first.
CFT_INLINE void finish_tile(const LinearTask& task, float* tile, int64_t first_row, int64_t rows,
                            int64_t panel) {
  const PackedWeight& w = *task.weight;
  const int64_t column = panel * kPanel;
  const int64_t columns = w.out - column < kPanel ? w.out - column : kPanel;
  if (w.bias != nullptr) {
    const Vec low = load(w.bias + column), high = load(w.bias + column + kWidth);
    for (int64_t r = 0; r < rows; ++r) {
      store(tile + r * kPanel, load(tile + r * kPanel) + low);
      store(tile + r * kPanel + kWidth, load(tile + r * kPanel + kWidth) + high);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* values = tile + r * kPanel;
    const int64_t row = first_row + r;
    if (task.epilogue == Epilogue::kArgmax) {
      find_best(values, columns, column, task.best + row);
    } else if (task.epilogue == Epilogue::kSwiglu) {
      // A panel of gate and up is never cut: `out` counts the padding too, and c has room for it.
      store(task.c + row * task.c_stride + column / 2, silu_times(load(values), load(values + kWidth)));
    } else {
      float* c = task.c + row * task.c_stride + column;
      for (int64_t i = 0; i < columns; ++i) c[i] = values[i];
    }
  }
}

// One tile of rows times one panel.
template <class Element>
CFT_INLINE void run_tile(const LinearTask& task, const Element* b, int64_t first_row, int64_t rows,
                         int64_t panel) {
  const PackedWeight& w = *task.weight;
  const float* x = task.x + first_row * task.x_stride;
  const bool whole = (panel + 1) * kPanel <= w.out, adds = task.epilogue == Epilogue::kAdd;
  if ((adds || task.epilogue == Epilogue::kStore) && whole && w.bias == nullptr) {
    // Straight into its place; what is added to is the start of the chain.
    float* c = task.c + first_row * task.c_stride + panel * kPanel;
    if (adds) return multiply_rows<true>(rows, x, task.x_stride, b, kPanel, w.in, c, task.c_stride);
    return multiply_rows<false>(rows, x, task.x_stride, b, kPanel, w.in, c, task.c_stride);
  }
  alignas(64) float tile[kTile * kPanel];
  if (adds) {
    for (int64_t r = 0; r < rows; ++r) {
      const float* c = task.c + (first_row + r) * task.c_stride + panel * kPanel;
      for (int64_t i = 0; i < kPanel; ++i) tile[r * kPanel + i] = panel * kPanel + i < w.out ? c[i] : 0.0f;
    }
    multiply_rows<true>(rows, x, task.x_stride, b, kPanel, w.in, tile, kPanel);
  } else {
    multiply_rows<false>(rows, x, task.x_stride, b, kPanel, w.in, tile, kPanel);
  }
  finish_tile(task, tile, first_row, rows, panel);
}

template <class Element>
void linear_typed(const LinearTask& task) {
  const PackedWeight& w = *task.weight;
  const Element* data = static_cast<const Element*>(w.data);
  // A block of rows and a group of panels share the second-level cache: a tile meets all panels of the group
  // while it is in the first-level one.
  const int64_t row_bytes = w.in * static_cast<int64_t>(sizeof(float));
  const int64_t panel_bytes = w.in * kPanel * static_cast<int64_t>(sizeof(Element));
  int64_t block = 192 * 1024 / row_bytes / kTile * kTile;
  if (block < 4 * kTile) block = 4 * kTile;
  int64_t group = 128 * 1024 / panel_bytes;
  if (group < 2) group = 2;
  for (int64_t first = 0; first < task.rows; first += block) {
    const int64_t last = first + block < task.rows ? first + block : task.rows;
    for (int64_t g = task.first_panel; g < task.last_panel; g += group) {
      const int64_t end = g + group < task.last_panel ? g + group : task.last_panel;
      for (int64_t row = first; row < last; row += kTile) {
        const int64_t rows = last - row < kTile ? last - row : kTile;
        for (int64_t panel = g; panel < end; ++panel)
          run_tile(task, data + panel * w.in * kPanel, row, rows, panel);
      }
    }
  }
}

void linear(const LinearTask& task) {
  if (task.weight->layout == WeightLayout::kBf16) {
    linear_typed<uint16_t>(task);
  } else {
    linear_typed<float>(task);
  }
}

void rms_norm(const float* x, const float* weight, float* y, int64_t n, float eps, bool add) {
  Vec squares = zero();
  const int64_t whole = n / kWidth * kWidth;
  for (int64_t i = 0; i < whole; i += kWidth) {
    const Vec v = load(x + i);
    squares = fma(v, v, squares);
  }
  float sum = lane_sum(squares);
  for (int64_t i = whole; i < n; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / __builtin_sqrtf(sum / static_cast<float>(n) + eps);
  const Vec factor = all(scale);
  for (int64_t i = 0; i < whole; i += kWidth) {
    const Vec v = load(x + i) * factor * load(weight + i);
    store(y + i, add ? load(y + i) + v : v);
  }
  for (int64_t i = whole; i < n; ++i) {
    const float v = x[i] * scale * weight[i];
    y[i] = add ? y[i] + v : v;
  }
}

void rotate(float* x, const float* cos, const float* sin, int64_t n) {
  const int64_t half = n / 2, whole = half / kWidth * kWidth;
  for (int64_t i = 0; i < whole; i += kWidth) {
    const Vec a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
    store(x + i, a * c - b * s);
    store(x + half + i, b * c + a * s);
  }
  for (int64_t i = whole; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    x[i] = a * cos[i] - b * sin[i];
    x[half + i] = b * cos[i] + a * sin[i];
  }
}

template <int kRows>
void scores_few(const float* queries, int64_t query_stride, const float* keys, int64_t panels, int64_t dim,
                float* scores, int64_t score_stride) {
  int64_t p = 0;
  for (; p + 2 <= panels; p += 2) {
    const float* b = keys + p * dim * kPanel;
    multiply_two<kRows, false>(queries, query_stride, b, b + dim * kPanel, kPanel, dim, scores + p * kPanel,
                               scores + (p + 1) * kPanel, score_stride);
  }
  if (p < panels) {
    multiply<kRows, false, false>(queries, query_stride, keys + p * dim * kPanel, kPanel, dim,
                                  scores + p * kPanel, score_stride);
  }
}

void scores(const float* queries, int64_t query_stride, int64_t rows, const float* keys, int64_t panels,
            int64_t dim, float* scores, int64_t score_stride) {
  if (rows == 1) return scores_few<1>(queries, query_stride, keys, panels, dim, scores, score_stride);
  if (rows == 2) return scores_few<2>(queries, query_stride, keys, panels, dim, scores, score_stride);
  if (rows == 3) return scores_few<3>(queries, query_stride, keys, panels, dim, scores, score_stride);
  for (int64_t p = 0; p < panels; ++p) {
    multiply_rows<false>(rows, queries, query_stride, keys + p * dim * kPanel, kPanel, dim,
                         scores + p * kPanel, score_stride);
  }
}

template <int kRows>
void add_values_few(const float* p, int64_t p_stride, const float* values, int64_t count, int64_t width,
                    float* out, int64_t out_stride) {
  int64_t d = 0;
  for (; d + 2 * kPanel <= width; d += 2 * kPanel) {
    multiply_two<kRows, true>(p, p_stride, values + d, values + d + kPanel, width, count, out + d,
                              out + d + kPanel, out_stride);
  }
  if (d < width) multiply<kRows, true, false>(p, p_stride, values + d, width, count, out + d, out_stride);
}

void add_values(const float* p, int64_t p_stride, int64_t rows, const float* values, int64_t count,
                int64_t width, float* out, int64_t out_stride) {
  if (rows == 1) return add_values_few<1>(p, p_stride, values, count, width, out, out_stride);
  if (rows == 2) return add_values_few<2>(p, p_stride, values, count, width, out, out_stride);
  if (rows == 3) return add_values_few<3>(p, p_stride, values, count, width, out, out_stride);
  for (int64_t d = 0; d < width; d += kPanel)
    multiply_rows<true>(rows, p, p_stride, values + d, width, count, out + d, out_stride);
}

float softmax(float* scores, int64_t begin, int64_t end) {
  const int64_t first = begin / kPanel * kPanel, last = (end + kPanel - 1) / kPanel * kPanel;
  constexpr float kNothing = -__builtin_inff();
  for (int64_t i = 0; i < begin - first; ++i) scores[first + i] = kNothing;
  for (int64_t i = end; i < last; ++i) scores[i] = kNothing;
  Vec top = all(kNothing);
  for (int64_t i = first; i < last; i += kWidth) top = max(top, load(scores + i));
  const Vec shift = all(lane_max(top));
  Vec total = zero();
  // Whole vectors inside, and the cut ones with their outside set to zero.
  for (int64_t i = first; i < last; i += kWidth) {
    store(scores + i, exp(load(scores + i) - shift));
    for (int64_t lane = 0; lane < kWidth && i < begin; ++lane) {
      if (i + lane < begin) scores[i + lane] = 0.0f;
    }
    for (int64_t lane = 0; lane < kWidth && i + kWidth > end; ++lane) {
      if (i + lane >= end) scores[i + lane] = 0.0f;
    }
    total = total + load(scores + i);
  }
  return lane_sum(total);
}

float entropy(const float* logits, int64_t n, float* top) {
  const SoftmaxSums sums = softmax_sums(logits, n);
  *top = sums.top;
  return sums.entropy();
}

constexpr Kernels make_kernels(const char* name) {
  return {name, kPanel, kTile, linear, rms_norm, rotate, scores, add_values, softmax, entropy};
}

}  // namespace
}  // namespace cft::cpu
