#include "core/train/adapter.h"

#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/errors.h"
#include "core/ops/cpu/rows.h"
#include "core/ops/cpu/train_kernels.h"
#include "core/ops/train_device.h"
#include "core/train/seed.h"

namespace cft {
namespace {

std::string last_part(const std::string& path) { return path.substr(path.rfind('.') + 1); }

std::vector<const Linear*> linears(const Model& model) {
  std::vector<const Linear*> all;
  for (const LayerWeights& layer : model.layers()) {
    for (const Linear* linear :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      all.push_back(linear);
    }
  }
  all.push_back(&model.head());
  return all;
}

[[noreturn]] void refuse(const std::string& what) { throw Error("ERR_CFT_BAD_OPTION", "LoRA: " + what); }

void check(const Model& model, const LoraOptions& options) {
  if (options.rank < 1) refuse("rank is " + std::to_string(options.rank) + ", expected at least 1");
  if (!std::isfinite(options.alpha) || options.alpha <= 0) {
    refuse("alpha is " + std::to_string(options.alpha) + ", expected a positive number");
  }
  if (!(options.dropout >= 0 && options.dropout < 1)) {
    refuse("dropout is " + std::to_string(options.dropout) + ", expected 0 or more and less than 1");
  }
  if (options.targets.empty()) refuse("no target modules");
  std::set<std::string> names;
  for (const Linear* linear : linears(model)) names.insert(last_part(linear->path));
  // A tied head is the embedding, which takes no adapter.
  const std::string head = last_part(model.head().path);
  const bool tied = model.config().tie_word_embeddings;
  if (tied) names.erase(head);
  std::string known, unknown;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  if (tied && std::ranges::count(options.targets, head) > 0) {
    refuse(head + " is tied to the embedding in this model and cannot have an adapter; " + known + " can");
  }
  for (const std::string& target : options.targets) {
    if (!names.contains(target)) unknown += (unknown.empty() ? "" : ", ") + target;
  }
  if (!unknown.empty()) refuse("no module is named " + unknown + "; this model has " + known);
}

}  // namespace

Adapter::Adapter(const Model& model, const LoraOptions& options, uint64_t seed)
    : scale_(options.alpha / (options.rank_stabilized ? std::sqrt(static_cast<double>(options.rank))
                                                      : static_cast<double>(options.rank))),
      dropout_(options.dropout),
      seed_(seed) {
  check(model, options);
  // On the CPU whatever the device, so that a seed means the same adapter everywhere.
  at::Generator generator = at::detail::createCPUGenerator(mix_seed(seed));
  for (const Linear* linear : linears(model)) {
    if (std::ranges::count(options.targets, last_part(linear->path)) == 0) continue;
    const int64_t out = linear->weight.size(0);
    const int64_t in = linear->weight.size(1);
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    Module module;
    module.index = modules_.size();
    module.a =
        at::empty({options.rank, in}, at::kFloat).uniform_(-bound, bound, generator).to(model.device());
    module.b = at::zeros({out, options.rank}, at::TensorOptions(at::kFloat).device(model.device()));
    const std::string name = "base_model.model." + linear->path;
    parameters_.emplace_back(name + ".lora_A.weight", module.a);
    parameters_.emplace_back(name + ".lora_B.weight", module.b);
    modules_.emplace(linear->path, std::move(module));
  }
}

ForwardHooks Adapter::hooks(std::optional<uint64_t> dropout_counter, const TrainDevice* kernels) const {
  ForwardHooks hooks;
  hooks.linear = [this, dropout_counter, kernels](const Linear& linear, const at::Tensor& x,
                                                  const at::Tensor& rows) {
    return forward(linear, x, rows, dropout_counter, kernels);
  };
  return hooks;
}

const Adapter::Module* Adapter::find(const std::string& path) const {
  const auto found = modules_.find(path);
  return found == modules_.end() ? nullptr : &found->second;
}

uint32_t Adapter::dropout_key(const Module& module, uint64_t counter) const {
  return static_cast<uint32_t>(mix_seed(mix_seed(mix_seed(seed_) ^ counter) ^ module.index) >> 32);
}

void Adapter::drop(const at::Tensor& x, const Module& module, uint64_t counter,
                   const std::vector<int64_t>& rows) const {
  const uint32_t key = dropout_key(module, counter);
  const int64_t width = x.size(1);
  auto* values = x.mutable_data_ptr<float>();
  cpu::for_rows(x.size(0), width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      cpu::train_kernels().dropout(values + r * width, width, key, static_cast<uint64_t>(rows[r] * width),
                                   static_cast<float>(dropout_));
  });
}

at::Tensor Adapter::forward(const Linear& linear, const at::Tensor& x, const at::Tensor& rows,
                            std::optional<uint64_t> dropout_counter, const TrainDevice* kernels) const {
  const at::Tensor base = at::linear(x, linear.weight, linear.bias);
  const Module* found = find(linear.path);
  if (found == nullptr) return base;
  const Module& module = *found;
  at::Tensor input = x;
  if (dropout_counter && dropout_ > 0) {
    const at::Tensor numbers =
        rows.defined() ? rows : at::arange(x.size(0), at::TensorOptions(at::kLong).device(x.device()));
    if (kernels != nullptr) {
      input = ops::train_dropout(*kernels, x, numbers, dropout_key(module, *dropout_counter), dropout_);
    } else {
      const at::Tensor keep = at::ones(x.sizes(), at::kFloat);
      const at::Tensor host = numbers.to(at::kCPU);
      const auto* first = host.const_data_ptr<int64_t>();
      drop(keep, module, *dropout_counter, std::vector<int64_t>(first, first + host.numel()));
      input = x * keep.to(x.device(), x.scalar_type());
    }
  }
  const at::Tensor low = at::linear(input, module.a.to(x.scalar_type()));  // (N, rank)
  return base + at::linear(low, module.b.to(x.scalar_type())) * scale_;
}

}  // namespace cft
