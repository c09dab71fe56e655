#include "core/ops/cpu/product.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <string_view>

namespace cft::cpu {
namespace {

constexpr int64_t kDepth = 512;     // inner elements of a packed block: a panel of 16 columns is 32 KB then
constexpr int64_t kColumns = 1024;  // of a packed block at most: with the depth 2 MB per thread
constexpr int64_t kFewOperations = 200'000;  // multiply-adds that are not worth waking a thread

int64_t rounded_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

MatrixView moved(const MatrixView& x, int64_t row, int64_t column) {
  const int64_t offset = row * x.row_stride + column * x.column_stride;
  const int64_t bytes = x.half ? 2 : 4;
  return {static_cast<const char*>(x.data) + offset * bytes, x.row_stride, x.column_stride, x.half};
}

// Grows and stays, one for each thread and use.
struct Scratch {
  float* of(int64_t count) {
    if (static_cast<int64_t>(values.size()) < count) values.resize(count);
    return values.data();
  }
  std::vector<float> values;
};

float* row_scratch(const MatrixView& a, int64_t depth) {
  thread_local Scratch scratch;
  return a.column_stride == 1 ? nullptr : scratch.of(product_scratch(depth));
}

at::Tensor blob(const MatrixView& x, int64_t rows, int64_t columns) {
  return at::from_blob(const_cast<void*>(x.data), {rows, columns}, {x.row_stride, x.column_stride},
                       at::TensorOptions().dtype(x.half ? at::kBFloat16 : at::kFloat));
}

void multiply_by_libtorch(const MatrixView& a, const MatrixView& b, int64_t rows, int64_t depth,
                          int64_t columns, float* c, int64_t c_stride, bool add) {
  const at::NoGradGuard no_grad;
  at::Tensor out = blob({c, c_stride, 1}, rows, columns);
  const at::Tensor left = blob(a, rows, depth), right = blob(b, depth, columns).to(at::kFloat);
  add ? at::addmm_out(out, out, left, right) : at::mm_out(out, left, right);
}

// One thread's part.
void multiply_part(const MatrixView& a, const MatrixView& b, int64_t rows, int64_t depth, int64_t columns,
                   float* c, int64_t c_stride, bool add) {
  const TrainKernels& kernels = train_kernels();
  thread_local Scratch scratch;
  const int64_t step = depth / ((depth + kDepth - 1) / kDepth) + 1;  // blocks of about one size
  const int64_t panels = rounded_up(std::min(columns, kColumns), kernels.panel) / kernels.panel;
  float* packed = scratch.of(panels * kernels.panel * std::min(step, depth));
  for (int64_t column = 0; column < columns; column += kColumns) {
    const int64_t width = std::min(kColumns, columns - column);
    for (int64_t k = 0; k < depth; k += step) {
      const int64_t count = std::min(step, depth - k);
      kernels.pack_panels(moved(b, k, column), count, width, packed, count * kernels.panel);
      kernels.multiply_panels({moved(a, 0, k), packed, count * kernels.panel, rows, count, width, c + column,
                               c_stride, add || k > 0, row_scratch(a, count)});
    }
  }
}

// How a product's rows and columns are shared among threads.
struct Grid {
  int64_t rows, columns;
};

Grid grid_of(int64_t rows, int64_t depth, int64_t columns) {
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  if (threads == 1 || rows * depth * columns < kFewOperations * threads) return {1, 1};
  // By columns while each thread has four panels, for then B is packed once only.
  const int64_t by_columns = std::clamp<int64_t>(columns / (4 * train_kernels().panel), 1, threads);
  return {std::clamp<int64_t>(threads / by_columns, 1, rows), by_columns};
}

}  // namespace

bool multiplies_itself() {
  static const bool itself = [] {
    const std::string_view name = train_kernels().name;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (name == "avx512") return !__builtin_cpu_is("intel");
#endif
    return name == "avx2";
  }();
  return itself;
}

MatrixView view_of(const at::Tensor& x) {
  return {x.const_data_ptr(), x.stride(0), x.stride(1), x.scalar_type() == at::kBFloat16};
}

void multiply(const MatrixView& a, const MatrixView& b, int64_t rows, int64_t depth, int64_t columns,
              float* c, int64_t c_stride, bool add) {
  if (rows == 0 || columns == 0) return;
  if (!multiplies_itself() || depth == 0)
    return multiply_by_libtorch(a, b, rows, depth, columns, c, c_stride, add);
  const Grid grid = grid_of(rows, depth, columns);
  const int64_t panel = train_kernels().panel, panels = rounded_up(columns, panel) / panel;
  const auto part = [&](int64_t index) {
    const int64_t i = index / grid.columns, j = index % grid.columns;
    const int64_t first_row = rows * i / grid.rows, last_row = rows * (i + 1) / grid.rows;
    const int64_t first = panels * j / grid.columns * panel;
    const int64_t last = std::min(columns, panels * (j + 1) / grid.columns * panel);
    multiply_part(moved(a, first_row, 0), moved(b, 0, first), last_row - first_row, depth, last - first,
                  c + first_row * c_stride + first, c_stride, add);
  };
  const int64_t parts = grid.rows * grid.columns;
  if (parts == 1) return part(0);
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) part(i);
  });
}

at::Tensor multiply(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor c = at::empty({a.size(0), b.size(1)}, a.options());
  multiply(view_of(a), view_of(b), a.size(0), a.size(1), b.size(1), c.mutable_data_ptr<float>(), b.size(1),
           false);
  return c;
}

SharedFactor::SharedFactor(const MatrixView& b, int64_t depth, int64_t columns)
    : b_(b), panel_stride_(depth * train_kernels().panel) {
  if (!multiplies_itself()) return;
  panels_.resize(rounded_up(columns, train_kernels().panel) * depth);
  train_kernels().pack_panels(b, depth, columns, panels_.data(), panel_stride_);
}

void SharedFactor::multiply(const MatrixView& a, int64_t rows, int64_t depth, int64_t columns, float* c,
                            int64_t c_stride, bool add) const {
  if (rows == 0 || columns == 0) return;
  if (!multiplies_itself()) return multiply_by_libtorch(a, b_, rows, depth, columns, c, c_stride, add);
  train_kernels().multiply_panels(
      {a, panels_.data(), panel_stride_, rows, depth, columns, c, c_stride, add, row_scratch(a, depth)});
}

}  // namespace cft::cpu
