// The rollout engine in little memory: batches shrink and branches make way, and what was decoded stays.
#include <doctest.h>

#include "core/errors.h"
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

int64_t page_bytes(Model& model) {
  RolloutEngine engine(model, 1, {});
  engine.add_trunk({1}, 1, 0, nullptr);
  return engine.used_bytes();
}

// A trunk that a model without end tokens continues itself, from {1, 2, 3, 4} on.
std::vector<int32_t> own_text(Model& model, int64_t tokens) {
  RolloutEngine engine(model, 1, {});
  std::vector<int32_t> ids{1, 2, 3, 4};
  engine.submit({{1, engine.add_trunk(ids, 4, 0, nullptr), 4, {}, tokens}});
  const BranchResult own = drain(engine).at(1);
  ids.insert(ids.end(), own.token_ids.begin(), own.token_ids.end());
  return ids;
}

}  // namespace

TEST_CASE("a batch that does not fit the memory shrinks, and every branch gets its tokens") {
  Model model = cft_test::random_model(cft_test::Structure::kQwen2);
  Results expected;
  RolloutEngine free_engine(model, 64, {kEnd});
  const std::vector<BranchSpec> specs = counterfactuals(free_engine, some_ids(40, 67), 4, 90);
  free_engine.submit(specs);
  expected = drain(free_engine);
  const int64_t trunk_bytes = free_engine.used_bytes();  // one page
  REQUIRE(trunk_bytes > 0);
  for (const int64_t pages : {3, 5, 12}) {
    RolloutEngine engine(model, {64, {kEnd}, pages * trunk_bytes});
    engine.submit(counterfactuals(engine, some_ids(40, 67), 4, 90));
    CHECK(same(expected, drain(engine)));
    CHECK(engine.used_bytes() == trunk_bytes);
  }
  // Not even one branch, and not even a trunk.
  RolloutEngine tight(model, {64, {kEnd}, trunk_bytes});
  tight.submit(counterfactuals(tight, some_ids(40, 67), 4, 90));
  CHECK_THROWS_WITH_AS(tight.step(100), doctest::Contains("no room"), cft::Error);
  CHECK_THROWS_AS(tight.add_trunk({1, 2}, 2, 0, nullptr), cft::Error);
}

TEST_CASE("memory: no branch fails or waits for room that only a draft wants") {
  Model model = cft_test::random_model(cft_test::Structure::kQwen2);
  const std::vector<int32_t> ids = own_text(model, 120);  // two pages
  const int64_t page = page_bytes(model);
  for (const int64_t branches : {1, 2}) {
    RolloutEngine engine(model, {2, {}, (2 + branches) * page});
    const int64_t trunk = engine.add_trunk(ids, 4, 0, nullptr);
    std::vector<BranchSpec> specs;
    for (int64_t i = 0; i < branches; ++i) {
      BranchSpec spec{i, trunk, 4, {ids[4]}, 119};
      spec.draft = true;
      specs.push_back(spec);
    }
    engine.submit(specs);
    // A page holds 64 positions, and what is decoded last has none.
    int64_t decoded = 0, accepted = 0;
    while (decoded < 62 * branches) {
      const cft::StepResult step = engine.step(1);
      CHECK(step.active == branches);
      CHECK(step.waiting == 0);
      decoded += static_cast<int64_t>(step.tokens.size());
      accepted += step.accepted;
      REQUIRE(step.steps == 1);
    }
    CHECK(accepted > 20);
  }
}

TEST_CASE("memory: tokens that were decoded before it ran out are told") {
  Model model = cft_test::random_model(cft_test::Structure::kQwen2);
  const std::vector<int32_t> ids = own_text(model, 120);
  const int64_t page = page_bytes(model);
  RolloutEngine engine(model, {1, {}, 4 * page});
  const int64_t held = engine.add_trunk({1, 2}, 2, 0, nullptr);
  const int64_t trunk = engine.add_trunk({1, 2, 3, 4}, 4, 0, nullptr);
  const int64_t another = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  engine.submit({{1, trunk, 4, {}, 120}});
  std::vector<int32_t> told;
  const auto note = [&](const cft::StepResult& step) {
    told.insert(told.end(), step.tokens.begin(), step.tokens.end());
  };
  note(engine.step(1000));
  CHECK(told.size() == 64);
  CHECK_THROWS_WITH_AS(engine.step(1000), doctest::Contains("no room"), cft::Error);
  CHECK_THROWS_WITH_AS(engine.step(1000), doctest::Contains("no room"), cft::Error);
  // Whoever gives back trunks may go on.
  engine.release_trunk(held);
  engine.release_trunk(another);
  const cft::StepResult rest = engine.step(1000);
  note(rest);
  REQUIRE(rest.finished.size() == 1);
  CHECK(told == rest.finished[0].token_ids);
  CHECK(told == std::vector<int32_t>(ids.begin() + 4, ids.end()));
}

TEST_CASE("memory: a branch that does not fit alone makes way for one that goes first") {
  Model model = cft_test::random_model(cft_test::Structure::kQwen2);
  for (const int64_t max_steps : {1, 1000}) {
    RolloutEngine engine(model, {1, {}, 3 * page_bytes(model)});
    const int64_t first = engine.add_trunk({1, 2}, 2, 0, nullptr);
    const int64_t second = engine.add_trunk({1, 2, 3, 4}, 4, 0, nullptr);
    BranchSpec late{2, second, 4, {}, 100};
    late.priority = 2;
    engine.submit({late});
    std::vector<int32_t> told;
    while (told.size() < 64) {
      const cft::StepResult step = engine.step(1);
      told.insert(told.end(), step.tokens.begin(), step.tokens.end());
    }
    // What the first trunk's verdicts ask for comes after it has begun.
    BranchSpec early{1, first, 2, {5}, 10};
    early.priority = 1;
    engine.submit({early});
    Results results;
    for (int calls = 0; calls < 200 && results.size() < 2; ++calls) {
      const cft::StepResult step = engine.step(max_steps);
      for (size_t i = 0; i < step.tokens.size(); ++i)
        if (step.token_branches[i] == 2) told.push_back(step.tokens[i]);
      for (const BranchResult& branch : step.finished) {
        results[branch.id] = branch;
        if (branch.id == 1) engine.release_trunk(first);
      }
    }
    REQUIRE(results.size() == 2);
    CHECK(results.at(1).token_ids.size() == 10);
    CHECK(results.at(2).token_ids == told);
    const std::vector<int32_t> ids = own_text(model, 100);
    CHECK(told == std::vector<int32_t>(ids.begin() + 4, ids.end()));
  }
}

TEST_CASE("memory: a cancelled branch is in no new trunk's way") {
  Model model = cft_test::random_model(cft_test::Structure::kQwen2);
  RolloutEngine engine(model, {1, {}, 3 * page_bytes(model)});
  const int64_t trunk = engine.add_trunk({1, 2}, 2, 0, nullptr);
  engine.submit({{1, trunk, 2, {}, 50}});
  CHECK(engine.step(3).active == 1);
  engine.cancel({1});
  engine.release_trunk(trunk);
  CHECK_NOTHROW(engine.add_trunk(some_ids(180, 67), 180, 0, nullptr));  // three pages
}

TEST_CASE("memory: a new trunk leaves room for the next branch of one that is between two of them") {
  Model model = cft_test::random_model(cft_test::Structure::kQwen2);
  RolloutEngine engine(model, {1, {}, 4 * page_bytes(model)});
  const int64_t first = engine.add_trunk({1, 2}, 2, 0, nullptr);
  engine.submit({{1, first, 2, {}, 100}});  // two pages
  CHECK(drain(engine).size() == 1);
  // A verdict on that one will ask for another.
  const int64_t second = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  CHECK_THROWS_WITH_AS(engine.add_trunk({1, 2, 4}, 3, 0, nullptr), doctest::Contains("no room"), cft::Error);
  engine.submit({{2, first, 2, {5}, 100}});
  CHECK(drain(engine).at(2).token_ids.size() == 100);
  engine.release_trunk(first);
  engine.release_trunk(second);
  // Nothing is held: what was long once is in nobody's way.
  CHECK_NOTHROW(engine.add_trunk(some_ids(100, 67), 100, 0, nullptr));
  CHECK_NOTHROW(engine.add_trunk({1, 2}, 2, 0, nullptr));
}
