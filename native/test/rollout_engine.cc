// The rollout engine against plain re-decoding with the reference forward pass, and against itself at other
// batch sizes.
#include <c10/core/GradMode.h>
#include <doctest.h>

#include "core/errors.h"
#include "core/model/decoder.h"
#include "core/ops/cpu/bf16_tiles.h"
#include "random_model.h"
#include "rollout_cases.h"

namespace {

using cft::BranchResult;
using cft::BranchSpec;
using cft::Model;
using cft::RolloutEngine;
using cft_test::counterfactuals;
using cft_test::drain;
using cft_test::kEnd;
using cft_test::Results;
using cft_test::same;
using cft_test::some_ids;

// Greedy decoding without any cache: the whole sequence again for every token.
BranchResult decode_from_scratch(const Model& model, std::vector<int32_t> ids, int64_t budget,
                                 int32_t end_token, float* smallest_gap) {
  const c10::NoGradGuard no_grad;
  BranchResult result;
  for (int64_t i = 0; i < budget; ++i) {
    const auto packed = cft::PackedTokens::make(model, ids, {0, static_cast<int64_t>(ids.size())});
    const at::Tensor hidden = cft::forward_hidden(model, packed);
    const auto [values, indices] = cft::forward_head(model, hidden.slice(0, -1)).squeeze(0).topk(2);
    *smallest_gap = std::min(*smallest_gap, (values[0] - values[1]).item<float>());
    const int32_t token = static_cast<int32_t>(indices[0].item<int64_t>());
    if (token == end_token) {
      result.end_token_id = token;
      return result;
    }
    result.token_ids.push_back(token);
    ids.push_back(token);
  }
  return result;
}

}  // namespace

TEST_CASE("rollouts equal plain re-decoding for every structure of model") {
  for (const cft_test::Structure structure : cft_test::kStructures) {
    Model model = cft_test::random_model(structure);
    const std::vector<int32_t> ids = some_ids(13, model.config().vocab_size);
    RolloutEngine engine(model, 16, {kEnd});
    const std::vector<BranchSpec> specs = counterfactuals(engine, ids, 4, 12);
    engine.submit(specs);
    const Results results = drain(engine);
    REQUIRE(results.size() == specs.size());
    int compared = 0;
    for (const BranchSpec& spec : specs) {
      std::vector<int32_t> prefix(ids.begin(), ids.begin() + spec.length);
      prefix.insert(prefix.end(), spec.forced_tokens.begin(), spec.forced_tokens.end());
      float gap = 1e9f;
      const BranchResult expected = decode_from_scratch(model, prefix, spec.max_new_tokens, kEnd, &gap);
      if (gap < 1e-4f) continue;  // a near tie may go either way
      ++compared;
      CHECK(results.at(spec.id).token_ids == expected.token_ids);
      CHECK(results.at(spec.id).end_token_id == expected.end_token_id);
    }
    CHECK(compared >= static_cast<int>(specs.size()) * 9 / 10);
  }
}

TEST_CASE("tokens do not depend on the size of the batch, greedy or sampled") {
  for (const double temperature : {0.0, 1.0}) {
    Results expected;
    for (const int64_t concurrency : {1, 7, 16, 64, 200}) {
      Model model = cft_test::random_model(cft_test::Structure::kQwen2);
      RolloutEngine engine(model, concurrency, {kEnd});
      engine.submit(counterfactuals(engine, some_ids(40, model.config().vocab_size), 4, 20, temperature));
      const Results results = drain(engine);
      if (expected.empty()) expected = results;
      CHECK(same(expected, results));
    }
    CHECK(expected.size() == 72);
  }
}

TEST_CASE("entropies of decoded tokens: those of the plain forward pass, the same bits in every batch") {
  for (const double temperature : {0.0, 1.0}) {
    for (const bool reference : {false, true}) {
      Results plain;
      std::map<int64_t, std::vector<float>> expected;
      for (const int64_t concurrency : {1, 7, 64}) {
        Model model = cft_test::random_model(cft_test::Structure::kQwen2);
        RolloutEngine engine(model, {concurrency, {kEnd}, 0, reference});
        const std::vector<int32_t> ids = some_ids(20, model.config().vocab_size);
        std::vector<BranchSpec> specs = counterfactuals(engine, ids, 4, 12, temperature);
        if (plain.empty()) {
          engine.submit(specs);
          plain = drain(engine);
        }
        for (BranchSpec& spec : specs) {
          spec.entropy = spec.id % 3 != 0;
          spec.draft = temperature == 0;
        }
        engine.submit(specs);
        Results results;
        std::map<int64_t, std::vector<float>> entropies;
        for (cft::StepResult step;;) {
          step = engine.step(5);
          REQUIRE(step.entropies.size() == step.tokens.size());
          for (size_t i = 0; i < step.tokens.size(); ++i)
            entropies[step.token_branches[i]].push_back(step.entropies[i]);
          for (const BranchResult& branch : step.finished) results[branch.id] = branch;
          if (step.active + step.waiting == 0) break;
        }
        CHECK(same(plain, results));
        for (const BranchSpec& spec : specs) {
          const std::vector<float>& found = entropies[spec.id];
          REQUIRE(found.size() == results.at(spec.id).token_ids.size());
          for (size_t i = 0; i < found.size(); ++i) {
            CHECK(std::isnan(found[i]) == !spec.entropy);
            if (!spec.entropy || reference) continue;
            const auto first = expected.find(spec.id);
            if (first != expected.end()) CHECK(found[i] == first->second[i]);
          }
          if (!spec.entropy || concurrency != 7) continue;
          std::vector<int32_t> text(ids.begin(), ids.begin() + spec.length);
          text.push_back(spec.forced_tokens[0]);
          for (const int32_t token : results.at(spec.id).token_ids) text.push_back(token);
          const c10::NoGradGuard no_grad;
          const auto packed = cft::PackedTokens::make(model, text, {0, static_cast<int64_t>(text.size())});
          const at::Tensor log_p =
              cft::forward_head(model, cft::forward_hidden(model, packed)).log_softmax(-1);
          const at::Tensor entropy = -(log_p.exp() * log_p).sum(-1);
          for (size_t i = 0; i < found.size(); ++i)
            CHECK(std::abs(entropy[spec.length + static_cast<int64_t>(i)].item<float>() - found[i]) < 1e-4f);
        }
        if (expected.empty()) expected = entropies;
      }
    }
  }
}

TEST_CASE("our kernels and libtorch's operations decode the same tokens") {
  for (const cft_test::Structure structure : cft_test::kStructures) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      // Tiles round activations too; how much that changes is reported by the benchmark, not asserted.
      if (dtype == at::kBFloat16 && cft::cpu::bf16_tiles_work()) continue;
      Model model = cft_test::random_model(structure, dtype);
      Model wide =
          cft_test::random_model(structure, dtype, /*widened=*/true);  // bf16 weights, fp32 arithmetic
      Results results[2];
      for (const bool reference : {false, true}) {
        RolloutEngine engine(reference ? wide : model, {9, {kEnd}, 0, reference});
        engine.submit(counterfactuals(engine, some_ids(34, model.config().vocab_size), 4, 12));
        results[reference] = drain(engine);
      }
      int different = 0;
      for (const auto& [id, branch] : results[0])
        different += branch.token_ids != results[1].at(id).token_ids;
      CHECK(results[0].size() == 60);
      CHECK(different <= 1);  // a near tie may go either way
    }
  }
}

TEST_CASE("bf16 models: tokens do not depend on the size of the batch") {
  for (const cft_test::Structure structure : {cft_test::Structure::kQwen2, cft_test::Structure::kOlmo2}) {
    Model model = cft_test::random_model(structure, at::kBFloat16);
    Results expected;
    for (const int64_t concurrency : {1, 7, 64}) {
      RolloutEngine engine(model, concurrency, {kEnd});
      engine.submit(counterfactuals(engine, some_ids(34, model.config().vocab_size), 4, 12));
      const Results results = drain(engine);
      if (expected.empty()) expected = results;
      CHECK(same(expected, results));
    }
  }
}

TEST_CASE("drafts from the trunk change no token and are often right") {
  for (const cft_test::Structure structure : cft_test::kStructures) {
    Model model = cft_test::random_model(structure);
    // A trunk that the model itself continues, so that substitutions can rejoin it.
    RolloutEngine first(model, 1, {});
    const int64_t start = first.add_trunk({1, 2, 3, 4}, 4, 0, nullptr);
    first.submit({{1, start, 4, {}, 60}});
    std::vector<int32_t> ids{1, 2, 3, 4};
    const BranchResult own = drain(first).at(1);
    ids.insert(ids.end(), own.token_ids.begin(), own.token_ids.end());
    Results expected;
    int64_t accepted = 0;
    for (const bool draft : {false, true}) {
      for (const int64_t concurrency : {1, 3, 200}) {
        RolloutEngine engine(model, concurrency, {kEnd});
        std::vector<BranchSpec> specs = counterfactuals(engine, ids, 4, 30);
        for (size_t i = 0; i < specs.size(); ++i) {
          specs[i].draft = draft;
          if (i % 5 == 0)
            specs[i].forced_tokens = {ids[specs[i].length]};  // the trunk's own token: all right
          if (i % 7 == 0) specs[i].max_new_tokens = 1 + static_cast<int64_t>(i) % 3;
        }
        engine.submit(specs);
        Results results;
        for (;;) {
          const cft::StepResult step = engine.step(1000);
          for (const BranchResult& branch : step.finished) results[branch.id] = branch;
          accepted += step.accepted;
          CHECK(step.accepted <= step.drafted);
          if (!draft) CHECK(step.drafted == 0);
          if (step.active + step.waiting == 0) break;
        }
        if (expected.empty()) expected = results;
        CHECK(same(expected, results));
      }
    }
    CHECK(accepted > 100);
  }
}

TEST_CASE("what a branch or its siblings said before is a draft, too") {
  Model model = cft_test::random_model(cft_test::Structure::kLlama);
  // One after the other; the trunk has nothing to copy from.
  RolloutEngine engine(model, 1, {});
  const int64_t trunk = engine.add_trunk({1, 2, 3, 4}, 4, 0, nullptr);
  std::vector<BranchSpec> specs;
  for (int64_t id = 0; id < 3; ++id) {
    specs.push_back({id, trunk, 4, {}, 60});
    specs.back().draft = true;
  }
  Results results;
  std::vector<int64_t> accepted;
  for (const BranchSpec& spec : specs) {
    engine.submit({spec});
    accepted.push_back(0);
    for (cft::StepResult step; step.finished.empty();) {
      step = engine.step(1);
      accepted.back() += step.accepted;
      if (!step.finished.empty()) results[spec.id] = step.finished.front();
    }
  }
  CHECK(results.at(1).token_ids == results.at(0).token_ids);
  CHECK(results.at(2).token_ids == results.at(0).token_ids);
  // The first three tokens find the place; from there on each step gives more than one token.
  CHECK(accepted[1] > 30);
  CHECK(accepted[2] > 30);
  RolloutEngine plain(model, 1, {});
  plain.submit({{9, plain.add_trunk({1, 2, 3, 4}, 4, 0, nullptr), 4, {}, 60}});
  CHECK(drain(plain).at(9).token_ids == results.at(0).token_ids);
}

TEST_CASE("branches of lower priority numbers go first, equal ones in the order of submission") {
  Model model = cft_test::random_model(cft_test::Structure::kLlama);
  RolloutEngine engine(model, 1, {});
  const int64_t trunk = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  std::vector<BranchSpec> specs;
  for (int64_t id = 0; id < 6; ++id) {
    BranchSpec spec{id, trunk, 3, {}, 2};
    spec.priority = id < 3 ? 5.0 : static_cast<double>(-id);
    specs.push_back(spec);
  }
  engine.submit(specs);
  std::vector<int64_t> order;
  for (;;) {
    const cft::StepResult step = engine.step(1);
    for (const BranchResult& branch : step.finished) order.push_back(branch.id);
    if (step.active + step.waiting == 0) break;
  }
  CHECK(order == std::vector<int64_t>{5, 4, 3, 0, 1, 2});
}

TEST_CASE("random trunks, prompts, budgets and forced tokens: equal to plain re-decoding") {
  Model model = cft_test::random_model(cft_test::Structure::kMistral);
  uint64_t state = 5;
  auto below = [&](int64_t n) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(n));
  };
  int compared = 0;
  for (int round = 0; round < 12; ++round) {
    RolloutEngine engine(model, 1 + below(20), {kEnd});
    std::vector<BranchSpec> specs;
    std::vector<std::vector<int32_t>> prefixes;
    for (int t = 0; t < 3; ++t) {
      std::vector<int32_t> ids;
      for (int64_t i = 0, n = 1 + below(90); i < n; ++i) ids.push_back(static_cast<int32_t>(below(67)));
      const int64_t trunk = engine.add_trunk(ids, static_cast<int64_t>(ids.size()), 0, nullptr);
      for (int b = 0; b < 6; ++b) {
        BranchSpec spec;
        spec.id = static_cast<int64_t>(specs.size());
        spec.trunk = trunk;
        spec.length = 1 + below(static_cast<int64_t>(ids.size()));
        for (int64_t i = 0, n = below(4); i < n; ++i)
          spec.forced_tokens.push_back(static_cast<int32_t>(below(67)));
        spec.max_new_tokens = below(12);
        spec.draft = below(2) == 1;
        spec.priority = static_cast<double>(below(3));
        specs.push_back(spec);
        prefixes.emplace_back(ids.begin(), ids.begin() + spec.length);
        prefixes.back().insert(prefixes.back().end(), spec.forced_tokens.begin(), spec.forced_tokens.end());
      }
    }
    engine.submit(specs);
    const Results results = drain(engine, 1 + below(5));
    REQUIRE(results.size() == specs.size());
    for (const BranchSpec& spec : specs) {
      float gap = 1e9f;
      const BranchResult plain =
          decode_from_scratch(model, prefixes[spec.id], spec.max_new_tokens, kEnd, &gap);
      if (gap < 1e-4f) continue;
      ++compared;
      CHECK(results.at(spec.id).token_ids == plain.token_ids);
      CHECK(results.at(spec.id).end_token_id == plain.end_token_id);
    }
  }
  CHECK(compared > 200);
}

TEST_CASE("sampling depends on the seed") {
  Model model = cft_test::random_model(cft_test::Structure::kQwen2);
  RolloutEngine engine(model, 8, {});
  const int64_t trunk = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  for (int64_t id = 0; id < 3; ++id) {
    BranchSpec spec{id, trunk, 3, {}, 20, 1.0, 1.0, id == 2 ? 7u : 5u};
    engine.submit({spec});
  }
  const Results results = drain(engine);
  CHECK(results.at(0).token_ids == results.at(1).token_ids);
  CHECK(results.at(0).token_ids != results.at(2).token_ids);
}

TEST_CASE("a branch without forced tokens continues its prefix, whatever the trunk holds after it") {
  Model model = cft_test::random_model(cft_test::Structure::kLlama);
  RolloutEngine engine(model, 8, {});
  const int64_t longer = engine.add_trunk({1, 2, 3, 9, 9, 9}, 6, 0, nullptr);
  const int64_t exact = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  const int64_t single = engine.add_trunk({1}, 1, 0, nullptr);
  engine.submit({{1, longer, 3, {}, 10}, {2, exact, 3, {}, 10}, {3, single, 1, {2, 3}, 10}});
  const Results results = drain(engine);
  CHECK(results.at(1).token_ids == results.at(2).token_ids);
  CHECK(results.at(1).token_ids == results.at(3).token_ids);
  CHECK(results.at(1).token_ids.size() == 10);
}

TEST_CASE("budgets: none, one token, and the end token counts") {
  Model model = cft_test::random_model(cft_test::Structure::kLlama);
  RolloutEngine free_engine(model, 8, {});
  const int64_t trunk = free_engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  free_engine.submit({{1, trunk, 3, {}, 0}, {2, trunk, 3, {}, 1}, {3, trunk, 3, {}, 5}});
  const Results results = drain(free_engine);
  CHECK(results.at(1).token_ids.empty());
  CHECK(results.at(1).end_token_id == -1);
  CHECK(results.at(2).token_ids.size() == 1);
  REQUIRE(results.at(3).token_ids.size() == 5);

  // With the third token as the end token, a budget of 3 is just enough and one of 2 is not.
  const std::vector<int32_t>& tokens = results.at(3).token_ids;
  const int32_t end = tokens[2];
  if (tokens[0] != end && tokens[1] != end) {
    RolloutEngine engine(model, 8, {end});
    const int64_t again = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
    engine.submit({{1, again, 3, {}, 3}, {2, again, 3, {}, 2}});
    const Results ended = drain(engine);
    CHECK(ended.at(1).end_token_id == end);
    CHECK(ended.at(1).token_ids.size() == 2);
    CHECK(ended.at(2).end_token_id == -1);
    CHECK(ended.at(2).token_ids.size() == 2);
  }
}

TEST_CASE(
    "trunk scores are the log-probabilities of the forward pass, and alternatives never hold the own token") {
  Model model = cft_test::random_model(cft_test::Structure::kQwen3);
  RolloutEngine engine(model, 8, {});
  const std::vector<int32_t> ids = some_ids(300, model.config().vocab_size);  // more than one block of rows
  cft::TrunkScores scores;
  engine.add_trunk(ids, 5, 3, &scores);
  const c10::NoGradGuard no_grad;
  const auto packed = cft::PackedTokens::make(model, ids, {0, 300});
  const at::Tensor expected =
      at::log_softmax(cft::forward_head(model, cft::forward_hidden(model, packed)), -1);
  REQUIRE(scores.log_probs.size() == 295);
  REQUIRE(scores.alternative_ids.size() == 295 * 3);
  for (size_t i = 0; i < scores.log_probs.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) + 4;
    CHECK(scores.log_probs[i] == doctest::Approx(expected[row][ids[row + 1]].item<float>()).epsilon(1e-5));
    for (int r = 0; r < 3; ++r) {
      const int32_t alternative = scores.alternative_ids[i * 3 + r];
      CHECK(alternative != ids[row + 1]);
      CHECK(scores.alternative_log_probs[i * 3 + r] ==
            doctest::Approx(expected[row][alternative].item<float>()).epsilon(1e-5));
    }
    CHECK(scores.alternative_log_probs[i * 3] >= scores.alternative_log_probs[i * 3 + 1]);
  }
}

TEST_CASE("cancelled branches give no result and leave the others as they are") {
  Model model = cft_test::random_model(cft_test::Structure::kLlama);
  RolloutEngine engine(model, 2, {});
  const int64_t trunk = engine.add_trunk({1, 2, 3, 4}, 4, 0, nullptr);
  engine.submit({{1, trunk, 4, {}, 12}, {2, trunk, 3, {5}, 12}, {3, trunk, 2, {6}, 12}});
  RolloutEngine alone(model, 1, {});
  const int64_t own = alone.add_trunk({1, 2, 3, 4}, 4, 0, nullptr);
  alone.submit({{2, own, 3, {5}, 12}});
  engine.step(4);
  engine.cancel({1, 3});  // one active, one waiting
  engine.release_trunk(trunk);
  const Results results = drain(engine);
  CHECK(results.size() == 1);
  CHECK(same(results, drain(alone)));
  CHECK_THROWS_AS(engine.submit({{9, trunk, 4, {}, 1}}), cft::Error);
}

TEST_CASE("bad branches and trunks are refused and queue nothing") {
  Model model = cft_test::random_model(cft_test::Structure::kLlama);
  RolloutEngine engine(model, 2, {});
  const int64_t trunk = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  const int32_t vocab = static_cast<int32_t>(model.config().vocab_size);
  CHECK_THROWS_AS(engine.submit({{1, trunk, 3, {}, 1}, {1, trunk, 3, {}, 1}}), cft::Error);
  CHECK_THROWS_AS(engine.submit({{1, trunk + 1, 3, {}, 1}}), cft::Error);
  CHECK_THROWS_AS(engine.submit({{1, trunk, 4, {}, 1}}), cft::Error);
  CHECK_THROWS_AS(engine.submit({{1, trunk, 0, {}, 1}}), cft::Error);
  CHECK_THROWS_AS(engine.submit({{1, trunk, 3, {vocab}, 1}}), cft::Error);
  CHECK_THROWS_AS(engine.submit({{1, trunk, 3, {}, model.config().max_positions}}), cft::Error);
  CHECK(drain(engine).empty());
  CHECK_THROWS_AS(engine.add_trunk({}, 1, 0, nullptr), cft::Error);
  CHECK_THROWS_AS(engine.add_trunk({-1}, 1, 0, nullptr), cft::Error);
  CHECK_THROWS_AS(engine.add_trunk({1, 2}, 3, 0, nullptr), cft::Error);
  CHECK_THROWS_AS(RolloutEngine(model, 0, {}), cft::Error);
  CHECK_THROWS_AS(RolloutEngine(model, 1, {vocab}), cft::Error);
}

TEST_CASE("changed weights drop trunks instead of mixing two models") {
  Model model = cft_test::random_model(cft_test::Structure::kLlama);
  RolloutEngine engine(model, 2, {});
  const int64_t trunk = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  engine.submit({{1, trunk, 3, {}, 5}});
  model.weights_changed();
  CHECK_THROWS_AS(engine.step(1), cft::Error);
  CHECK_THROWS_AS(engine.submit({{1, trunk, 3, {}, 5}}), cft::Error);
  const int64_t fresh = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  engine.submit({{1, fresh, 3, {}, 5}});
  CHECK(drain(engine).at(1).token_ids.size() == 5);
}
