// sampling.h for many rows at once in libtorch's operations, so that on a GPU neither logits nor tokens go
// over the bus.
#pragma once
#include <ATen/ATen.h>

namespace cft {

// uniform_at of each seed and position (n), int64: (n) doubles.
at::Tensor uniforms_at(const at::Tensor& seeds, const at::Tensor& positions);

// sample_row of each of logits (n, vocab): (n) int64. temperatures, top_p and uniforms are doubles (n), all
// top_p below 1 where `cut`, else all 1 or more. Sums are added up in another order than there, which only a
// uniform within 1e-12 of a border between two tokens can tell.
at::Tensor sample_rows(const at::Tensor& logits, const at::Tensor& temperatures, const at::Tensor& top_p,
                       const at::Tensor& uniforms, bool cut);

}  // namespace cft
