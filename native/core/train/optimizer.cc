#include "core/train/optimizer.h"

#include <ATen/core/grad_mode.h>

namespace cft {

AdamW::AdamW(std::vector<std::pair<std::string, at::Tensor>> parameters, AdamWOptions options)
    : options_(options) {
  slots_.reserve(parameters.size());
  for (auto& [name, weight] : parameters) slots_.push_back({name, weight, {}, {}, {}});
}

bool AdamW::has_master(const Slot& slot) const {
  return slot.weight.scalar_type() == at::kFloat || options_.master_weights;
}

// Masters and moments are made when they are first needed.
void AdamW::prepare(Slot& slot) const {
  if (slot.exp_avg.defined()) return;
  const auto fp32 = slot.weight.options().dtype(at::kFloat);
  slot.exp_avg = at::zeros(slot.weight.sizes(), fp32);
  slot.exp_avg_sq = at::zeros(slot.weight.sizes(), fp32);
  if (has_master(slot)) slot.master = slot.weight.to(at::kFloat);  // an fp32 weight itself, without a copy
}

void AdamW::step(const Gradients& gradients, double learning_rate) {
  const at::NoGradGuard no_grad;
  ++steps_;
  for (size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    prepare(slot);
    const at::Tensor master = slot.master.defined() ? slot.master : slot.weight.to(at::kFloat);
    const at::Tensor gradient = gradients.sum(i).defined() ? gradients.sum(i) : at::zeros_like(master);
    const at::Tensor count = at::full({}, static_cast<double>(steps_), master.options());
    at::_fused_adamw_({master}, {gradient}, {slot.exp_avg}, {slot.exp_avg_sq}, {}, {count}, learning_rate,
                      options_.beta1, options_.beta2, slot.weight.dim() > 1 ? options_.weight_decay : 0,
                      options_.epsilon, /*amsgrad=*/false, /*maximize=*/false);
    if (!master.is_same(slot.weight)) slot.weight.copy_(master);
  }
}

std::vector<std::pair<std::string, at::Tensor>> AdamW::state() {
  std::vector<std::pair<std::string, at::Tensor>> state;
  state.emplace_back("step", at::full({1}, static_cast<double>(steps_), at::kFloat));
  for (Slot& slot : slots_) {
    prepare(slot);
    state.emplace_back("weight." + slot.name, slot.master.defined() ? slot.master : slot.weight);
    state.emplace_back("exp_avg." + slot.name, slot.exp_avg);
    state.emplace_back("exp_avg_sq." + slot.name, slot.exp_avg_sq);
  }
  return state;
}

std::vector<std::pair<std::string, at::Tensor>> AdamW::state_layout() const {
  std::vector<std::pair<std::string, at::Tensor>> layout;
  const auto add = [&](const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) {
    layout.emplace_back(name, at::empty(shape, at::TensorOptions(dtype).device(at::kMeta)));
  };
  add("step", {1}, at::kFloat);
  for (const Slot& slot : slots_) {
    const at::IntArrayRef shape = slot.weight.sizes();
    add("weight." + slot.name, shape, has_master(slot) ? at::kFloat : slot.weight.scalar_type());
    add("exp_avg." + slot.name, shape, at::kFloat);
    add("exp_avg_sq." + slot.name, shape, at::kFloat);
  }
  return layout;
}

void AdamW::restore(const std::vector<at::Tensor>& state) {
  const at::NoGradGuard no_grad;
  size_t next = 0;
  steps_ = static_cast<int64_t>(state.at(next++).item<double>());
  for (Slot& slot : slots_) {
    const at::Tensor& weight = state.at(next++);
    slot.weight.copy_(weight);
    slot.exp_avg = state.at(next++);
    slot.exp_avg_sq = state.at(next++);
    if (has_master(slot)) slot.master = slot.weight.scalar_type() == at::kFloat ? slot.weight : weight;
  }
}

}  // namespace cft
