// AdamW (Loshchilov & Hutter, arXiv 1711.05101) as torch.optim.AdamW computes it: decoupled weight decay,
// bias correction, epsilon outside the root. On the CPU in one pass over memory, clipping included. What is
// kept in bf16 without a master, weights or moments, is rounded stochastically (CPU) by (seed, step,
// parameter, index).
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
  bool bf16_moments = false;   // half the memory of both moments; CPU only
  uint64_t seed = 0;           // of the stochastic rounding
};

class AdamW {
 public:
  // The tensors are aliased and updated in place.
  AdamW(std::vector<std::pair<std::string, at::Tensor>> parameters, AdamWOptions options);

  // One update from the gradients' sums times `gradient_scale`; they stand in the order of the parameters.
  void step(const Gradients& gradients, double learning_rate, double gradient_scale = 1);

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
    at::Tensor exp_avg, exp_avg_sq;  // fp32, or bf16 by choice
  };
  bool has_master(const Slot& slot) const;
  at::ScalarType moment_dtype() const { return options_.bf16_moments ? at::kBFloat16 : at::kFloat; }
  void prepare(Slot& slot) const;
  void step_on_cpu(const Gradients& gradients, double learning_rate, double gradient_scale);

  std::vector<Slot> slots_;
  AdamWOptions options_;
  int64_t steps_ = 0;
};

}  // namespace cft
