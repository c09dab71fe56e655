// Masked training of one model: packed sequences in, weighted cross-entropy of the selected positions, AdamW.
// Full fine-tuning trains the model's own weights in place; LoRA trains an adapter and leaves the model as it
// is (load the base with the saved adapter to use it).
//
// Bit-deterministic on the CPU: the same calls on the same weights with the same number of threads give the
// same bits, and so does a run that goes on from saved state.
#pragma once
#include <ATen/ATen.h>

#include <atomic>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/io/safetensors.h"
#include "core/model/model.h"
#include "core/train/adapter.h"
#include "core/train/batch.h"
#include "core/train/gradients.h"
#include "core/train/loss.h"
#include "core/train/optimizer.h"

namespace cft {

struct TrainerOptions {
  std::optional<LoraOptions> lora;  // full fine-tuning where absent
  AdamWOptions adamw;
  double max_grad_norm = 0;  // clip to this global norm; 0 = no clipping
  uint64_t seed = 0;         // of LoRA's initialisation and dropout
};

struct OptimizerStep {
  double grad_norm = 0;  // before clipping
  bool applied = false;
};

class Trainer {
 public:
  // `model` must outlive the trainer. Throws Error ERR_CFT_BAD_OPTION (see Adapter).
  Trainer(Model& model, const TrainerOptions& options);

  // Parameters that are trained.
  int64_t trainable_parameters() const;

  // Adds the gradients of one micro-batch; returns sum(weight * nll). A batch with nothing selected does
  // nothing. Throws Error ERR_CFT_BAD_DATA and leaves the gradients alone; where it fails later (memory), it
  // drops all gradients of the step.
  double accumulate(const TrainBatch& batch);

  // One update from the accumulated gradients, which it clears; without any it is a step with a zero
  // gradient. Where a gradient is not finite nothing changes, and `applied` is false.
  OptimizerStep step(double learning_rate);

  // nll and entropy of each selected position, forward only and without dropout. Weights are not read.
  HeadScores score(const TrainBatch& batch) const;

  // From any thread: accumulate() and score() under way fail at the next layer with Error ERR_CFT_DISPOSED,
  // and so do later ones.
  void interrupt() { interrupted_ = true; }

  // Hugging Face names, or PEFT's for LoRA.
  std::vector<std::string> parameter_names() const;
  // The accumulated gradient of one parameter, fp32 on the CPU.
  at::Tensor gradient(const std::string& name) const;

  // Trained weights (fp32 masters where kept), moments and step count, with the configuration; gradients that
  // wait for a step are not saved.
  void save_state(const std::string& path);
  // Restores it. Throws Error ERR_CFT_BAD_DATA for a file of another configuration, ERR_CFT_BAD_WEIGHTS for a
  // damaged one, before anything has changed.
  void load_state(const std::vector<TensorEntry>& entries);

  // Writes adapter_model.safetensors as PEFT reads it. Throws Error ERR_CFT_BAD_OPTION where there is no
  // adapter.
  void save_adapter(const std::string& path) const;

 private:
  const std::vector<std::pair<std::string, at::Tensor>>& parameters() const;
  std::vector<std::pair<const char*, double>> configuration() const;
  ForwardHooks hooks(std::optional<uint64_t> dropout_counter) const;
  void check_interrupt() const;

  Model& model_;
  TrainerOptions options_;
  std::optional<Adapter> adapter_;
  Gradients gradients_;
  AdamW optimizer_;
  std::atomic<bool> interrupted_{false};
};

}  // namespace cft
