#include "core/train/trainer.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "core/errors.h"
#include "core/model/decoder.h"
#include "core/ops/lanes.h"

namespace cft {
namespace {

// What the forward pass needs of a batch, pruned and on the model's device.
struct DeviceBatch {
  PackedTokens tokens;
  at::Tensor selected, targets;  // (M) int64
  at::Tensor weights;            // (M) fp32

  DeviceBatch(const Model& model, const TrainBatch& batch) {
    const TrainBatch pruned = prune_batch(batch);
    tokens = PackedTokens::make(model, pruned.token_ids, pruned.sequence_starts);
    selected = at::tensor(pruned.selected).to(model.device());
    targets = at::tensor(pruned.targets).to(model.device());
    weights = at::tensor(pruned.weights).to(model.device());
  }
};

std::vector<at::Tensor> tensors(const std::vector<std::pair<std::string, at::Tensor>>& parameters) {
  std::vector<at::Tensor> all;
  all.reserve(parameters.size());
  for (const auto& [name, tensor] : parameters) all.push_back(tensor);
  return all;
}

[[noreturn]] void refuse_state(const std::string& file, const std::string& what) {
  throw Error("ERR_CFT_BAD_DATA", file + ": " + what);
}

}  // namespace

Trainer::Trainer(Model& model, const TrainerOptions& options)
    : model_(model),
      options_(options),
      adapter_(options.lora ? std::optional<Adapter>(std::in_place, model, *options.lora, options.seed)
                            : std::nullopt),
      gradients_(tensors(parameters())),
      optimizer_(parameters(), options.adamw) {}

const std::vector<std::pair<std::string, at::Tensor>>& Trainer::parameters() const {
  return adapter_ ? adapter_->parameters() : model_.parameters();
}

int64_t Trainer::trainable_parameters() const {
  int64_t count = 0;
  for (const auto& [name, tensor] : parameters()) count += tensor.numel();
  return count;
}

void Trainer::check_interrupt() const {
  if (interrupted_) throw Error("ERR_CFT_DISPOSED", "the trainer was disposed");
}

ForwardHooks Trainer::hooks(std::optional<uint64_t> dropout_counter) const {
  ForwardHooks hooks = adapter_ ? adapter_->hooks(dropout_counter) : ForwardHooks{};
  hooks.keys_values = [this](int64_t, const at::Tensor&, const at::Tensor&) { check_interrupt(); };
  return hooks;
}

double Trainer::accumulate(const TrainBatch& batch) {
  check_batch(batch, model_.config());
  if (batch.selected.empty()) return 0;
  const DeviceBatch inputs(model_, batch);
  const ForwardHooks hooks = this->hooks(batch.dropout_counter);
  double loss = 0;
  try {
    run_one_lane(model_, [&] {
      const Gradients::Recording recording(gradients_, [this] { check_interrupt(); });
      at::Tensor hidden;
      {
        const at::AutoGradMode grad(true);
        hidden = forward_hidden(model_, inputs.tokens, hooks).index_select(0, inputs.selected);
      }
      const HeadGradient head = head_loss_and_gradient(model_, hidden, inputs.targets, inputs.weights, hooks);
      // An adapter on the head alone leaves a body without gradients.
      if (hidden.requires_grad()) torch::autograd::backward({hidden}, {head.hidden_gradient});
      loss = head.loss;
    });
    return loss;
  } catch (...) {
    gradients_.clear();
    throw;
  }
}

OptimizerStep Trainer::step(double learning_rate) {
  if (!std::isfinite(learning_rate) || learning_rate < 0) {
    throw Error("ERR_CFT_BAD_OPTION",
                "learning rate is " + std::to_string(learning_rate) + ", expected a number of at least 0");
  }
  OptimizerStep result;
  result.grad_norm = gradients_.norm();
  result.applied = std::isfinite(result.grad_norm);
  if (result.applied) {
    // torch.nn.utils.clip_grad_norm_, its 1e-6 included.
    const double factor = options_.max_grad_norm / (result.grad_norm + 1e-6);
    if (options_.max_grad_norm > 0 && factor < 1) gradients_.scale(factor);
    optimizer_.step(gradients_, learning_rate);
    if (!adapter_) model_.weights_changed();
  }
  gradients_.clear();
  return result;
}

HeadScores Trainer::score(const TrainBatch& batch) const {
  check_batch(batch, model_.config());
  if (batch.selected.empty()) return {};
  const at::NoGradGuard no_grad;
  const DeviceBatch inputs(model_, batch);
  const ForwardHooks hooks = this->hooks(std::nullopt);
  HeadScores scores;
  run_one_lane(model_, [&] {
    const at::Tensor hidden = forward_hidden(model_, inputs.tokens, hooks).index_select(0, inputs.selected);
    scores = head_scores(model_, hidden, inputs.targets, hooks);
  });
  return scores;
}

std::vector<std::string> Trainer::parameter_names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : parameters()) names.push_back(name);
  return names;
}

at::Tensor Trainer::gradient(const std::string& name) const {
  const auto& all = parameters();
  const auto found = std::ranges::find(all, name, &std::pair<std::string, at::Tensor>::first);
  if (found == all.end()) throw Error("ERR_CFT_BAD_OPTION", "no trained parameter is named " + name);
  const at::Tensor& sum = gradients_.sum(found - all.begin());
  return sum.defined() ? sum.to(at::kCPU).contiguous() : at::zeros(found->second.sizes(), at::kFloat);
}

// What makes saved state meaningful; a file that differs in one of these belongs to another run.
std::vector<std::pair<const char*, double>> Trainer::configuration() const {
  const AdamWOptions& adamw = options_.adamw;
  const LoraOptions lora = options_.lora.value_or(LoraOptions{});
  return {{"LoRA rank", lora.rank},
          {"LoRA alpha", lora.alpha},
          {"LoRA dropout", lora.dropout},
          {"rank-stabilized LoRA", lora.rank_stabilized},
          {"beta1", adamw.beta1},
          {"beta2", adamw.beta2},
          {"epsilon", adamw.epsilon},
          {"weight decay", adamw.weight_decay},
          {"gradient clipping", options_.max_grad_norm}};
}

void Trainer::save_state(const std::string& path) {
  auto state = optimizer_.state();
  std::vector<float> configured;
  for (const auto& [name, value] : configuration()) configured.push_back(static_cast<float>(value));
  state.emplace_back("configuration", at::tensor(configured));
  write_safetensors(path, state, {{"content", "cft-native trainer state"}});
}

void Trainer::load_state(const std::vector<TensorEntry>& entries) {
  std::unordered_map<std::string, const TensorEntry*> by_name;
  for (const TensorEntry& entry : entries) by_name.emplace(entry.name, &entry);
  const std::string file = entries.empty() ? "trainer state" : entries.front().file;
  const auto find = [&](const std::string& name, const at::Tensor& like) -> const TensorEntry& {
    const auto found = by_name.find(name);
    if (found == by_name.end())
      refuse_state(file, "no tensor " + name + "; it was saved by another configuration");
    const TensorEntry& entry = *found->second;
    if (entry.dtype != like.scalar_type() || at::IntArrayRef(entry.shape) != like.sizes()) {
      refuse_state(file,
                   name + " has another dtype or shape than here; it was saved by another configuration");
    }
    return entry;
  };

  TensorReader reader;
  const auto configured = configuration();
  const at::Tensor expected = at::empty({static_cast<int64_t>(configured.size())}, at::kFloat);
  const at::Tensor saved = reader.read(find("configuration", expected), at::kFloat, at::kCPU);
  for (size_t i = 0; i < configured.size(); ++i) {
    const float found = saved.const_data_ptr<float>()[i];
    if (found != static_cast<float>(configured[i].second)) {
      refuse_state(file, std::string(configured[i].first) + " was " + std::to_string(found) +
                             " when it was saved and is " + std::to_string(configured[i].second) + " here");
    }
  }

  const auto layout = optimizer_.state_layout();
  std::vector<const TensorEntry*> wanted;
  for (const auto& [name, like] : layout) wanted.push_back(&find(name, like));
  if (entries.size() != layout.size() + 1) {
    refuse_state(file, "it holds " + std::to_string(entries.size()) + " tensors, expected " +
                           std::to_string(layout.size() + 1) + "; it was saved by another configuration");
  }
  std::vector<at::Tensor> state;
  for (const TensorEntry* entry : wanted) state.push_back(reader.read(*entry, entry->dtype, model_.device()));
  optimizer_.restore(state);
  gradients_.clear();
  if (!adapter_) model_.weights_changed();
}

void Trainer::save_adapter(const std::string& path) const {
  if (!adapter_) throw Error("ERR_CFT_BAD_OPTION", "this trainer has no adapter: it trains all weights");
  write_safetensors(path, adapter_->parameters());
}

}  // namespace cft
