#include "core/train/adapter.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/errors.h"

namespace cft {
namespace {

// One round of splitmix64 (Steele et al. 2014): neighbouring keys give unrelated seeds.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

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
  at::Generator generator = make_generator(at::kCPU, mix(seed));
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

at::Tensor Adapter::forward(const Linear& linear, const at::Tensor& x,
                            std::optional<uint64_t> dropout_counter) const {
  const at::Tensor base = at::linear(x, linear.weight, linear.bias);
  const auto found = modules_.find(linear.path);
  if (found == modules_.end()) return base;
  const Module& module = found->second;
  at::Tensor input = x;
  if (dropout_counter && dropout_ > 0) {
    at::Generator generator =
        make_generator(x.device(), mix(mix(mix(seed_) ^ *dropout_counter) ^ module.index));
    const at::Tensor keep = at::empty_like(x.detach()).bernoulli_(1 - dropout_, generator);
    input = x * keep.div_(1 - dropout_);
  }
  const at::Tensor low = at::linear(input, module.a.to(x.scalar_type()));  // (N, rank)
  return base + at::linear(low, module.b.to(x.scalar_type())) * scale_;
}

}  // namespace cft
