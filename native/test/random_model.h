// Tiny random models, one per structure that the decoder knows.
#pragma once
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/model/model.h"

namespace cft_test {

enum class Structure { kLlama, kQwen2, kQwen3, kOlmo2, kMistral };
constexpr Structure kStructures[] = {Structure::kLlama, Structure::kQwen2, Structure::kQwen3,
                                     Structure::kOlmo2, Structure::kMistral};

// Weights are drawn in the order of the names; head_dim is not hidden / heads on purpose.
// `widened` gives fp32 tensors that hold the values of `dtype`. `device`: where they lie.
inline cft::Model random_model(Structure structure, at::ScalarType dtype = at::kFloat, bool widened = false,
                               int64_t head_dim = 12, at::Device device = at::kCPU) {
  cft::ModelConfig c;
  c.vocab_size = 67;
  c.hidden_size = 24;
  c.intermediate_size = 40;
  c.layers = 3;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = head_dim;
  c.max_positions = 512;
  c.tie_word_embeddings = structure == Structure::kLlama;
  c.qkv_bias = structure == Structure::kQwen2;
  c.qk_norm = structure == Structure::kQwen3   ? cft::QkNorm::kHead
              : structure == Structure::kOlmo2 ? cft::QkNorm::kProjection
                                               : cft::QkNorm::kNone;
  c.norm_placement = structure == Structure::kOlmo2 ? cft::NormPlacement::kPost : cft::NormPlacement::kPre;
  cft::Rope rope;
  const auto half = static_cast<int>(head_dim / 2);
  for (int i = 0; i < half; ++i)
    rope.inverse_frequencies.push_back(std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half)));
  c.ropes = {rope};
  c.rope_of_layer = {0, 0, 0};
  // A window that ends inside the trunk, inside the suffix, and none.
  c.window_of_layer =
      structure == Structure::kMistral ? std::vector<int64_t>{5, 9, 0} : std::vector<int64_t>{0, 0, 0};

  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(17);
  std::unordered_map<std::string, at::Tensor> tensors;
  auto add = [&](const std::string& name, std::vector<int64_t> shape, double mean, double deviation) {
    tensors[name] = at::empty(shape, at::kFloat)
                        .normal_(mean, deviation, generator)
                        .to(dtype)
                        .to(device, widened ? at::kFloat : dtype);
  };
  auto linear = [&](const std::string& path, int64_t out, int64_t in, bool bias) {
    add(path + ".weight", {out, in}, 0.0, 0.25);
    if (bias) add(path + ".bias", {out}, 0.0, 0.3);
  };
  add("model.embed_tokens.weight", {c.vocab_size, c.hidden_size}, 0.0, 0.6);
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".", attention = layer + "self_attn.";
    linear(attention + "q_proj", c.heads * c.head_dim, c.hidden_size, c.qkv_bias);
    linear(attention + "k_proj", c.kv_heads * c.head_dim, c.hidden_size, c.qkv_bias);
    linear(attention + "v_proj", c.kv_heads * c.head_dim, c.hidden_size, c.qkv_bias);
    linear(attention + "o_proj", c.hidden_size, c.heads * c.head_dim, false);
    const bool per_head = c.qk_norm == cft::QkNorm::kHead;
    add(attention + "q_norm.weight", {per_head ? c.head_dim : c.heads * c.head_dim}, 1.0, 0.2);
    add(attention + "k_norm.weight", {per_head ? c.head_dim : c.kv_heads * c.head_dim}, 1.0, 0.2);
    linear(layer + "mlp.gate_proj", c.intermediate_size, c.hidden_size, false);
    linear(layer + "mlp.up_proj", c.intermediate_size, c.hidden_size, false);
    linear(layer + "mlp.down_proj", c.hidden_size, c.intermediate_size, false);
    for (const char* norm : {"input_layernorm", "post_attention_layernorm", "post_feedforward_layernorm"}) {
      add(layer + norm + ".weight", {c.hidden_size}, 1.0, 0.2);
    }
  }
  add("model.norm.weight", {c.hidden_size}, 1.0, 0.2);
  add("lm_head.weight", {c.vocab_size, c.hidden_size}, 0.0, 0.6);
  return cft::Model(c, tensors);
}

}  // namespace cft_test
