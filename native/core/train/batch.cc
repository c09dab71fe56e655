#include "core/train/batch.h"

#include <cmath>
#include <limits>
#include <string>

#include "core/errors.h"

namespace cft {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error("ERR_CFT_BAD_DATA", "training batch: " + what);
}

std::string item(const char* field, size_t index, int64_t value) {
  return std::string(field) + "[" + std::to_string(index) + "] = " + std::to_string(value);
}

void check_size(const char* field, size_t found, size_t expected) {
  if (found != expected) {
    refuse(std::string(field) + " has " + std::to_string(found) + " values, expected " +
           std::to_string(expected) + ", one per selected position");
  }
}

}  // namespace

void check_batch(const TrainBatch& batch, const ModelConfig& config) {
  const auto tokens = static_cast<int64_t>(batch.token_ids.size());
  const std::string vocabulary = "a token id from 0 to " + std::to_string(config.vocab_size - 1);
  for (size_t i = 0; i < batch.token_ids.size(); ++i) {
    if (batch.token_ids[i] < 0 || batch.token_ids[i] >= config.vocab_size) {
      refuse(item("tokenIds", i, batch.token_ids[i]) + ", expected " + vocabulary);
    }
  }
  const auto& starts = batch.sequence_starts;
  if (starts.empty() || starts.front() != 0 || starts.back() != tokens) {
    refuse("sequenceStarts must begin with 0 and end with the number of tokens, " + std::to_string(tokens));
  }
  for (size_t i = 1; i < starts.size(); ++i) {
    if (starts[i] <= starts[i - 1]) {
      refuse(item("sequenceStarts", i, starts[i]) + ", expected more than " + std::to_string(starts[i - 1]));
    }
  }
  constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();
  if (batch.first_token < 0 || batch.first_token > kMostTokens) {
    refuse("firstToken = " + std::to_string(batch.first_token) + ", expected a number from 0 to " +
           std::to_string(kMostTokens));
  }
  check_size("targets", batch.targets.size(), batch.selected.size());
  check_size("weights", batch.weights.size(), batch.selected.size());
  for (size_t i = 0; i < batch.selected.size(); ++i) {
    const int64_t lowest = i == 0 ? 0 : batch.selected[i - 1] + 1;
    if (batch.selected[i] < lowest || batch.selected[i] >= tokens) {
      refuse(item("selected", i, batch.selected[i]) + ", expected ascending positions from 0 to " +
             std::to_string(tokens - 1));
    }
    if (batch.targets[i] < 0 || batch.targets[i] >= config.vocab_size) {
      refuse(item("targets", i, batch.targets[i]) + ", expected " + vocabulary);
    }
    if (!std::isfinite(batch.weights[i]) || batch.weights[i] < 0) {
      refuse("weights[" + std::to_string(i) + "] = " + std::to_string(batch.weights[i]) +
             ", expected a finite number of at least 0");
    }
  }
}

TrainBatch prune_batch(const TrainBatch& batch) {
  TrainBatch pruned;
  pruned.sequence_starts = {0};
  pruned.selected.reserve(batch.selected.size());
  pruned.targets = batch.targets;
  pruned.weights = batch.weights;
  pruned.dropout_counter = batch.dropout_counter;
  pruned.first_token = batch.first_token;
  size_t next = 0;  // first selected position that is not placed yet
  for (size_t s = 0; s + 1 < batch.sequence_starts.size() && next < batch.selected.size(); ++s) {
    const int64_t start = batch.sequence_starts[s];
    const int64_t stop = batch.sequence_starts[s + 1];
    if (batch.selected[next] >= stop) continue;
    const int64_t shift = pruned.sequence_starts.back() - start;
    for (; next < batch.selected.size() && batch.selected[next] < stop; ++next) {
      pruned.selected.push_back(batch.selected[next] + shift);
    }
    const auto first = batch.token_ids.begin() + start;
    const auto last = batch.token_ids.begin() + batch.selected[next - 1] + 1;
    pruned.token_ids.insert(pruned.token_ids.end(), first, last);
    pruned.sequence_starts.push_back(static_cast<int64_t>(pruned.token_ids.size()));
  }
  return pruned;
}

std::vector<TrainBatch> split_batch(const TrainBatch& batch, int64_t parts) {
  std::vector<TrainBatch> all;
  const auto& starts = batch.sequence_starts;
  const int64_t tokens = starts.back();
  size_t term = 0;
  for (size_t s = 0; s + 1 < starts.size();) {
    // The part ends with the sequence that reaches its share, or the nearest before it.
    const auto number = static_cast<int64_t>(all.size()) + 1;
    const int64_t goal = tokens * number / parts;
    size_t end = s + 1;
    while (end + 1 < starts.size() && (number >= parts || starts[end + 1] + starts[end] <= 2 * goal)) ++end;
    TrainBatch part;
    const int64_t first = starts[s], last = starts[end];
    part.token_ids.assign(batch.token_ids.begin() + first, batch.token_ids.begin() + last);
    for (size_t i = s; i <= end; ++i) part.sequence_starts.push_back(starts[i] - first);
    for (; term < batch.selected.size() && batch.selected[term] < last; ++term) {
      part.selected.push_back(batch.selected[term] - first);
      part.targets.push_back(batch.targets[term]);
      part.weights.push_back(batch.weights[term]);
    }
    part.dropout_counter = batch.dropout_counter;
    part.first_token = batch.first_token + first;
    all.push_back(std::move(part));
    s = end;
  }
  return all;
}

}  // namespace cft
