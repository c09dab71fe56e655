// A prefix whose keys and values are computed once and shared by all its branches.
#pragma once
#include <ATen/ATen.h>

#include <vector>

#include "core/model/model.h"
#include "core/rollout/types.h"

namespace cft {

struct Trunk {
  std::vector<int32_t> token_ids;        // (T)
  std::vector<at::Tensor> keys, values;  // per layer (T, kv_heads, head_dim)
};

// Runs the prefix through the model. scores describes tokens [score_from, T) with k alternatives each;
// score_from = T for none. Throws Error ERR_CFT_BAD_DATA for an empty prefix, ids outside the vocabulary, one
// that is too long, or a score_from outside [1, T].
Trunk prefill_trunk(const Model& model, std::vector<int32_t> token_ids, int64_t score_from,
                    int64_t alternatives, TrunkScores* scores);

}  // namespace cft
