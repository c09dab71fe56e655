// What a prefill says about a trunk's own tokens.
#pragma once
#include <ATen/ATen.h>

#include "core/rollout/types.h"

namespace cft {

// Appends log-probabilities and k alternatives of own[0..rows) under logits (rows, vocab), fp32.
void score_rows(const at::Tensor& logits, const int32_t* own, int64_t k, TrunkScores* scores);

}  // namespace cft
