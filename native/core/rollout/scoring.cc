#include "core/rollout/scoring.h"

#include <algorithm>
#include <vector>

namespace cft {

void score_rows(const at::Tensor& logits, const int32_t* own, int64_t k, TrunkScores* scores) {
  const at::Tensor log_probs = at::log_softmax(logits, -1);
  // One more than k, because the row's own token may be among them.
  const auto [top_values, top_ids] = at::topk(log_probs, std::min<int64_t>(k + 1, logits.size(1)), -1);
  // Only what is wanted leaves the device: rows of a whole vocabulary would take longer than their forward
  // pass.
  const at::Tensor own_ids = at::tensor(std::vector<int64_t>(own, own + logits.size(0)), at::kLong);
  const at::Tensor own_log_probs = log_probs.gather(1, own_ids.to(logits.device()).unsqueeze(1)).cpu(),
                   values = top_values.cpu().contiguous(), ids = top_ids.cpu().contiguous();
  const float* own_data = own_log_probs.const_data_ptr<float>();
  const float* value_data = values.const_data_ptr<float>();
  const int64_t* id_data = ids.const_data_ptr<int64_t>();
  const int64_t width = ids.size(1);
  for (int64_t row = 0; row < logits.size(0); ++row) {
    scores->log_probs.push_back(own_data[row]);
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
