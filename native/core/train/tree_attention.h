// Causal attention over the rows of a prefix tree on the CPU, forward and backward, in fp32: each segment's
// queries against the keys of its ancestors and its own. Scores exist for one block of queries and one head
// at a time, no mask is stored, and the backward computes them again from the logarithms of their sums (Dao
// et al., arXiv 2205.14135).
#pragma once
#include <ATen/ATen.h>

#include "core/train/prefix_tree.h"

namespace cft {

struct TreeAttention {
  const PrefixTree& tree;
  bool selected_only;  // queries are the tree's query_rows instead of all rows
  int64_t heads, kv_heads, head_dim;
  int64_t window;  // 0 = full

  // q (queries, heads * head_dim), k and v (rows, kv_heads * head_dim), rows of any stride. Returns the
  // output, as q but contiguous; log_sums becomes (heads, queries).
  at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     at::Tensor& log_sums) const;

  // Gradients of q, k and v, all overwritten; rows of any stride.
  void backward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
                const at::Tensor& log_sums, const at::Tensor& d_out, const at::Tensor& d_q,
                const at::Tensor& d_k, const at::Tensor& d_v) const;
};

}  // namespace cft
