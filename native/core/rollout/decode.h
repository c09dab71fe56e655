// One decode step: one new token per row through all layers.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <vector>

#include "core/model/model.h"
#include "core/ops/branch_attention.h"

namespace cft {

// Rows are padded to a multiple of this, and multiplied in chunks of at most kMaxRows. Within these bounds
// the BLAS that libtorch brings gives each row the same bits whatever the number of rows and the row's place
// among them (below 8 rows it takes other code, above 128 it may block differently); the tests check it.
constexpr int64_t kRowMultiple = 8;
constexpr int64_t kMaxRows = 128;

// x W^T + b for x (B, in) with B a multiple of kRowMultiple; each row's result depends on that row alone.
at::Tensor row_linear(const Linear& linear, const at::Tensor& x);

// The rows of one step. Ids and positions are padded to a multiple of kRowMultiple.
struct DecodeRows {
  at::Tensor token_ids;  // (B) int64
  at::Tensor positions;  // (B) int64
  int64_t count = 0;     // rows that are not padding
};

// Puts the new keys and values (B, kv_heads, head_dim) of a layer into the arena and says what each row sees
// there.
using AttendRows = std::function<at::Tensor(int64_t layer, const at::Tensor& queries, const at::Tensor& keys,
                                            const at::Tensor& values)>;

// fp32 logits (count, vocab) of the next token of each row.
at::Tensor decode_rows(const Model& model, const DecodeRows& rows, const AttendRows& attend);

}  // namespace cft
