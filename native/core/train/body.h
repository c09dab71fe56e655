// The decoder's layers forward and backward by hand on the CPU: what autograd would compute from
// forward_hidden(), with one product where it has several, gradients added in place, and only the rows that
// can reach the loss. Activations are fp32 whatever the weights' dtype.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <optional>
#include <vector>

#include "core/train/linears.h"
#include "core/train/prefix_tree.h"

namespace cft {

struct BodyOptions {
  // In the last layer queries, output projection and MLP run at the selected rows alone.
  bool prune_last_layer = true;
  // Only the inputs of the layers are kept; the backward runs each layer again.
  bool checkpoint = false;
};

class Body {
 public:
  // All must outlive it. `check` runs before each layer; what it throws ends the pass.
  Body(const Model& model, const Linears& linears, const PrefixTree& tree, const std::function<void()>& check,
       BodyOptions options);

  // Hidden states of the tree's query rows after the final norm: (Q, hidden). With `keep` for a backward.
  at::Tensor forward(bool keep);

  // From the gradient of what forward() returned; once. Uses up what was kept.
  void backward(const at::Tensor& d_hidden, Gradients& gradients);

 private:
  struct Tape {
    at::Tensor x;                  // (R, hidden), the layer's input
    at::Tensor attention_inverse;  // of the norm before (pre) or after (post) attention
    at::Tensor raw_q, raw_k;       // before their norm, where the family has one
    at::Tensor q_inverse, k_inverse;
    at::Tensor q, k, v;             // normed and rotated; q (R or Q, heads * d)
    at::Tensor attended, log_sums;  // (R or Q, heads * d), (heads, R or Q)
    at::Tensor projected;           // post-norm: before the norm
    at::Tensor middle;              // (R or Q, hidden) between attention and MLP
    at::Tensor mlp_inverse;
    at::Tensor gate_up;  // (R or Q, 2 * intermediate)
    at::Tensor down;     // post-norm: before the norm
  };
  struct Rotation {
    at::Tensor cos, sin, negative_sin;  // (positions, d / 2)
  };

  at::Tensor forward_layer(int64_t layer, const at::Tensor& x, Tape& tape) const;
  at::Tensor backward_layer(int64_t layer, Tape& tape, at::Tensor d, Gradients& gradients) const;
  at::Tensor attention_gradient(int64_t layer, Tape& tape, const at::Tensor& d_attended,
                                Gradients& gradients) const;
  bool pruned(int64_t layer) const;
  const RowNumbers& rows_of(int64_t layer) const { return pruned(layer) ? query_keys_ : tree_.row_keys; }
  void rotate(const at::Tensor& x, int64_t layer, bool queries, bool back) const;

  const Model& model_;
  const Linears& linears_;
  const PrefixTree& tree_;
  const std::function<void()>& check_;
  BodyOptions options_;
  RowNumbers query_keys_;            // row numbers of the query rows
  at::Tensor query_rows_;            // (Q) int64
  bool all_rows_;                    // every row is a query row
  std::vector<Rotation> rotations_;  // by Rope
  std::vector<Tape> tapes_;
  at::Tensor last_;  // (Q, hidden) before the final norm
  at::Tensor final_inverse_;
};

}  // namespace cft
