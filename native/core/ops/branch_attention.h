// Attention of decode rows: each row is one new token of a branch, which sees a prefix of its trunk's keys
// and values and those of its own suffix. Inference only.
#pragma once
#include <ATen/ATen.h>

#include <vector>

namespace cft::ops {

// What one row sees in one layer: trunk positions [trunk_begin, trunk_end) and arena positions
// [suffix_begin, suffix_end) of its slot. Begins above 0 come from sliding windows.
struct BranchRow {
  const at::Tensor* trunk_keys = nullptr;  // (T, kv_heads, head_dim), contiguous
  const at::Tensor* trunk_values = nullptr;
  int64_t trunk_begin = 0, trunk_end = 0;
  int64_t slot = 0;
  int64_t suffix_begin = 0, suffix_end = 0;
};

// queries (B, heads, head_dim); arena (slots, capacity, kv_heads, head_dim); result (B, heads * head_dim).
// Rows beyond rows.size() (padding) come out as zeros. Each row's arithmetic depends on that row alone.
at::Tensor branch_attention(const at::Tensor& queries, const std::vector<BranchRow>& rows,
                            const at::Tensor& arena_keys, const at::Tensor& arena_values);

// The same from plain libtorch operations, row by row, on any device and dtype: the reference in the tests
// and the path where no faster one exists.
at::Tensor branch_attention_reference(const at::Tensor& queries, const std::vector<BranchRow>& rows,
                                      const at::Tensor& arena_keys, const at::Tensor& arena_values);

}  // namespace cft::ops
