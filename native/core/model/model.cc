#include "core/model/model.h"

#include <ATen/Context.h>

#include "core/errors.h"

namespace cft {
namespace {

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

void check_shape(const std::string& name, at::IntArrayRef expected, at::IntArrayRef found) {
  if (expected == found) return;
  throw Error("ERR_CFT_BAD_WEIGHTS", "tensor " + name + ": expected the shape " + shape_text(expected) +
                                         ", found " + shape_text(found));
}

// A LoRA factor of a module, or nullptr.
const TensorEntry* find_factor(const std::vector<TensorEntry>& adapter, const std::string& module,
                               const char* factor) {
  const std::string name = "base_model.model." + module + "." + factor + ".weight";
  for (const TensorEntry& entry : adapter) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

}  // namespace

template <class Read>
void Model::build(const Read& read_tensor) {
  const ModelConfig& c = config_;
  auto read = [&](const std::string& name, std::vector<int64_t> shape) {
    at::Tensor tensor = read_tensor(name, shape);
    parameters_.emplace_back(name, tensor);
    return tensor;
  };
  auto linear = [&](const std::string& path, int64_t out, int64_t in, bool bias) {
    Linear result;
    result.path = path;
    result.weight = read(path + ".weight", {out, in});
    if (bias) result.bias = read(path + ".bias", {out});
    return result;
  };

  // Lays linears of the same input end to end in one matrix and leaves them as views into it: inference
  // multiplies once, training still sees the parameters apart, and nothing is stored twice.
  auto fuse = [&](std::vector<Linear*> parts) {
    Linear fused;
    fused.path = parts[0]->path + "+";
    auto join = [&](at::Tensor Linear::*member) {
      std::vector<at::Tensor> pieces;
      for (Linear* part : parts) pieces.push_back(part->*member);
      const at::Tensor whole = at::cat(pieces, 0);
      int64_t row = 0;
      for (Linear* part : parts) {
        const int64_t rows = (part->*member).size(0);
        const at::Tensor view = whole.narrow(0, row, rows);
        for (auto& [name, tensor] : parameters_) {
          if (tensor.is_same(part->*member)) tensor = view;
        }
        part->*member = view;
        row += rows;
      }
      return whole;
    };
    fused.weight = join(&Linear::weight);
    if (parts[0]->bias.defined()) fused.bias = join(&Linear::bias);
    return fused;
  };

  embedding_ = read("model.embed_tokens.weight", {c.vocab_size, c.hidden_size});
  const int64_t q_size = c.heads * c.head_dim, kv_size = c.kv_heads * c.head_dim;
  const bool pre = c.norm_placement == NormPlacement::kPre;
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";
    LayerWeights w;
    w.q = linear(attention + "q_proj", q_size, c.hidden_size, c.qkv_bias);
    w.k = linear(attention + "k_proj", kv_size, c.hidden_size, c.qkv_bias);
    w.v = linear(attention + "v_proj", kv_size, c.hidden_size, c.qkv_bias);
    w.o = linear(attention + "o_proj", c.hidden_size, q_size, c.output_bias);
    if (c.qk_norm != QkNorm::kNone) {
      const bool per_head = c.qk_norm == QkNorm::kHead;
      w.q_norm = read(attention + "q_norm.weight", {per_head ? c.head_dim : q_size});
      w.k_norm = read(attention + "k_norm.weight", {per_head ? c.head_dim : kv_size});
    }
    w.gate = linear(mlp + "gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    w.up = linear(mlp + "up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    w.down = linear(mlp + "down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias);
    w.qkv = fuse({&w.q, &w.k, &w.v});
    w.gate_up = fuse({&w.gate, &w.up});
    w.attention_norm =
        read(layer + (pre ? "input_layernorm.weight" : "post_attention_layernorm.weight"), {c.hidden_size});
    w.mlp_norm = read(layer + (pre ? "post_attention_layernorm.weight" : "post_feedforward_layernorm.weight"),
                      {c.hidden_size});
    layers_.push_back(std::move(w));
  }
  final_norm_ = read("model.norm.weight", {c.hidden_size});
  if (c.tie_word_embeddings) {
    head_ = Linear{"lm_head", embedding_, {}};
  } else {
    head_ = linear("lm_head", c.vocab_size, c.hidden_size, false);
  }
  if (embedding_.is_cuda()) {
    // cuDNN's attention builds a plan for every new length, which takes longer than a whole prefill.
    at::globalContext().setSDPUseCuDNN(false);
    // Partial sums of a split product stay fp32: else results depend more on the number of rows.
    at::globalContext().setAllowBF16ReductionCuBLAS(false);
  }
}

Model::Model(ModelConfig config, const std::vector<TensorEntry>& tensors, at::Device device,
             at::ScalarType dtype, const std::vector<TensorEntry>& adapter, double adapter_scale)
    : config_(std::move(config)), device_(device), dtype_(dtype) {
  std::unordered_map<std::string, const TensorEntry*> by_name;
  for (const TensorEntry& entry : tensors) by_name[entry.name] = &entry;
  TensorReader reader;
  size_t factors_used = 0;
  build([&](const std::string& name, const std::vector<int64_t>& shape) {
    const auto found = by_name.find(name);
    if (found == by_name.end()) {
      throw Error("ERR_CFT_BAD_WEIGHTS", "tensor " + name + ": expected the shape " + shape_text(shape) +
                                             ", found no such tensor in the model's files");
    }
    check_shape(name, shape, found->second->shape);
    const size_t suffix = name.rfind(".weight");
    const std::string module = name.substr(0, suffix == std::string::npos ? name.size() : suffix);
    const TensorEntry* a = find_factor(adapter, module, "lora_A");
    const TensorEntry* b = find_factor(adapter, module, "lora_B");
    if (a == nullptr || b == nullptr) return reader.read(*found->second, dtype_, device_);
    const at::Tensor lora_a = reader.read(*a, at::kFloat, device_),
                     lora_b = reader.read(*b, at::kFloat, device_);
    check_shape(b->name, {shape[0], lora_a.size(0)}, lora_b.sizes());
    check_shape(a->name, {lora_b.size(1), shape[1]}, lora_a.sizes());
    factors_used += 2;
    at::Tensor merged = reader.read(*found->second, at::kFloat, device_);
    merged.add_(at::mm(lora_b, lora_a), adapter_scale);  // in fp32, rounded once
    return merged.to(dtype_);
  });
  if (factors_used != adapter.size()) {
    throw Error("ERR_CFT_BAD_WEIGHTS", "the adapter holds " + std::to_string(adapter.size()) +
                                           " tensors, but only " + std::to_string(factors_used) +
                                           " belong to modules of this model");
  }
}

Model::Model(ModelConfig config, const std::unordered_map<std::string, at::Tensor>& tensors)
    : config_(std::move(config)) {
  build([&](const std::string& name, const std::vector<int64_t>& shape) {
    const at::Tensor& tensor = tensors.at(name);
    check_shape(name, shape, tensor.sizes());
    device_ = tensor.device();
    dtype_ = tensor.scalar_type();
    return tensor;
  });
}

int64_t Model::parameter_count() const {
  int64_t count = 0;
  for (const auto& [name, tensor] : parameters_) count += tensor.numel();
  return count;
}

}  // namespace cft
