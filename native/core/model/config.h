// Structural facts of a decoder: one definition for all families. TypeScript reads them off config.json
// (lib/model/config.ts) and checks them; nothing here parses JSON.
#pragma once
#include <cstdint>
#include <vector>

namespace cft {

// Rotary embedding of a group of layers: angle = position * inverse_frequencies[i], cos and sin times
// `scale`.
struct Rope {
  std::vector<float> inverse_frequencies;  // (head_dim / 2)
  float scale = 1.0f;
};

enum class QkNorm { kNone, kHead, kProjection };
enum class NormPlacement { kPre, kPost };

struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  QkNorm qk_norm = QkNorm::kNone;
  NormPlacement norm_placement = NormPlacement::kPre;
  int64_t max_positions = 0;
  std::vector<Rope> ropes;
  std::vector<int64_t> rope_of_layer;    // index into ropes
  std::vector<int64_t> window_of_layer;  // sliding window in tokens, 0 = full attention
};

}  // namespace cft
