#include "core/rollout/trunk.h"

#include <algorithm>

#include "core/errors.h"
#include "core/model/decoder.h"

namespace cft {
namespace {

// Rows of logits held at once: bounds memory at 256 * vocab floats.
constexpr int64_t kHeadRows = 256;

void score_rows(const at::Tensor& logits, const int32_t* own, int64_t k, TrunkScores* scores) {
  const at::Tensor log_probs = at::log_softmax(logits, -1);
  // One more than k, because the row's own token may be among them.
  const auto [top_values, top_ids] = at::topk(log_probs, std::min<int64_t>(k + 1, logits.size(1)), -1);
  const at::Tensor all = log_probs.cpu(), values = top_values.cpu().contiguous(),
                   ids = top_ids.cpu().contiguous();
  const float* all_data = all.const_data_ptr<float>();
  const float* value_data = values.const_data_ptr<float>();
  const int64_t* id_data = ids.const_data_ptr<int64_t>();
  const int64_t width = ids.size(1), vocab = logits.size(1);
  for (int64_t row = 0; row < logits.size(0); ++row) {
    scores->log_probs.push_back(all_data[row * vocab + own[row]]);
    int64_t taken = 0;
    for (int64_t i = 0; i < width && taken < k; ++i) {
      if (id_data[row * width + i] == own[row]) continue;
      scores->alternative_ids.push_back(static_cast<int32_t>(id_data[row * width + i]));
      scores->alternative_log_probs.push_back(value_data[row * width + i]);
      ++taken;
    }
  }
}

}  // namespace

Trunk prefill_trunk(const Model& model, std::vector<int32_t> token_ids, int64_t score_from,
                    int64_t alternatives, TrunkScores* scores) {
  const int64_t length = static_cast<int64_t>(token_ids.size());
  if (length > 0 && (score_from < 1 || score_from > length)) {
    throw Error("ERR_CFT_BAD_DATA", "scoreFrom: expected 1 to " + std::to_string(length) + ", found " +
                                        std::to_string(score_from));
  }
  if (alternatives < 0 || alternatives >= model.config().vocab_size) {
    throw Error("ERR_CFT_BAD_DATA", "alternatives: expected 0 to " +
                                        std::to_string(model.config().vocab_size - 1) + ", found " +
                                        std::to_string(alternatives));
  }
  const PackedTokens packed = PackedTokens::make(model, token_ids, {0, length});
  Trunk trunk;
  trunk.token_ids = std::move(token_ids);
  ForwardHooks hooks;
  hooks.keys_values = [&](int64_t, const at::Tensor& keys, const at::Tensor& values) {
    trunk.keys.push_back(keys.contiguous());
    trunk.values.push_back(values.contiguous());
  };
  const at::Tensor hidden = forward_hidden(model, packed, hooks);
  for (int64_t first = score_from; first < length; first += kHeadRows) {
    const int64_t rows = std::min(kHeadRows, length - first);
    // The hidden state at i - 1 predicts token i.
    score_rows(forward_head(model, hidden.narrow(0, first - 1, rows)), trunk.token_ids.data() + first,
               alternatives, scores);
  }
  return trunk;
}

}  // namespace cft
