// Checks and pruning of training batches.
#include <doctest.h>

#include <limits>

#include "core/errors.h"
#include "core/train/batch.h"

using namespace cft;

namespace {

TrainBatch good_batch() {
  TrainBatch batch;
  batch.token_ids = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  batch.sequence_starts = {0, 4, 6, 9};
  batch.selected = {0, 2, 6};
  batch.targets = {2, 4, 8};
  batch.weights = {0.5f, 0.25f, 0.25f};
  batch.dropout_counter = 7;
  batch.first_token = 40;
  return batch;
}

std::string refusal(const TrainBatch& batch) {
  ModelConfig config;
  config.vocab_size = 10;
  try {
    check_batch(batch, config);
  } catch (const Error& error) {
    CHECK(std::string(error.code()) == "ERR_CFT_BAD_DATA");
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a training batch that is not sound is refused by field and index") {
  CHECK(refusal(good_batch()) == "");
  TrainBatch batch = good_batch();
  batch.token_ids[3] = 10;
  CHECK(refusal(batch) == "training batch: tokenIds[3] = 10, expected a token id from 0 to 9");
  batch.token_ids[3] = -1;
  CHECK(refusal(batch) == "training batch: tokenIds[3] = -1, expected a token id from 0 to 9");

  batch = good_batch();
  batch.sequence_starts = {0, 4, 4, 9};
  CHECK(refusal(batch) == "training batch: sequenceStarts[2] = 4, expected more than 4");
  for (const std::vector<int64_t>& starts : {std::vector<int64_t>{}, {1, 9}, {0, 4, 8}}) {
    batch.sequence_starts = starts;
    CHECK(refusal(batch) ==
          "training batch: sequenceStarts must begin with 0 and end with the number of tokens, 9");
  }

  batch = good_batch();
  batch.selected = {0, 0, 6};
  CHECK(refusal(batch) == "training batch: selected[1] = 0, expected ascending positions from 0 to 8");
  batch.selected = {-1, 2, 6};
  CHECK(refusal(batch) == "training batch: selected[0] = -1, expected ascending positions from 0 to 8");
  batch.selected = {0, 2, 9};
  CHECK(refusal(batch) == "training batch: selected[2] = 9, expected ascending positions from 0 to 8");

  batch = good_batch();
  batch.targets[1] = 10;
  CHECK(refusal(batch) == "training batch: targets[1] = 10, expected a token id from 0 to 9");
  batch.targets.pop_back();
  CHECK(refusal(batch) == "training batch: targets has 2 values, expected 3, one per selected position");

  batch = good_batch();
  batch.weights[2] = std::numeric_limits<float>::quiet_NaN();
  CHECK(refusal(batch) == "training batch: weights[2] = nan, expected a finite number of at least 0");
  batch.weights[2] = std::numeric_limits<float>::infinity();
  CHECK(refusal(batch) == "training batch: weights[2] = inf, expected a finite number of at least 0");
  batch.weights[2] = -0.5f;
  CHECK(refusal(batch) == "training batch: weights[2] = -0.500000, expected a finite number of at least 0");
  batch.weights.push_back(1);
  CHECK(refusal(batch) == "training batch: weights has 4 values, expected 3, one per selected position");

  batch = good_batch();
  batch.first_token = -1;
  CHECK(refusal(batch) == "training batch: firstToken = -1, expected a number from 0 to 2147483647");
}

TEST_CASE("pruning drops what cannot reach the loss and keeps the rest in order") {
  const TrainBatch pruned = prune_batch(good_batch());
  CHECK(pruned.token_ids == std::vector<int32_t>{1, 2, 3, 7});
  CHECK(pruned.sequence_starts == std::vector<int64_t>{0, 3, 4});
  CHECK(pruned.selected == std::vector<int64_t>{0, 2, 3});
  CHECK(pruned.targets == std::vector<int64_t>{2, 4, 8});
  CHECK(pruned.weights == std::vector<float>{0.5f, 0.25f, 0.25f});
  CHECK(pruned.dropout_counter == 7);
  CHECK(pruned.first_token == 40);

  TrainBatch last = good_batch();
  last.selected = {8};
  last.targets = {0};
  last.weights = {1};
  CHECK(prune_batch(last).token_ids == std::vector<int32_t>{7, 8, 9});
  CHECK(prune_batch(last).selected == std::vector<int64_t>{2});
}
