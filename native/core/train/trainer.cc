#include "core/train/trainer.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <numeric>
#include <string_view>
#include <unordered_map>

#include "core/errors.h"
#include "core/model/decoder.h"
#include "core/ops/lanes.h"
#include "core/train/body.h"
#include "core/train/prefix_tree.h"
#include "core/train/trained_linear.h"

namespace cft {
namespace {

// What autograd's forward pass needs of a pruned batch, on the model's device.
struct DeviceBatch {
  PackedTokens tokens;
  at::Tensor selected, targets;  // (M) int64
  at::Tensor weights;            // (M) fp32

  DeviceBatch(const Model& model, const TrainBatch& pruned) {
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

// CUDA's allocator throws its own class, the CPU's a plain c10::Error, and C++ bad_alloc.
bool is_out_of_memory(const std::exception& error) {
  return dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
         std::string_view(error.what()).find("DefaultCPUAllocator: can't allocate memory") !=
             std::string_view::npos;
}

AdamWOptions with_seed(AdamWOptions adamw, uint64_t seed) {
  adamw.seed = seed;
  return adamw;
}

// A moment that never fades, or a rate divided by nothing, makes NaN of the weights in one step.
void check_options(const TrainerOptions& options) {
  const auto check = [](const char* name, double value, bool good, const char* expected) {
    if (good) return;
    throw Error("ERR_CFT_BAD_OPTION",
                std::string(name) + " is " + std::to_string(value) + ", expected " + expected);
  };
  const AdamWOptions& a = options.adamw;
  const char *share = "0 or more and less than 1", *natural = "a number of at least 0";
  const auto is_natural = [](double value) { return std::isfinite(value) && value >= 0; };
  check("beta1", a.beta1, a.beta1 >= 0 && a.beta1 < 1, share);
  check("beta2", a.beta2, a.beta2 >= 0 && a.beta2 < 1, share);
  check("epsilon", a.epsilon, std::isfinite(a.epsilon) && static_cast<float>(a.epsilon) > 0,
        "a positive number");
  check("weight decay", a.weight_decay, is_natural(a.weight_decay), natural);
  check("gradient clipping", options.max_grad_norm, is_natural(options.max_grad_norm), natural);
}

[[noreturn]] void refuse_state(const std::string& file, const std::string& what) {
  throw Error("ERR_CFT_BAD_DATA", file + ": " + what);
}

}  // namespace

Trainer::Trainer(Model& model, const TrainerOptions& options)
    : model_(model),
      options_(options),
      device_(options.device != nullptr ? options.device : train_device(model.device())),
      adapter_(options.lora ? std::optional<Adapter>(std::in_place, model, *options.lora, options.seed)
                            : std::nullopt),
      gradients_(tensors(parameters())),
      optimizer_(parameters(), with_seed(options.adamw, options.seed), device_) {
  check_options(options);
}

const std::vector<std::pair<std::string, at::Tensor>>& Trainer::parameters() const {
  return adapter_ ? adapter_->parameters() : model_.parameters();
}

int64_t Trainer::trainable_parameters() const {
  int64_t count = 0;
  for (const auto& [name, tensor] : parameters()) count += tensor.numel();
  return count;
}

void Trainer::check(const TrainBatch& batch) const {
  check_batch(batch, model_.config());
  const auto& starts = batch.sequence_starts;
  const int64_t most = model_.config().max_positions;
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    if (starts[s + 1] - starts[s] <= most) continue;
    throw Error("ERR_CFT_BAD_DATA", "training batch: sequence " + std::to_string(s) + " has " +
                                        std::to_string(starts[s + 1] - starts[s]) +
                                        " tokens, expected at most " + std::to_string(most) +
                                        " (the model's positions)");
  }
}

void Trainer::check_interrupt() const {
  if (interrupted_) throw Error("ERR_CFT_DISPOSED", "the trainer was disposed");
}

ForwardHooks Trainer::hooks(std::optional<uint64_t> dropout_counter) const {
  ForwardHooks hooks = adapter_ ? adapter_->hooks(dropout_counter, device_) : ForwardHooks{};
  hooks.keys_values = [this](int64_t, const at::Tensor&, const at::Tensor&) { check_interrupt(); };
  hooks.kernels = device_;
  hooks.checkpoint = options_.checkpoint;
  return hooks;
}

double Trainer::accumulate(const TrainBatch& batch) {
  check(batch);
  if (batch.selected.empty()) return 0;
  try {
    double loss = 0;
    try {
      loss = add_gradients(batch);
    } catch (const std::exception& error) {
      if (!is_out_of_memory(error)) throw;
      // Part of the gradients may be in the sums already, so the whole step is run again.
      for (bool done = false; !done;) {
        parts_ = 2 * parts_;
        gradients_.clear();
        for (const auto& lane : lane_gradients_) lane->clear();
        auto sequences = static_cast<int64_t>(prune_batch(batch).sequence_starts.size()) - 1;
        for (const TrainBatch& earlier : waiting_)
          sequences = std::max(sequences, static_cast<int64_t>(earlier.sequence_starts.size()) - 1);
        try {
          for (const TrainBatch& earlier : waiting_) add_gradients(earlier);
          loss = add_gradients(batch);
          done = true;
        } catch (const std::exception& again) {
          if (!is_out_of_memory(again) || parts_ >= sequences) throw;
        }
      }
    }
    waiting_.push_back(batch);
    return loss;
  } catch (...) {
    gradients_.clear();
    for (const auto& lane : lane_gradients_) lane->clear();
    waiting_.clear();
    throw;
  }
}

double Trainer::add_gradients(const TrainBatch& batch) {
  double loss = 0;
  const TrainBatch pruned = prune_batch(batch);
  if (parts_ == 1) return by_hand() ? add_by_hand(pruned) : add_by_autograd(pruned);
  for (const TrainBatch& part : split_batch(pruned, parts_)) {
    if (!part.selected.empty()) loss += by_hand() ? add_by_hand(part) : add_by_autograd(part);
  }
  return loss;
}

double Trainer::add_by_autograd(const TrainBatch& batch) {
  const DeviceBatch inputs(model_, batch);
  ForwardHooks hooks = this->hooks(batch.dropout_counter);
  // Dropout knows a row by its number in the whole batch: a split one has the same masks.
  const auto tokens = static_cast<int64_t>(batch.token_ids.size());
  hooks.rows = at::arange(batch.first_token, batch.first_token + tokens, inputs.selected.options());
  const std::function<void()> check = [this] { check_interrupt(); };
  if (device_ != nullptr && !adapter_)
    hooks.linear = [&](const Linear& linear, const at::Tensor& x, const at::Tensor&) {
      return trained_linear(linear, x, gradients_, check);
    };
  const bool plain_head = !adapter_ || adapter_->find(model_.head().path) == nullptr;
  double loss = 0;
  run_one_lane(model_, [&] {
    const Gradients::Recording recording(gradients_, check);
    at::Tensor hidden;
    {
      const at::AutoGradMode grad(true);
      hidden = forward_hidden(model_, inputs.tokens, hooks).index_select(0, inputs.selected);
    }
    if (options_.between) options_.between(static_cast<int64_t>(batch.token_ids.size()));
    HeadGradient head;
    if (device_ != nullptr && plain_head) {
      head = head_loss_and_gradient(*device_, model_, hidden, inputs.targets, inputs.weights, gradients_);
    } else {
      hooks.rows = hooks.rows.index_select(0, inputs.selected);
      head = head_loss_and_gradient(model_, hidden, inputs.targets, inputs.weights, hooks);
    }
    // An adapter on the head alone leaves a body without gradients.
    if (hidden.requires_grad()) torch::autograd::backward({hidden}, {head.hidden_gradient});
    loss = head.loss;
  });
  return loss;
}

// A small model's operations are shorter than waking a thread: there each thread runs a part of the
// sequences.
double Trainer::add_by_hand(const TrainBatch& batch) {
  if (!runs_by_lanes(model_)) return run_pass(batch, gradients_);
  const std::vector<TrainBatch> parts = split_batch(batch, at::get_num_threads());
  while (lane_gradients_.size() + 1 < parts.size())
    lane_gradients_.push_back(std::make_unique<Gradients>(tensors(parameters())));
  std::vector<double> losses(parts.size());
  run_lanes(static_cast<int64_t>(parts.size()), [&](int64_t lane) {
    losses[lane] = run_pass(parts[lane], lane == 0 ? gradients_ : *lane_gradients_[lane - 1]);
  });
  for (const auto& lane : lane_gradients_) gradients_.take(*lane);
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

double Trainer::run_pass(const TrainBatch& part, Gradients& gradients) const {
  const at::NoGradGuard no_grad;
  const bool drops = adapter_ && adapter_->dropout() > 0;
  // With dropout equal tokens of two sequences are not equal rows.
  const PrefixTree tree = make_prefix_tree(part, options_.share_prefixes && !drops);
  const Linears linears(model_, adapter_ ? &*adapter_ : nullptr, part.dropout_counter);
  const std::function<void()> check = [this] { check_interrupt(); };
  Body body(model_, linears, tree, check, {options_.prune_last_layer, options_.checkpoint});
  const at::Tensor terms = at::tensor(tree.terms, at::kLong);
  const at::Tensor hidden = body.forward(true);
  if (options_.between) options_.between(static_cast<int64_t>(tree.token_ids.size()));
  RowNumbers numbers = part.selected;
  for (int64_t& number : numbers) number += part.first_token;
  const HeadGradient head = head_loss_and_gradient(model_, linears, hidden.index_select(0, terms),
                                                   at::tensor(part.targets, at::kLong),
                                                   at::tensor(part.weights, at::kFloat), numbers, gradients);
  body.backward(at::zeros_like(hidden).index_add_(0, terms, head.hidden_gradient), gradients);
  return head.loss;
}

OptimizerStep Trainer::step(double learning_rate) {
  if (!std::isfinite(learning_rate) || learning_rate < 0) {
    throw Error("ERR_CFT_BAD_OPTION",
                "learning rate is " + std::to_string(learning_rate) + ", expected a number of at least 0");
  }
  OptimizerStep result;
  result.grad_norm = optimizer_.clipped_step(gradients_, learning_rate, options_.max_grad_norm);
  result.applied = std::isfinite(result.grad_norm);
  if (result.applied && !adapter_) model_.weights_changed();
  gradients_.clear();
  waiting_.clear();
  return result;
}

HeadScores Trainer::score(const TrainBatch& batch) const {
  check(batch);
  if (batch.selected.empty()) return {};
  const at::NoGradGuard no_grad;
  HeadScores scores;
  if (by_hand()) {
    run_one_lane(model_, [&] {
      const at::NoGradGuard no_grad_here;
      const TrainBatch pruned = prune_batch(batch);
      const PrefixTree tree = make_prefix_tree(pruned, options_.share_prefixes);
      const Linears linears(model_, adapter_ ? &*adapter_ : nullptr, std::nullopt);
      const std::function<void()> check = [this] { check_interrupt(); };
      const at::Tensor hidden =
          Body(model_, linears, tree, check, {options_.prune_last_layer, false}).forward(false);
      scores = head_scores(model_, linears, hidden.index_select(0, at::tensor(tree.terms, at::kLong)),
                           at::tensor(pruned.targets, at::kLong));
    });
    return scores;
  }
  const DeviceBatch inputs(model_, prune_batch(batch));
  const ForwardHooks hooks = this->hooks(std::nullopt);
  run_one_lane(model_, [&] {
    const at::NoGradGuard no_grad_here;
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
          {"gradient clipping", options_.max_grad_norm},
          {"bf16 moments", adamw.bf16_moments}};
}

void Trainer::save_state(const std::string& path) {
  auto state = optimizer_.state();
  std::vector<float> configured;
  for (const auto& [name, value] : configuration()) configured.push_back(static_cast<float>(value));
  state.emplace_back("configuration", at::tensor(configured));
  // Parts of a batch are another order of sums: whoever goes on must go on with as many.
  state.emplace_back("parts", at::full({1}, static_cast<double>(parts_.load()), at::kFloat));
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
  const at::Tensor parts = reader.read(find("parts", at::empty({1}, at::kFloat)), at::kFloat, at::kCPU);
  if (!(parts.item<float>() >= 1)) {
    refuse_state(file, "parts is " + std::to_string(parts.item<float>()) + ", expected at least 1");
  }
  if (entries.size() != layout.size() + 2) {
    refuse_state(file, "it holds " + std::to_string(entries.size()) + " tensors, expected " +
                           std::to_string(layout.size() + 2) + "; it was saved by another configuration");
  }
  std::vector<at::Tensor> state;
  for (const TensorEntry* entry : wanted) state.push_back(reader.read(*entry, entry->dtype, model_.device()));
  optimizer_.restore(state);
  parts_ = static_cast<int64_t>(parts.item<float>());
  gradients_.clear();
  waiting_.clear();
  if (!adapter_) model_.weights_changed();
}

void Trainer::save_adapter(const std::string& path) const {
  if (!adapter_) throw Error("ERR_CFT_BAD_OPTION", "this trainer has no adapter: it trains all weights");
  write_safetensors(path, adapter_->parameters());
}

}  // namespace cft
