// AdamW (Loshchilov & Hutter, arXiv 1711.05101) as torch.optim.AdamW computes it: decoupled weight decay,
// bias correction, epsilon outside the root. Moments are fp32 whatever the weights' dtype.
#pragma once
#include <ATen/ATen.h>

#include <string>
#include <utility>
#include <vector>

#include "core/train/gradients.h"

namespace cft {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;     // matrices only: norms and biases do not decay
  bool master_weights = true;  // an fp32 copy of each bf16 weight carries what one bf16 step would round away
};

class AdamW {
 public:
  // The tensors are aliased and updated in place.
  AdamW(std::vector<std::pair<std::string, at::Tensor>> parameters, AdamWOptions options);

  // One update from the gradients' sums, which stand in the order of the parameters.
  void step(const Gradients& gradients, double learning_rate);

  // Everything that the next update depends on beside the gradients: "weight.<name>" (the fp32 master where
  // there is one), "exp_avg.<name>", "exp_avg_sq.<name>" and "step" (1). Aliases, not copies.
  std::vector<std::pair<std::string, at::Tensor>> state();

  // Names, dtypes and shapes of state(), as meta tensors: a run that resumes never holds its state twice.
  std::vector<std::pair<std::string, at::Tensor>> state_layout() const;

  // Takes over tensors in the order, dtypes and shapes of state().
  void restore(const std::vector<at::Tensor>& state);

 private:
  struct Slot {
    std::string name;
    at::Tensor weight;
    at::Tensor master;               // fp32; the weight itself where that is fp32, undefined where not kept
    at::Tensor exp_avg, exp_avg_sq;  // fp32
  };
  bool has_master(const Slot& slot) const;
  void prepare(Slot& slot) const;

  std::vector<Slot> slots_;
  AdamWOptions options_;
  int64_t steps_ = 0;
};

}  // namespace cft
