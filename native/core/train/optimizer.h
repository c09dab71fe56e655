// AdamW (Loshchilov & Hutter, arXiv 1711.05101) as torch.optim.AdamW computes it: decoupled weight decay,
// bias correction, epsilon outside the root. In one pass over memory, clipping included. What is kept in bf16
// without a master, weights or moments, is rounded stochastically by (seed, step, parameter, index), on a
// device as on the CPU.
#pragma once
#include <ATen/ATen.h>

#include <string>
#include <utility>
#include <vector>

#include "core/ops/train_device.h"
#include "core/train/gradients.h"

namespace cft {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;     // matrices only: norms and biases do not decay
  bool master_weights = true;  // an fp32 copy of each bf16 weight carries what one bf16 step would round away
  bool bf16_moments = false;   // half the memory of both moments
  uint64_t seed = 0;           // of the stochastic rounding
};

class AdamW {
 public:
  // The tensors are aliased and updated in place; they lie on the CPU, or on the device whose kernels are
  // given.
  AdamW(std::vector<std::pair<std::string, at::Tensor>> parameters, AdamWOptions options,
        const TrainDevice* device = nullptr);

  // One update from the gradients' sums, which stand in the order of the parameters, scaled so that their
  // global norm is at most `max_norm` (0: no limit). Returns the norm before that; where it is not finite
  // nothing has changed. On a device the host waits once, at the end.
  double clipped_step(const Gradients& gradients, double learning_rate, double max_norm);

  // One update from the gradients' sums times `gradient_scale`, on the CPU.
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
  // What a step does alike with every element of a parameter.
  struct Rates {
    float decay, step_size, root_correction;
    uint32_t random_key;
  };
  Rates rates(size_t slot, int64_t step, double learning_rate) const;
  // What every task of a kernel is told, the CPU's or a device's.
  template <class Task>
  void set_rates(Task& task, const Rates& rates) const;
  void prepare(Slot& slot) const;
  double step_on_device(const Gradients& gradients, double learning_rate, double max_norm);

  std::vector<Slot> slots_;
  const TrainDevice* device_;
  AdamWOptions options_;
  int64_t steps_ = 0;
};

}  // namespace cft
