#include "core/measure/packed_products.h"

#include <ATen/Parallel.h>
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "core/ops/cpu/bf16_tiles.h"

namespace cft::cpu {

PackedProducts::PackedProducts(Model& model, int64_t rows, bool by_lanes)
    : packed_(PackedModel::of(model)),
      rows_(rows),
      width_(0),
      threads_(std::min<int64_t>(at::get_num_threads(), by_lanes ? rows : at::get_num_threads())),
      by_lanes_(by_lanes) {
  const PackedLayer& w = packed_->layers()[0];
  for (const PackedWeight* weight : {&w.qkv, &w.o, &w.gate_up, &w.down})
    width_ = std::max({width_, weight->in, weight->panels() * weight->panel});
  from_.assign(rows * width_, 0.5f);
  to_.assign(rows * width_, 0.0f);
  best_.resize(threads_ * rows);
}

void PackedProducts::multiply(int64_t first_row, int64_t rows, int64_t rank, int64_t team) {
  const auto product = [&](const PackedWeight& weight, Epilogue epilogue) {
    const int64_t panels = weight.panels();
    LinearTask task;
    task.x = from_.data() + first_row * width_;
    task.x_stride = width_;
    task.rows = rows;
    task.weight = &weight;
    task.first_panel = panels * rank / team;
    task.last_panel = panels * (rank + 1) / team;
    task.epilogue = epilogue;
    task.c = to_.data() + first_row * width_;
    task.c_stride = width_;
    task.best = best_.data() + rank * rows_ + first_row;
    linear(packed_->kernels(), task);
    if (team > 1) {
#pragma omp barrier
    }
  };
  std::fill_n(best_.data() + rank * rows_ + first_row, rows, Best{-INFINITY, -1});
  for (const PackedLayer& w : packed_->layers()) {
    product(w.qkv, Epilogue::kStore);
    product(w.o, Epilogue::kStore);
    product(w.gate_up, Epilogue::kSwiglu);
    product(w.down, Epilogue::kStore);
  }
  product(packed_->head(), Epilogue::kArgmax);
  if (packed_->head().layout == WeightLayout::kBf16Tiles) bf16_tiles_release();
}

void PackedProducts::step() {
  if (threads_ == 1) return multiply(0, rows_, 0, 1);
  bool short_of_threads = false;
#pragma omp parallel num_threads(static_cast <int>(threads_))
  {
    const int64_t thread = omp_get_thread_num();
    if (omp_get_num_threads() != threads_) {
      if (thread == 0) short_of_threads = true;  // a barrier would wait for ever
    } else if (by_lanes_) {
      const int64_t first = rows_ * thread / threads_;
      multiply(first, rows_ * (thread + 1) / threads_ - first, 0, 1);
    } else {
      multiply(0, rows_, thread, threads_);
    }
  }
  if (short_of_threads) multiply(0, rows_, 0, 1);
}

}  // namespace cft::cpu
