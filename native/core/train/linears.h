// Forward and backward of linear layers by hand, in fp32 on the CPU, for Body and the head: gradients are
// added in place, frozen weights get none, and several layers of one input are one product.
#pragma once
#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "core/model/model.h"
#include "core/train/adapter.h"
#include "core/train/gradients.h"

namespace cft {

// Linear layers of one input, whose weights lie end to end in `weight` (out, in), their outputs side by side
// in y.
struct LinearGroup {
  at::Tensor weight;
  at::Tensor bias;  // (out) or undefined
  std::vector<const Linear*> parts;
};

// Whether this CPU has units for products of bf16 (AVX512_BF16; every CPU with AMX has it too).
bool multiplies_bf16();

// Numbers of the rows of an activation in their batch: LoRA's dropout depends on them. (N)
using RowNumbers = std::vector<int64_t>;

class Linears {
 public:
  // `adapter` may be null: then the weights themselves are trained. With a counter LoRA's dropout is on. bf16
  // weights are widened while they are used, but with `half_products`: there both sides of a product are
  // rounded to bf16, and so is what libtorch's units hand over.
  Linears(const Model& model, const Adapter* adapter, std::optional<uint64_t> dropout_counter,
          bool half_products = multiplies_bf16());

  // x (N, in) fp32 -> y (N, out) fp32, contiguous.
  at::Tensor forward(const LinearGroup& group, const at::Tensor& x, const RowNumbers& rows) const;
  // The same in fp32 from x to y on every CPU: logits rounded to bf16 would round the loss.
  at::Tensor forward_wide(const LinearGroup& group, const at::Tensor& x, const RowNumbers& rows) const;
  // d_y (N, out) -> d_x (N, in).
  at::Tensor input_gradient(const LinearGroup& group, const at::Tensor& d_y, const RowNumbers& rows) const;
  // Adds the gradients of what is trained in the group.
  void add_weight_gradients(const LinearGroup& group, const at::Tensor& d_y, const at::Tensor& x,
                            const RowNumbers& rows, Gradients& gradients) const;

  // Whether the weights themselves are trained.
  bool full() const { return adapter_ == nullptr; }

 private:
  at::Tensor multiply(const at::Tensor& a, const at::Tensor& b) const;  // a b, b of the model's dtype
  // y (N, out) without bias and adapters -> y with them.
  at::Tensor finish(at::Tensor y, const LinearGroup& group, const at::Tensor& x,
                    const RowNumbers& rows) const;
  const Adapter::Module* module(const Linear& linear) const;
  // x with dropout, x itself where it is off.
  at::Tensor dropped(const at::Tensor& x, const Adapter::Module& module, const RowNumbers& rows) const;

  const Adapter* adapter_;
  std::optional<uint64_t> dropout_counter_;
  bool half_products_;
};

}  // namespace cft
