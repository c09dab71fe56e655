// LoRA (Hu et al., arXiv 2106.09685) with PEFT's names, initialisation and scaling:
// y = x W^T + b + scale * dropout(x) A^T B^T, W and b frozen.
#pragma once
#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/model/decoder.h"
#include "core/model/model.h"

namespace cft {

struct LoraOptions {
  int64_t rank = 0;
  double alpha = 0;
  double dropout = 0;
  std::vector<std::string> targets;  // last parts of module paths, e.g. "q_proj"
  bool rank_stabilized = false;      // scale = alpha / sqrt(rank) instead of alpha / rank
};

class Adapter {
 public:
  // A ~ U(-1 / sqrt(in), 1 / sqrt(in)) (kaiming_uniform with a = sqrt(5)) from `seed`, B = 0, both fp32
  // whatever the model's dtype. Throws Error ERR_CFT_BAD_OPTION for values out of range and names targets
  // that match no module.
  Adapter(const Model& model, const LoraOptions& options, uint64_t seed);

  // Hooks that add the adapter's product, computed in the dtype of the activations. With a counter dropout is
  // on, for rows as numbered by the hooks (0, 1, ... where they are not): see drop(). The hooks refer to this
  // adapter.
  ForwardHooks hooks(std::optional<uint64_t> dropout_counter, const TrainDevice* kernels = nullptr) const;

  // "base_model.model.<module path>.lora_A.weight" (rank, in) and "….lora_B.weight" (out, rank), module by
  // module.
  const std::vector<std::pair<std::string, at::Tensor>>& parameters() const { return parameters_; }

  struct Module {
    uint64_t index;
    at::Tensor a, b;  // (rank, in), (out, rank), fp32
  };
  // Of a linear layer by its path; null where it has none.
  const Module* find(const std::string& path) const;
  double scale() const { return scale_; }
  double dropout() const { return dropout_; }
  // Dropout in place on x (N, in), contiguous, fp32, on the CPU: each value is kept or not by (seed, counter,
  // module, number of its row, column) alone, whatever the other rows are.
  void drop(const at::Tensor& x, const Module& module, uint64_t counter,
            const std::vector<int64_t>& rows) const;

 private:
  uint32_t dropout_key(const Module& module, uint64_t counter) const;
  at::Tensor forward(const Linear& linear, const at::Tensor& x, const at::Tensor& rows,
                     std::optional<uint64_t> dropout_counter, const TrainDevice* kernels) const;

  double scale_;
  double dropout_;
  uint64_t seed_;
  std::unordered_map<std::string, Module> modules_;  // by module path
  std::vector<std::pair<std::string, at::Tensor>> parameters_;
};

}  // namespace cft
