// What the trainer trains on: packed sequences without padding, and the positions whose next token counts.
#pragma once
#include <cstdint>
#include <vector>

#include "core/model/config.h"

namespace cft {

// N tokens, S sequences, M selected positions.
struct TrainBatch {
  std::vector<int32_t> token_ids;        // (N), sequence after sequence
  std::vector<int64_t> sequence_starts;  // (S + 1), first 0, last N
  std::vector<int64_t> selected;  // (M) packed positions whose NEXT token is trained, ascending strictly
  std::vector<int64_t> targets;   // (M) the token to predict there
  std::vector<float> weights;     // (M) at least 0; loss = sum(weights * nll)
  uint64_t dropout_counter = 0;   // of the step; LoRA dropout depends on it and the seed
  int64_t first_token = 0;        // number of the first token in the step; dropout depends on it too
};

// Throws Error ERR_CFT_BAD_DATA that names the field and the index.
void check_batch(const TrainBatch& batch, const ModelConfig& config);

// The batch without what cannot reach its loss: tokens after the last selected position of their sequence and
// sequences without one. Exact, since attention is causal; the selected positions keep their order.
TrainBatch prune_batch(const TrainBatch& batch);

// The batch in at most `parts` parts of about equally many tokens, sequences whole and in order.
std::vector<TrainBatch> split_batch(const TrainBatch& batch, int64_t parts);

}  // namespace cft
