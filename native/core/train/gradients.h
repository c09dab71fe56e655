// Gradients of the trained parameters, accumulated in fp32 over the micro-batches of one optimizer step.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <vector>

namespace cft {

class Gradients {
 public:
  // `leaves`: the tensors that are trained, of any floating dtype; they are aliased, not copied.
  explicit Gradients(std::vector<at::Tensor> leaves);
  Gradients(const Gradients&) = delete;
  Gradients& operator=(const Gradients&) = delete;

  // While it lives, the leaves require gradients and each backward adds to the sums as soon as a leaf's
  // gradient is complete, so that at most a few gradients exist beside the sums. Before and after, the leaves
  // are plain tensors. `check` runs before each addition; what it throws ends the backward.
  class Recording {
   public:
    Recording(Gradients& gradients, const std::function<void()>& check);
    ~Recording();
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

   private:
    Gradients& gradients_;
  };

  size_t size() const { return leaves_.size(); }
  // fp32, shape of the leaf; undefined where nothing was added, which stands for zero.
  const at::Tensor& sum(size_t index) const { return sums_[index]; }
  // Norm over all sums, fp32 as torch.nn.utils.clip_grad_norm_ computes it; not finite when a gradient is
  // not.
  double norm() const;
  void scale(double factor);
  void clear();

 private:
  std::vector<at::Tensor> leaves_;
  std::vector<at::Tensor> sums_;
};

}  // namespace cft
