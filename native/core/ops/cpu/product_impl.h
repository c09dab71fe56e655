// Products of training for the instruction set that the including file is compiled for: B in panels of two
// vectors, A read where it lies or, where its columns are not adjacent, from tiles of a few rows side by
// side.
#pragma once
#include <cstdint>

#include "core/ops/cpu/tiles.h"
#include "core/ops/cpu/train_kernels.h"

namespace cft::cpu {
namespace {

template <class Element>
CFT_INLINE float widened(Element x) {
  if constexpr (sizeof(Element) == sizeof(float)) return x;
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class Element>
void pack_panels_of(const MatrixView& b, int64_t depth, int64_t columns, float* panels,
                    int64_t panel_stride) {
  const auto* data = static_cast<const Element*>(b.data);
  for (int64_t first = 0; first < columns; first += kPanel, panels += panel_stride) {
    const int64_t width = columns - first < kPanel ? columns - first : kPanel;
    const Element* from = data + first * b.column_stride;
    if (b.column_stride == 1 && width == kPanel) {
      for (int64_t k = 0; k < depth; ++k, from += b.row_stride) {
        store(panels + k * kPanel, load(from));
        store(panels + k * kPanel + kWidth, load(from + kWidth));
      }
      continue;
    }
    // Column by column: a transposed matrix is read in order then.
    for (int64_t i = 0; i < kPanel; ++i) {
      const Element* column = from + i * b.column_stride;
      for (int64_t k = 0; k < depth; ++k)
        panels[k * kPanel + i] = i < width ? widened(column[k * b.row_stride]) : 0.0f;
    }
  }
}

void pack_panels(const MatrixView& b, int64_t depth, int64_t columns, float* panels, int64_t panel_stride) {
  if (b.half) return pack_panels_of<uint16_t>(b, depth, columns, panels, panel_stride);
  pack_panels_of<float>(b, depth, columns, panels, panel_stride);
}

// Tiles of kTile rows as [depth][kTile]. A whole vector is stored for each piece of a tile: what is too much
// is written over by the next piece, and the place behind the last one is the caller's.
void pack_rows(const float* a, int64_t row_stride, int64_t column_stride, int64_t rows, int64_t depth,
               float* tiles) {
  for (int64_t first = 0; first < rows; first += kTile, tiles += depth * kTile) {
    const float* from = a + first * row_stride;
    const int64_t count = rows - first < kTile ? rows - first : kTile;
    if (row_stride == 1 && first + kWidth <= rows && kTile <= kWidth) {
      for (int64_t k = 0; k < depth; ++k) store(tiles + k * kTile, load(from + k * column_stride));
      continue;
    }
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t r = 0; r < count; ++r) tiles[k * kTile + r] = from[k * column_stride + r * row_stride];
    }
  }
}

CFT_INLINE void multiply_tile(const ProductTask& t, bool tiled, int64_t rows, const float* a, const float* b,
                              float* c, int64_t c_stride) {
  const int64_t stride = t.a.row_stride, depth = t.depth;
  if (tiled && t.add) return multiply_rows<true, true>(rows, a, 0, b, kPanel, depth, c, c_stride);
  if (tiled) return multiply_rows<false, true>(rows, a, 0, b, kPanel, depth, c, c_stride);
  if (t.add) return multiply_rows<true>(rows, a, stride, b, kPanel, depth, c, c_stride);
  multiply_rows<false>(rows, a, stride, b, kPanel, depth, c, c_stride);
}

void multiply_panels(const ProductTask& t) {
  const auto* a = static_cast<const float*>(t.a.data);
  const bool packs = t.a.column_stride != 1;
  // A block of rows and a group of panels share the second-level cache: a tile meets all panels of the group
  // while it is in the first-level one.
  const int64_t row_bytes = t.depth * static_cast<int64_t>(sizeof(float));
  int64_t block = kProductBlockBytes / row_bytes / kTile * kTile;
  if (block < 4 * kTile) block = 4 * kTile;
  int64_t group = 128 * 1024 / (row_bytes * kPanel);
  if (group < 2) group = 2;
  const int64_t panels = (t.columns + kPanel - 1) / kPanel;
  alignas(64) float part[kTile * kPanel];
  for (int64_t first = 0; first < t.rows; first += block) {
    const int64_t last = first + block < t.rows ? first + block : t.rows;
    if (packs)
      pack_rows(a + first * t.a.row_stride, t.a.row_stride, t.a.column_stride, last - first, t.depth,
                t.scratch);
    for (int64_t g = 0; g < panels; g += group) {
      const int64_t end = g + group < panels ? g + group : panels;
      for (int64_t row = first; row < last; row += kTile) {
        const int64_t rows = last - row < kTile ? last - row : kTile;
        for (int64_t panel = g; panel < end; ++panel) {
          const float* b = t.panels + panel * t.panel_stride;
          float* c = t.c + row * t.c_stride + panel * kPanel;
          const int64_t width = t.columns - panel * kPanel;
          const bool whole = width >= kPanel;
          float* to = whole ? c : part;
          const int64_t stride = whole ? t.c_stride : kPanel;
          for (int64_t r = 0; !whole && t.add && r < rows; ++r) {
            for (int64_t i = 0; i < kPanel; ++i)
              part[r * kPanel + i] = i < width ? c[r * t.c_stride + i] : 0.0f;
          }
          const float* left = packs ? t.scratch + (row - first) * t.depth : a + row * t.a.row_stride;
          multiply_tile(t, packs, rows, left, b, to, stride);
          for (int64_t r = 0; !whole && r < rows; ++r) {
            for (int64_t i = 0; i < width; ++i) c[r * t.c_stride + i] = part[r * kPanel + i];
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace cft::cpu
