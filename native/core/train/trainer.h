// Masked training of one model: packed sequences in, weighted cross-entropy of the selected positions, AdamW.
// Full fine-tuning trains the model's own weights in place; LoRA trains an adapter and leaves the model as it
// is (load the base with the saved adapter to use it).
//
// Bit-deterministic on the CPU: the same calls on the same weights with the same number of threads give the
// same bits, and so does a run that goes on from saved state.
#pragma once
#include <ATen/ATen.h>

#include <atomic>
#include <functional>
#include <memory>
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
  uint64_t seed = 0;         // of LoRA's initialisation and dropout, and of stochastic rounding
  // Keep the layers' inputs alone and run each layer again in the backward. A third more work, but a
  // sequence's activations need no more than one layer at a time.
  bool checkpoint = false;
  // Off one by one in tests, which compare: the pass by hand against autograd's, shared prefixes, the pruned
  // last layer.
  bool by_hand = true;
  bool share_prefixes = true;
  bool prune_last_layer = true;
  // The kernels of the model's device where it is not the CPU; tests bring the emulator's to models on the
  // CPU.
  const TrainDevice* device = nullptr;
  // Tests let it throw: called with the rows of each pass between its forward and its backward.
  std::function<void(int64_t rows)> between = nullptr;
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
  // nothing. Throws Error ERR_CFT_BAD_DATA and leaves the gradients alone; where it fails later, it drops all
  // gradients of the step. Where memory does not suffice, the step's batches are run again in halves,
  // quarters and so on of their sequences, and so are all later ones.
  double accumulate(const TrainBatch& batch);

  // One update from the accumulated gradients, which it clears; without any it is a step with a zero
  // gradient. Where a gradient is not finite nothing changes, and `applied` is false.
  OptimizerStep step(double learning_rate);

  // nll and entropy of each selected position, forward only and without dropout. Weights are not read.
  HeadScores score(const TrainBatch& batch) const;

  // From any thread: accumulate() and score() under way fail at the next layer with Error ERR_CFT_DISPOSED,
  // and so do later ones.
  void interrupt() { interrupted_ = true; }

  // Passes that a batch is split into; grows when memory does not suffice.
  int64_t parts() const { return parts_.load(); }

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
  // Throws Error ERR_CFT_BAD_DATA.
  void check(const TrainBatch& batch) const;
  void check_interrupt() const;
  // Whether Body runs the passes; otherwise autograd does.
  bool by_hand() const { return options_.by_hand && device_ == nullptr && model_.device().is_cpu(); }
  // Adds the gradients of a checked batch.
  double add_gradients(const TrainBatch& batch);
  double add_by_autograd(const TrainBatch& batch);
  double add_by_hand(const TrainBatch& batch);
  // One pass over a pruned batch or a part of one, on the calling thread.
  double run_pass(const TrainBatch& part, Gradients& gradients) const;

  Model& model_;
  TrainerOptions options_;
  const TrainDevice* const device_;
  std::optional<Adapter> adapter_;
  Gradients gradients_;
  std::vector<std::unique_ptr<Gradients>> lane_gradients_;  // of the second thread and further ones
  AdamW optimizer_;
  std::vector<TrainBatch> waiting_;  // accumulated since the last step
  std::atomic<int64_t> parts_{1};    // passes per batch: memory sufficed for no fewer
  std::atomic<bool> interrupted_{false};
};

}  // namespace cft
