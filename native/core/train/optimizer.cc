#include "core/train/optimizer.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "core/ops/cpu/train_kernels.h"
#include "core/train/seed.h"

namespace cft {

AdamW::AdamW(std::vector<std::pair<std::string, at::Tensor>> parameters, AdamWOptions options,
             const TrainDevice* device)
    : device_(device), options_(options) {
  slots_.reserve(parameters.size());
  for (auto& [name, weight] : parameters) slots_.push_back({name, weight, {}, {}, {}});
}

bool AdamW::has_master(const Slot& slot) const {
  return slot.weight.scalar_type() == at::kFloat || options_.master_weights;
}

// Masters and moments are made when they are first needed.
void AdamW::prepare(Slot& slot) const {
  if (slot.exp_avg.defined()) return;
  const auto options = slot.weight.options().dtype(moment_dtype());
  slot.exp_avg = at::zeros(slot.weight.sizes(), options);
  slot.exp_avg_sq = at::zeros(slot.weight.sizes(), options);
  if (has_master(slot)) slot.master = slot.weight.to(at::kFloat);  // an fp32 weight itself, without a copy
}

AdamW::Rates AdamW::rates(size_t slot, int64_t step, double learning_rate) const {
  const double decay = slots_[slot].weight.dim() > 1 ? learning_rate * options_.weight_decay : 0;
  const auto count = static_cast<double>(step);
  const uint64_t key = mix_seed(mix_seed(options_.seed ^ (static_cast<uint64_t>(step) << 20)) ^ slot);
  return {static_cast<float>(1 - decay),
          static_cast<float>(learning_rate / (1 - std::pow(options_.beta1, count))),
          static_cast<float>(1 / std::sqrt(1 - std::pow(options_.beta2, count))),
          static_cast<uint32_t>(key >> 32)};
}

template <class Task>
void AdamW::set_rates(Task& task, const Rates& rates) const {
  task.beta1 = static_cast<float>(options_.beta1);
  task.beta2 = static_cast<float>(options_.beta2);
  task.epsilon = static_cast<float>(options_.epsilon);
  task.decay = rates.decay;
  task.step_size = rates.step_size;
  task.root_correction = rates.root_correction;
  task.random_key = rates.random_key;
}

double AdamW::clipped_step(const Gradients& gradients, double learning_rate, double max_norm) {
  if (device_ != nullptr) return step_on_device(gradients, learning_rate, max_norm);
  const double norm = gradients.norm();
  if (!std::isfinite(norm)) return norm;
  const double factor = max_norm / (norm + 1e-6);  // torch.nn.utils.clip_grad_norm_, its 1e-6 included
  step(gradients, learning_rate, max_norm > 0 && factor < 1 ? factor : 1.0);
  return norm;
}

double AdamW::step_on_device(const Gradients& gradients, double learning_rate, double max_norm) {
  const at::NoGradGuard no_grad;
  for (Slot& slot : slots_) prepare(slot);
  if (slots_.empty()) return 0;
  const at::Device where = slots_.front().weight.device();
  std::vector<int64_t> parts{0};  // of the sum of squares, by parameter
  for (size_t i = 0; i < slots_.size(); ++i) {
    const at::Tensor& sum = gradients.sum(i);
    parts.push_back(parts.back() + (sum.defined() ? device_->squares_parts(sum.numel()) : 0));
  }
  const auto doubles = at::TensorOptions(at::kDouble).device(where);
  const at::Tensor partial = at::empty({parts.back()}, doubles), norm = at::empty({}, doubles);
  const at::Tensor scale = at::empty({}, doubles.dtype(at::kFloat));
  auto* const squares = partial.mutable_data_ptr<double>();
  for (size_t i = 0; i < slots_.size(); ++i) {
    const at::Tensor& sum = gradients.sum(i);
    if (!sum.defined()) continue;
    const CftTrainSquares work{ops::dtype_of(sum), sum.numel(), sum.const_data_ptr(), squares + parts[i]};
    ops::launch(*device_, device_->squares, work, where, "train_squares");
  }
  const CftTrainClip clip{parts.back(), squares, max_norm, norm.mutable_data_ptr<double>(),
                          scale.mutable_data_ptr<float>()};
  ops::launch(*device_, device_->clip, clip, where, "train_clip");
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    const at::Tensor& sum = gradients.sum(i);
    const Rates r = rates(i, steps_ + 1, learning_rate);
    CftTrainAdamW work{};
    work.count = slot.weight.numel();
    if (sum.defined()) {
      work.gradient_dtype = ops::dtype_of(sum);
      work.gradient = sum.const_data_ptr();
    }
    if (slot.master.defined()) work.weight = slot.master.mutable_data_ptr<float>();
    if (slot.weight.scalar_type() != at::kFloat) work.half_weight = slot.weight.mutable_data_ptr();
    work.moment_dtype = ops::dtype_of(slot.exp_avg);
    work.m = slot.exp_avg.mutable_data_ptr();
    work.v = slot.exp_avg_sq.mutable_data_ptr();
    work.gradient_scale = scale.const_data_ptr<float>();
    set_rates(work, r);
    ops::launch(*device_, device_->adamw, work, where, "train_adamw");
  }
  const double found = norm.item<double>();
  if (std::isfinite(found)) ++steps_;  // else the kernels changed nothing
  return found;
}

// All parameters as stretches that the threads share.
void AdamW::step(const Gradients& gradients, double learning_rate, double gradient_scale) {
  const at::NoGradGuard no_grad;
  for (Slot& slot : slots_) prepare(slot);  // may run out of memory: a step counts from here on
  ++steps_;
  constexpr int64_t kStretch = 1 << 16;
  std::vector<cpu::AdamWTask> tasks;
  std::vector<at::Tensor> zeros;  // gradients that nothing was added to
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    at::Tensor gradient = gradients.sum(i);
    if (!gradient.defined()) {
      gradient = at::zeros(slot.weight.sizes(), at::kFloat);
      zeros.push_back(gradient);
    }
    const bool half = slot.weight.scalar_type() != at::kFloat;
    const Rates r = rates(i, steps_, learning_rate);
    for (int64_t begin = 0; begin < slot.weight.numel(); begin += kStretch) {
      cpu::AdamWTask task;
      task.count = std::min(kStretch, slot.weight.numel() - begin);
      task.gradient = gradient.const_data_ptr<float>() + begin;
      if (slot.master.defined()) task.weight = slot.master.mutable_data_ptr<float>() + begin;
      if (half) task.half_weight = static_cast<uint16_t*>(slot.weight.mutable_data_ptr()) + begin;
      if (options_.bf16_moments) {
        task.half_m = static_cast<uint16_t*>(slot.exp_avg.mutable_data_ptr()) + begin;
        task.half_v = static_cast<uint16_t*>(slot.exp_avg_sq.mutable_data_ptr()) + begin;
      } else {
        task.m = slot.exp_avg.mutable_data_ptr<float>() + begin;
        task.v = slot.exp_avg_sq.mutable_data_ptr<float>() + begin;
      }
      task.gradient_scale = static_cast<float>(gradient_scale);
      set_rates(task, r);
      task.first_index = static_cast<uint32_t>(begin);
      tasks.push_back(task);
    }
  }
  at::parallel_for(0, static_cast<int64_t>(tasks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) cpu::train_kernels().adamw(tasks[i]);
  });
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
    add("exp_avg." + slot.name, shape, moment_dtype());
    add("exp_avg_sq." + slot.name, shape, moment_dtype());
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
