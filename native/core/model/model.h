// Weights of one decoder on one device, under their Hugging Face names.
#pragma once
#include <ATen/ATen.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/io/safetensors.h"
#include "core/model/config.h"

namespace cft {

// y = x W^T + b. `path` is the module's name ("model.layers.0.self_attn.q_proj"); bias may be undefined.
struct Linear {
  std::string path;
  at::Tensor weight;  // (out, in)
  at::Tensor bias;    // (out) or undefined
};

struct LayerWeights {
  // Pre-norm families: before attention and before the MLP. Post-norm (OLMo2/3): after attention and after
  // the MLP.
  at::Tensor attention_norm;  // (hidden)
  at::Tensor mlp_norm;        // (hidden)
  Linear q, k, v, o;
  at::Tensor q_norm, k_norm;  // (head_dim) or (heads * head_dim), undefined where the family has none
  Linear gate, up, down;
  // The same memory seen as one matrix, for inference: q, k, v and gate, up above are views into these.
  Linear qkv;      // ((heads + 2 kv_heads) * head_dim, hidden)
  Linear gate_up;  // (2 * intermediate, hidden)
};

class Model {
 public:
  // Copies every tensor that the config calls for to `device` in `dtype`; names that are absent, of another
  // shape or not finite throw Error ERR_CFT_BAD_WEIGHTS. `adapter` entries are a PEFT LoRA, merged: W +=
  // scale * B A.
  Model(ModelConfig config, const std::vector<TensorEntry>& tensors, at::Device device, at::ScalarType dtype,
        const std::vector<TensorEntry>& adapter = {}, double adapter_scale = 1.0);
  // From tensors in memory (tests).
  Model(ModelConfig config, const std::unordered_map<std::string, at::Tensor>& tensors);

  const ModelConfig& config() const { return config_; }
  at::Device device() const { return device_; }
  at::ScalarType dtype() const { return dtype_; }
  int64_t parameter_count() const;

  const at::Tensor& embedding() const { return embedding_; }    // (vocab, hidden)
  const at::Tensor& final_norm() const { return final_norm_; }  // (hidden)
  const Linear& head() const { return head_; }                  // its weight IS embedding() where tied
  const std::vector<LayerWeights>& layers() const { return layers_; }

  // Name and tensor of every weight in a fixed order, without a tied lm_head. The tensors are the model's
  // own: an in-place update changes the model (call weights_changed() after it).
  const std::vector<std::pair<std::string, at::Tensor>>& parameters() const { return parameters_; }

  // Grows when the weights change; whoever packed or cached something from them compares it.
  uint64_t weight_version() const { return weight_version_.load(); }
  void weights_changed() { ++weight_version_; }

  // Whether cached() has something for the present weights.
  bool packed() {
    const std::lock_guard<std::mutex> lock(cache_mutex_);
    return cache_ != nullptr && cache_version_ == weight_version();
  }
  // What make() derived from the weights (packed copies), kept as long as they do not change.
  template <class Derived, class Make>
  std::shared_ptr<const Derived> cached(const Make& make) {
    const std::lock_guard<std::mutex> lock(cache_mutex_);
    if (cache_ == nullptr || cache_version_ != weight_version()) {
      cache_.reset();  // the old one's memory first
      cache_ = std::shared_ptr<const Derived>(make());
      cache_version_ = weight_version();
    }
    return std::static_pointer_cast<const Derived>(cache_);
  }

 private:
  template <class Read>
  void build(const Read& read);

  ModelConfig config_;
  at::Device device_ = at::kCPU;
  at::ScalarType dtype_ = at::kFloat;
  at::Tensor embedding_, final_norm_;
  Linear head_;
  std::vector<LayerWeights> layers_;
  std::vector<std::pair<std::string, at::Tensor>> parameters_;
  std::atomic<uint64_t> weight_version_{1};
  std::mutex cache_mutex_;
  std::shared_ptr<const void> cache_;
  uint64_t cache_version_ = 0;
};

}  // namespace cft
