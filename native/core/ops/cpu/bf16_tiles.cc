#include "core/ops/cpu/bf16_tiles.h"

#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string_view>
#include <vector>

namespace cft::cpu {
namespace {

float widen(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void multiply_onednn(int64_t rows, int64_t in, const uint16_t* x, const uint16_t* w, float* c) {
  at::native::cpublas::brgemm(rows, kTilePanel, in, in, kTilePanel, kTilePanel, /*add_C=*/false,
                              reinterpret_cast<const at::BFloat16*>(x),
                              reinterpret_cast<const at::BFloat16*>(w), c,
                              /*is_vnni=*/true);
}

float silu(float x) { return x / (1.0f + std::exp(-x)); }

// One tile's row on its way out; `values` holds kTilePanel products of panel `panel`, bias added.
void finish_row(const LinearTask& task, int64_t row, int64_t panel, const float* values) {
  const int64_t column = panel * kTilePanel, columns = std::min(kTilePanel, task.weight->out - column);
  switch (task.epilogue) {
    case Epilogue::kStore:
      std::copy_n(values, columns, task.c + row * task.c_stride + column);
      break;
    case Epilogue::kAdd: {
      float* c = task.c + row * task.c_stride + column;
      for (int64_t i = 0; i < columns; ++i) c[i] += values[i];
      break;
    }
    case Epilogue::kSwiglu: {
      constexpr int64_t kHalf = kTilePanel / 2;
      float* c = task.c + row * task.c_stride + column / 2;
      for (int64_t i = 0; i < kHalf; ++i) c[i] = silu(values[i]) * values[kHalf + i];
      break;
    }
    case Epilogue::kArgmax: {
      Best& best = task.best[row];
      for (int64_t i = 0; i < columns; ++i) {
        if (values[i] > best.value) best = {values[i], static_cast<int32_t>(column + i)};
      }
      break;
    }
  }
}

}  // namespace

void bf16_tile_multiply_reference(int64_t rows, int64_t in, const uint16_t* x, const uint16_t* w, float* c) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < kTilePanel; ++j) {
      float sum = 0.0f;
      for (int64_t k = 0; k < in; ++k)
        sum += widen(x[r * in + k]) * widen(w[(k / 2 * kTilePanel + j) * 2 + k % 2]);
      c[r * kTilePanel + j] = sum;
    }
  }
}

TileMultiply bf16_tile_multiply() {
  static const char* wanted = std::getenv("CFT_BF16_TILES");
  if (wanted != nullptr && std::string_view(wanted) == "reference") return bf16_tile_multiply_reference;
  return multiply_onednn;
}

bool bf16_tiles_work() {
  static const bool works = [] {
    const char* wanted = std::getenv("CFT_BF16_TILES");  // off | reference: for tests
    if (wanted != nullptr && std::string_view(wanted) == "off") return false;
    if (wanted != nullptr && std::string_view(wanted) == "reference") return true;
    try {
      if (!at::native::cpublas::could_pack(at::kBFloat16)) return false;
      constexpr int64_t kRows = 19, kIn = 96;
      std::vector<uint16_t> x(kRows * kIn), w(kIn * kTilePanel);
      uint32_t state = 1;
      auto next = [&] {
        state = state * 1664525u + 1013904223u;
        return static_cast<uint16_t>(0x3f00 | (state >> 25) | (state & 0x8000));  // +-0.5 to 1
      };
      for (uint16_t& value : x) value = next();
      for (uint16_t& value : w) value = next();
      std::vector<float> expected(kRows * kTilePanel), found(kRows * kTilePanel, NAN), one(kTilePanel, NAN);
      bf16_tile_multiply_reference(kRows, kIn, x.data(), w.data(), expected.data());
      multiply_onednn(kRows, kIn, x.data(), w.data(), found.data());
      // A row by itself must have the same bits.
      multiply_onednn(1, kIn, x.data() + 7 * kIn, w.data(), one.data());
      bf16_tiles_release();
      for (size_t i = 0; i < found.size(); ++i) {
        if (!(std::abs(found[i] - expected[i]) < 1e-3f)) return false;
      }
      return std::memcmp(one.data(), found.data() + 7 * kTilePanel, kTilePanel * sizeof(float)) == 0;
    } catch (const std::exception&) {
      return false;
    }
  }();
  return works;
}

void bf16_tiles_release() {
  if (bf16_tile_multiply() == multiply_onednn) at::native::cpublas::brgemm_release();
}

void bf16_tile_linear(const LinearTask& task, TileMultiply multiply) {
  const PackedWeight& w = *task.weight;
  const int64_t in = (w.in + 1) / 2 * 2;
  const auto* data = static_cast<const uint16_t*>(w.data);
  static thread_local std::vector<uint16_t> rounded;
  rounded.resize(static_cast<size_t>(std::max<int64_t>(task.rows, 1) * in));
  for (int64_t r = 0; r < task.rows; ++r) {
    uint16_t* to = rounded.data() + r * in;
    for (int64_t k = 0; k < w.in; ++k) to[k] = c10::BFloat16(task.x[r * task.x_stride + k]).x;
    if (in > w.in) to[w.in] = 0;
  }
  alignas(64) float tile[kTileRows * kTilePanel];
  // A block of rows stays in the second-level cache while the panels stream past it.
  const int64_t block = std::max<int64_t>(512 * 1024 / (in * 2) / kTileRows, 1) * kTileRows;
  for (int64_t first = 0; first < task.rows; first += block) {
    const int64_t last = std::min(task.rows, first + block);
    for (int64_t panel = task.first_panel; panel < task.last_panel; ++panel) {
      for (int64_t row = first; row < last; row += kTileRows) {
        const int64_t rows = std::min(kTileRows, last - row);
        multiply(rows, in, rounded.data() + row * in, data + panel * in * kTilePanel, tile);
        for (int64_t r = 0; r < rows; ++r) {
          float* values = tile + r * kTilePanel;
          if (w.bias != nullptr) {
            for (int64_t i = 0; i < kTilePanel; ++i) values[i] += w.bias[panel * kTilePanel + i];
          }
          finish_row(task, row + r, panel, values);
        }
      }
    }
  }
}

}  // namespace cft::cpu
