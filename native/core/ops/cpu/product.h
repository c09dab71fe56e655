// fp32 matrix products of training on the CPU, by kernels of our own where they are the faster ones, else by
// libtorch's. Ours give an element the same bits whatever the number of threads: one chain over the inner
// dimension.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/ops/cpu/train_kernels.h"

namespace cft::cpu {

// Whether products are our own: with AVX2 and on other makes than Intel with AVX-512. There MKL, libtorch's
// library, has kernels for that machine; elsewhere its products reach half to three quarters of what the
// units can do.
bool multiplies_itself();

// A matrix of fp32 or bf16 as it lies.
MatrixView view_of(const at::Tensor& x);

// c (rows, columns), rows c_stride apart, = or (add) += a (rows, depth), fp32, times b (depth, columns), fp32
// or bf16. Shared among threads where it is large enough.
void multiply(const MatrixView& a, const MatrixView& b, int64_t rows, int64_t depth, int64_t columns,
              float* c, int64_t c_stride, bool add);

// a b, contiguous; a fp32, b fp32 or bf16.
at::Tensor multiply(const at::Tensor& a, const at::Tensor& b);

// The second factor of several products, packed once for all of them. For one thread.
class SharedFactor {
 public:
  // b (depth, columns), fp32; must outlive this.
  SharedFactor(const MatrixView& b, int64_t depth, int64_t columns);

  // As above with the first `depth` rows and `columns` columns of b.
  void multiply(const MatrixView& a, int64_t rows, int64_t depth, int64_t columns, float* c, int64_t c_stride,
                bool add) const;

 private:
  MatrixView b_;
  int64_t panel_stride_;
  std::vector<float> panels_;
};

}  // namespace cft::cpu
