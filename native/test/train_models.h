// Tiny random models and batches for the trainer's tests.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/io/safetensors.h"
#include "core/model/model.h"
#include "core/train/batch.h"

namespace cft::test {

// Grouped queries, a head_dim that is not hidden / heads, q/k/v bias, norms on queries and keys.
inline ModelConfig tiny_config(bool tied = true) {
  ModelConfig config;
  config.vocab_size = 37;
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 6;
  config.rms_norm_eps = 1e-6;
  config.tie_word_embeddings = tied;
  config.qkv_bias = true;
  config.qk_norm = QkNorm::kHead;
  config.max_positions = 64;
  Rope rope;
  for (int i = 0; i < 3; ++i) rope.inverse_frequencies.push_back(std::pow(100.0f, -i / 3.0f));
  config.ropes = {rope};
  config.rope_of_layer = {0, 0};
  config.window_of_layer = {0, 5};
  return config;
}

inline std::unordered_map<std::string, at::Tensor> random_weights(const ModelConfig& c, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  std::unordered_map<std::string, at::Tensor> weights;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, double spread, double centre) {
    weights[name] = at::empty(shape, at::kFloat).normal_(centre, spread, generator);
  };
  const auto linear = [&](const std::string& path, int64_t out, int64_t in, bool bias) {
    add(path + ".weight", {out, in}, 0.3, 0);
    if (bias) add(path + ".bias", {out}, 0.1, 0);
  };
  add("model.embed_tokens.weight", {c.vocab_size, c.hidden_size}, 0.5, 0);
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    linear(layer + "self_attn.q_proj", c.heads * c.head_dim, c.hidden_size, c.qkv_bias);
    linear(layer + "self_attn.k_proj", c.kv_heads * c.head_dim, c.hidden_size, c.qkv_bias);
    linear(layer + "self_attn.v_proj", c.kv_heads * c.head_dim, c.hidden_size, c.qkv_bias);
    linear(layer + "self_attn.o_proj", c.hidden_size, c.heads * c.head_dim, c.output_bias);
    if (c.qk_norm == QkNorm::kHead) {
      add(layer + "self_attn.q_norm.weight", {c.head_dim}, 0.1, 1);
      add(layer + "self_attn.k_norm.weight", {c.head_dim}, 0.1, 1);
    }
    linear(layer + "mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    linear(layer + "mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    linear(layer + "mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias);
    add(layer + "input_layernorm.weight", {c.hidden_size}, 0.1, 1);
    add(layer + "post_attention_layernorm.weight", {c.hidden_size}, 0.1, 1);
  }
  add("model.norm.weight", {c.hidden_size}, 0.1, 1);
  if (!c.tie_word_embeddings) add("lm_head.weight", {c.vocab_size, c.hidden_size}, 0.3, 0);
  return weights;
}

// The same weights for the same arguments.
inline Model make_model(at::ScalarType dtype = at::kFloat, bool tied = true, uint64_t seed = 1) {
  const ModelConfig config = tiny_config(tied);
  auto weights = random_weights(config, seed);
  for (auto& [name, tensor] : weights) tensor = tensor.to(dtype);
  return Model(config, weights);
}

// Sequences of the given lengths with random tokens; about a third of the positions are selected, the next
// token being the target (a random one after the last), every weight 1 / count.
inline TrainBatch make_batch(const std::vector<int64_t>& lengths, uint64_t seed, int64_t vocab = 37) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  TrainBatch batch;
  batch.sequence_starts = {0};
  for (const int64_t length : lengths) batch.sequence_starts.push_back(batch.sequence_starts.back() + length);
  const int64_t total = batch.sequence_starts.back();
  const at::Tensor ids = at::randint(vocab, {total + 1}, generator, at::TensorOptions(at::kInt));
  const at::Tensor chosen = at::rand({total}, generator, at::TensorOptions(at::kFloat));
  batch.token_ids.assign(ids.const_data_ptr<int32_t>(), ids.const_data_ptr<int32_t>() + total);
  for (int64_t i = 0; i < total; ++i) {
    if (chosen[i].item<float>() > 0.35f) continue;
    batch.selected.push_back(i);
    batch.targets.push_back(ids[i + 1].item<int64_t>());
  }
  batch.weights.assign(batch.selected.size(), 1.0f / static_cast<float>(batch.selected.size()));
  return batch;
}

// A part of a batch: sequences [first, last), weights as they are.
inline TrainBatch slice(const TrainBatch& batch, size_t first, size_t last) {
  TrainBatch part;
  const int64_t begin = batch.sequence_starts[first], end = batch.sequence_starts[last];
  part.token_ids.assign(batch.token_ids.begin() + begin, batch.token_ids.begin() + end);
  for (size_t s = first; s <= last; ++s) part.sequence_starts.push_back(batch.sequence_starts[s] - begin);
  for (size_t i = 0; i < batch.selected.size(); ++i) {
    if (batch.selected[i] < begin || batch.selected[i] >= end) continue;
    part.selected.push_back(batch.selected[i] - begin);
    part.targets.push_back(batch.targets[i]);
    part.weights.push_back(batch.weights[i]);
  }
  return part;
}

// A path that is removed with it.
struct TemporaryPath {
  explicit TemporaryPath(const std::string& name)
      : path((std::filesystem::temp_directory_path() / ("cft-" + std::to_string(::getpid()) + "-" + name))
                 .string()) {}
  ~TemporaryPath() { std::filesystem::remove(path); }
  std::string path;
};

// The table of a file that write_safetensors wrote.
inline std::vector<TensorEntry> read_entries(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  uint64_t size = 0;
  file.read(reinterpret_cast<char*>(&size), sizeof size);
  std::string header(size, ' ');
  file.read(header.data(), static_cast<std::streamsize>(size));
  static const std::regex pattern(
      R"re("([^"]+)":\{"dtype":"(\w+)","shape":\[([\d,]*)\],"data_offsets":\[(\d+),(\d+)\]\})re");
  std::vector<TensorEntry> entries;
  for (std::sregex_iterator match(header.begin(), header.end(), pattern), end; match != end; ++match) {
    TensorEntry entry;
    entry.name = (*match)[1];
    entry.file = path;
    entry.dtype = (*match)[2] == "BF16" ? at::kBFloat16 : at::kFloat;
    const std::string shape = (*match)[3];
    static const std::regex number(R"(\d+)");
    for (std::sregex_iterator n(shape.begin(), shape.end(), number); n != end; ++n) {
      entry.shape.push_back(std::stoll(n->str()));
    }
    const uint64_t first = std::stoull((*match)[4]), last = std::stoull((*match)[5]);
    entry.offset = sizeof size + header.size() + first;
    entry.byte_length = last - first;
    entries.push_back(entry);
  }
  return entries;
}

// True where every bit agrees.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         std::memcmp(a.contiguous().data_ptr(), b.contiguous().data_ptr(), a.nbytes()) == 0;
}

// Largest difference, relative to the largest value of `expected`.
inline double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  const double scale = expected.abs().max().item<double>();
  return (found - expected).abs().max().item<double>() / (scale > 0 ? scale : 1);
}

}  // namespace cft::test
