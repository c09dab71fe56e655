// A model's weights as the CPU kernels read them: in panels, with what is multiplied together side by side.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "core/model/model.h"
#include "core/ops/cpu/kernels.h"

namespace cft::cpu {

struct PackedLayer {
  PackedWeight qkv, o, gate_up, down;
  const float *attention_norm, *mlp_norm;  // (hidden)
  const float *q_norm, *k_norm;            // (head_dim) or (heads * head_dim), null where there is none
};

// One product, by the kernel for the weight's layout.
void linear(const Kernels& kernels, const LinearTask& task);

class PackedModel {
 public:
  // tiles: bf16 products where the model is bf16 (bf16_tiles.h); otherwise fp32 arithmetic.
  PackedModel(const Model& model, const Kernels& kernels, bool tiles);

  // One per model and weight version, shared by its engines and kept with the model.
  static std::shared_ptr<const PackedModel> of(Model& model);
  // Bytes that packing takes beside the model's own weights.
  static int64_t bytes_for(const Model& model);

  const Kernels& kernels() const { return kernels_; }
  const std::vector<PackedLayer>& layers() const { return layers_; }
  const PackedWeight& head() const { return head_; }
  const float* final_norm() const { return final_norm_; }
  void embed(int32_t token, float* out) const;  // (hidden)
  // cos and sin (head_dim / 2 each) of a rotary group at a position below max_positions.
  const float* cos(int64_t rope, int64_t position) const { return angle(rope, position); }
  const float* sin(int64_t rope, int64_t position) const { return angle(rope, position) + half_dim_; }
  // Fills the tables up to a position. Not thread-safe: before the threads start.
  void reach(int64_t position) const;

 private:
  float* allocate(int64_t count);
  PackedWeight pack(const at::Tensor& weight, const at::Tensor& bias);
  PackedWeight pack_gate_up(const at::Tensor& gate_up, const at::Tensor& bias);
  template <class Row>
  PackedWeight pack_rows(int64_t out, int64_t in, const at::Tensor& weight, const at::Tensor& bias,
                         const Row& row_of);
  const float* angle(int64_t rope, int64_t position) const;

  const Kernels& kernels_;
  WeightLayout layout_ = WeightLayout::kFloat;
  int64_t panel_ = 0;
  ModelConfig config_;
  at::Tensor embedding_;
  int64_t half_dim_ = 0;
  std::vector<PackedLayer> layers_;
  PackedWeight head_;
  const float* final_norm_ = nullptr;
  struct Free {
    void operator()(void* p) const;
  };
  std::vector<std::unique_ptr<void, Free>> memory_;
  // Per rotary group, blocks of kAngleBlock positions, [position][cos, sin].
  mutable std::vector<std::vector<std::vector<float>>> angles_;
};

}  // namespace cft::cpu
