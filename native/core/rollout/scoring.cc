#include "core/rollout/scoring.h"

#include <algorithm>

namespace cft {

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

}  // namespace cft
