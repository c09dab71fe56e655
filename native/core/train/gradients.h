// Gradients of the trained parameters, accumulated in fp32 over the micro-batches of one optimizer step.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <unordered_map>
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

  // Without autograd: adds a^T b (`half`: from both rounded to bf16, where that is faster), a tensor of the
  // leaf's shape, or, on the CPU, fp32 rows (N, width) at the indices (N). Each does nothing for a tensor
  // that is no leaf: what is frozen costs nothing.
  void add_product(const at::Tensor& leaf, const at::Tensor& a, const at::Tensor& b, bool half);
  void add(const at::Tensor& leaf, const at::Tensor& gradient);
  void add_rows(const at::Tensor& leaf, const std::vector<int64_t>& indices, const at::Tensor& rows);
  // Adds all sums of another one with the same leaves, and clears those.
  void take(Gradients& other);
  bool has(const at::Tensor& leaf) const { return index_.contains(leaf.unsafeGetTensorImpl()); }

  // fp32, shape of the leaf; undefined where nothing was added, which stands for zero.
  const at::Tensor& sum(size_t index) const { return written_[index] ? sums_[index] : nothing_; }
  // Norm over all sums, fp32 as torch.nn.utils.clip_grad_norm_ computes it; not finite when a gradient is
  // not.
  double norm() const;
  // Memory of the sums is kept for the next step.
  void clear();

 private:
  // Where to add: null for no leaf. What was never written counts as zero whatever it holds.
  at::Tensor* find(const at::Tensor& leaf, bool& written);

  std::vector<at::Tensor> leaves_;
  std::vector<at::Tensor> sums_;
  std::vector<char> written_;
  std::unordered_map<const void*, size_t> index_;
  const at::Tensor nothing_;
};

}  // namespace cft
