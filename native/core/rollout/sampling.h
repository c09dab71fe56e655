// Choosing the next token from one row of logits. Everything depends on the row, the branch's seed and the
// position alone, so that a sample is the same whatever else is in the batch.
#pragma once
#include <cstdint>

namespace cft {

// Uniform in [0, 1) from (seed, position), by the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
double uniform_at(uint64_t seed, uint64_t position);

// A token from softmax(logits / temperature), cut to the smallest set of most probable tokens whose
// probabilities add up to at least top_p; `uniform` in [0, 1) picks it. Never one whose logit is no number;
// -1 where the largest is not finite.
int32_t sample_row(const float* logits, int64_t vocab, double temperature, double top_p, double uniform);

// The largest logit's index, the first of equals, -1 where none is a number; and the entropy of
// softmax(logits) in nats.
struct RowChoice {
  int32_t token = -1;
  float entropy = 0;
};
RowChoice greedy_row(const float* logits, int64_t vocab);

}  // namespace cft
