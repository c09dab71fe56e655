#include "core/train/adapter.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "core/errors.h"
#include "core/ops/cpu/rows.h"
#include "core/ops/cpu/train_kernels.h"
#include "core/train/seed.h"

namespace cft {
namespace {

at::Generator make_generator(at::Device device, uint64_t seed) {
  at::Generator generator =
      device.is_cpu()
          ? at::detail::createCPUGenerator()
          : at::globalContext().getAcceleratorHooksInterface(device.type()).getNewGenerator(device.index());
  generator.set_current_seed(seed);
  return generator;
}

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
  std::string known, unknown;
  for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
  for (const std::string& target : options.targets) {
    if (!names.contains(target)) unknown += (unknown.empty() ? "" : ", ") + target;
  }
  if (!unknown.empty()) refuse("no module is named " + unknown + "; this model has " + known);
  const bool head = std::ranges::count(options.targets, last_part(model.head().path)) > 0;
  if (head && model.config().tie_word_embeddings) {
    refuse(last_part(model.head().path) +
           " is tied to the embedding in this model and cannot have an adapter");
  }
}

}  // namespace

Adapter::Adapter(const Model& model, const LoraOptions& options, uint64_t seed)
    : scale_(options.alpha / (options.rank_stabilized ? std::sqrt(static_cast<double>(options.rank))
                                                      : static_cast<double>(options.rank))),
      dropout_(options.dropout),
      seed_(seed) {
  check(model, options);
  // On the CPU whatever the device, so that a seed means the same adapter everywhere.
  at::Generator generator = make_generator(at::kCPU, mix_seed(seed));
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

ForwardHooks Adapter::hooks(std::optional<uint64_t> dropout_counter) const {
  ForwardHooks hooks;
  hooks.linear = [this, dropout_counter](const Linear& linear, const at::Tensor& x) {
    return forward(linear, x, dropout_counter);
  };
  return hooks;
}

const Adapter::Module* Adapter::find(const std::string& path) const {
  const auto found = modules_.find(path);
  return found == modules_.end() ? nullptr : &found->second;
}

void Adapter::drop(const at::Tensor& x, const Module& module, uint64_t counter,
                   const std::vector<int64_t>& rows) const {
  const auto key = static_cast<uint32_t>(mix_seed(mix_seed(mix_seed(seed_) ^ counter) ^ module.index) >> 32);
  const int64_t width = x.size(1);
  auto* values = x.mutable_data_ptr<float>();
  cpu::for_rows(x.size(0), width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      cpu::train_kernels().dropout(values + r * width, width, key, static_cast<uint64_t>(rows[r] * width),
                                   static_cast<float>(dropout_));
  });
}

at::Tensor Adapter::forward(const Linear& linear, const at::Tensor& x,
                            std::optional<uint64_t> dropout_counter) const {
  const at::Tensor base = at::linear(x, linear.weight, linear.bias);
  const Module* found = find(linear.path);
  if (found == nullptr) return base;
  const Module& module = *found;
  at::Tensor input = x;
  if (dropout_counter && dropout_ > 0) {
    at::Tensor keep = at::ones_like(x.detach(), at::TensorOptions(at::kFloat), at::MemoryFormat::Contiguous);
    if (x.is_cpu()) {
      std::vector<int64_t> rows(x.size(0));
      std::iota(rows.begin(), rows.end(), 0);
      drop(keep, module, *dropout_counter, rows);
    } else {
      at::Generator generator =
          make_generator(x.device(), mix_seed(mix_seed(mix_seed(seed_) ^ *dropout_counter) ^ module.index));
      keep.bernoulli_(1 - dropout_, generator).div_(1 - dropout_);
    }
    input = x * keep.to(x.scalar_type());
  }
  const at::Tensor low = at::linear(input, module.a.to(x.scalar_type()));  // (N, rank)
  return base + at::linear(low, module.b.to(x.scalar_type())) * scale_;
}

}  // namespace cft
