// The rollout engine with its device loop, kernels under the emulator, against the engine over the reference
// backend. With a GPU the same cases run once more on the real thing ("CUDA: ...").
#include "core/rollout/device/device_loop.h"

#include "core/errors.h"
#include "test/emulator/device_work.h"

#ifdef CFT_CUDA
#include <c10/cuda/CUDAFunctions.h>
#endif

using namespace device_test;

TEST_CASE("emulated device loop: tokens of the reference engine for every structure of model") {
  compare_structures(kEmulated);
}

TEST_CASE("emulated device loop: sampled and greedy branches in one batch as in the reference engine") {
  compare_sampling(kEmulated);
}

TEST_CASE("emulated device loop: arenas grow, batches shrink through the buckets") {
  compare_growth(kEmulated);
}

TEST_CASE("emulated device loop: bf16 agrees with the reference engine on most branches") {
  const Work work = random_work(5, 40, 6);
  const Results expected = reference(Structure::kQwen3, work, {kEnd}, at::kBFloat16);
  Model model = kEmulated.model(Structure::kQwen3, at::kBFloat16);
  RolloutEngine engine(model, {9, {kEnd}, 0, false, kEmulated.parts(model)});
  put(engine, work);
  CHECK(differing(expected, drain(engine)) <= static_cast<int>(expected.size()) / 3);
}

TEST_CASE("emulated device loop: steps are captured once per bucket, and the host waits once per look") {
  Model model = kEmulated.model(Structure::kLlama);
  const auto parts = std::make_shared<const emulated::Parts>(at::kFloat);
  RolloutEngine engine(model, {4, {}, 0, false, parts});
  const int64_t trunk = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  engine.submit({{1, trunk, 3, {}, 16}, {2, trunk, 2, {4}, 16}, {3, trunk, 1, {5}, 16}});
  const int64_t before = parts->on->synchronized;
  const cft::StepResult step = engine.step(100);
  CHECK(step.finished.size() == 3);
  CHECK(step.steps == 16);
  CHECK(step.rows == 48);
  CHECK(step.tokens.size() == 48);
  CHECK(parts->on->captured == 1);
  CHECK(parts->on->replayed == 15);
  CHECK(parts->on->synchronized - before == 1);
  // Again, with the same bucket: nothing is captured.
  engine.submit({{4, trunk, 3, {}, 5}, {5, trunk, 2, {4}, 5}, {6, trunk, 1, {5}, 5}});
  CHECK(engine.step(100).steps == 5);
  CHECK(parts->on->captured == 1);
}

TEST_CASE(
    "emulated device loop: a batch that does not fit the memory shrinks, and every branch gets its tokens") {
  const Work work = random_work(17, 30, 24);
  const Results expected = reference(Structure::kQwen2, work, {kEnd});
  Model model = kEmulated.model(Structure::kQwen2);
  int64_t trunks = 0;
  for (const auto& ids : work.trunks) trunks += static_cast<int64_t>(ids.size());
  for (const int64_t room : {28, 60, 150}) {  // positions beside the trunks; a branch takes up to 27
    CAPTURE(room);
    RolloutEngine engine(model,
                         {8, {kEnd}, (trunks + room) * position_bytes(model), false, kEmulated.parts(model)});
    put(engine, work);
    CHECK(differing(expected, drain(engine)) <= kTies);
    CHECK(engine.used_bytes() <= (trunks + room) * position_bytes(model));
  }
  // Not even one branch, and not even a trunk.
  RolloutEngine tight(model, {8, {}, 20 * position_bytes(model), false, kEmulated.parts(model)});
  const int64_t trunk = tight.add_trunk({1, 2, 3, 4}, 4, 0, nullptr);
  tight.submit({{1, trunk, 4, {}, 40}});
  CHECK_THROWS_WITH_AS(for (int i = 0; i < 10; ++i) tight.step(100), doctest::Contains("no room"),
                       cft::Error);
  CHECK_THROWS_WITH_AS(tight.add_trunk(std::vector<int32_t>(21, 1), 21, 0, nullptr),
                       doctest::Contains("no room"), cft::Error);
}

TEST_CASE("emulated device loop: memory that is refused although it was planned makes the batch smaller") {
  const Work work = random_work(19, 20, 14);
  const Results expected = reference(Structure::kLlama, work, {kEnd});
  Model model = kEmulated.model(Structure::kLlama);
  // In elements: an arena of 15 slots of 16 positions has 7,680, its second size twice that; the step's
  // largest buffer of 15 rows 1,280.
  for (const int64_t largest : {8000, 1100}) {
    CAPTURE(largest);
    auto parts = std::make_shared<emulated::Parts>(at::kFloat);
    RolloutEngine engine(model, {15, {kEnd}, 0, false, parts});
    const std::shared_ptr<emulated::Runtime> on = parts->on;
    Work some = work;
    const auto late = std::move(some.branches);
    some.branches.clear();
    put(engine, some);  // trunks 1, 2, 3
    on->largest = largest;
    std::vector<BranchSpec> specs = late;
    for (BranchSpec& spec : specs) spec.trunk += 1;
    engine.submit(specs);
    CHECK(differing(expected, drain(engine)) <= kTies);
  }
}

TEST_CASE("emulated device loop: whichever allocation is refused, the run goes on") {
  const Work work = random_work(29, 20, 8, /*sampled=*/true);
  const Results expected = reference(Structure::kLlama, work, {kEnd});
  Model model = kEmulated.model(Structure::kLlama);
  for (const int64_t refuse : {0, 5, 9, 24}) {
    CAPTURE(refuse);
    auto parts = std::make_shared<emulated::Parts>(at::kFloat);
    parts->first_capacity = 4;
    RolloutEngine engine(model, {15, {kEnd}, 0, false, parts});
    put(engine, work);
    parts->on->refuse = refuse;
    CHECK(differing(expected, drain(engine)) <= kTies);
    CHECK(parts->on->refuse < 0);
  }
  // A trunk that is refused once can be added afterwards; those before it are whole.
  for (int64_t refuse = 1; refuse < 6; ++refuse) {
    auto parts = std::make_shared<emulated::Parts>(at::kFloat);
    RolloutEngine engine(model, {3, {kEnd}, 0, false, parts});
    engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
    parts->on->refuse = refuse;
    const std::vector<int32_t> longer(500, 7);  // three of them make the pool grow
    int refused = 0;
    for (int i = 0; i < 3; ++i) {
      try {
        engine.add_trunk(longer, 500, 0, nullptr);
      } catch (const cft::Error& error) {
        REQUIRE(std::string(error.code()) == "ERR_CFT_OUT_OF_MEMORY");
        ++refused;
      }
    }
    CHECK(refused <= 1);
    engine.submit({{1, 1, 3, {}, 6}});
    const Work alone{{{1, 2, 3}}, {{1, 0, 3, {}, 6}}};
    CHECK(differing(reference(Structure::kLlama, alone, {kEnd}), drain(engine)) <= kTies);
  }
}

TEST_CASE("emulated device loop: trunks come and go while branches run") {
  Model model = kEmulated.model(Structure::kMistral);
  const int64_t budget = 260 * position_bytes(model);
  RolloutEngine engine(model, {6, {kEnd}, budget, false, kEmulated.parts(model)});
  Model plain = cft_test::random_model(Structure::kMistral, at::kFloat, false, kDim);
  RolloutEngine expected(plain, {6, {kEnd}, 0, true});
  Random random(23);
  Results found, wanted;
  std::vector<std::pair<int64_t, int64_t>> open;
  Streamed streamed;
  const auto collect = [&](Results& results, const cft::StepResult& step) {
    for (size_t i = 0; i < step.tokens.size(); ++i)
      streamed[step.token_branches[i]].push_back(step.tokens[i]);
    for (const BranchResult& branch : step.finished) results[branch.id] = branch;
  };
  for (int64_t round = 0; round < 14; ++round) {
    const std::vector<int32_t> ids = random.ids(5 + random.below(30));
    const auto length = static_cast<int64_t>(ids.size());
    int64_t trunk = 0;
    for (;;) {
      try {
        trunk = engine.add_trunk(ids, length, 0, nullptr);
        break;
      } catch (const cft::Error& error) {
        REQUIRE(std::string(error.code()) == "ERR_CFT_OUT_OF_MEMORY");
        REQUIRE_MESSAGE(!open.empty(), "no memory although nothing is there");
        collect(found, engine.step(3));
        engine.release_trunk(open.front().first);
        open.erase(open.begin());
      }
    }
    const int64_t other = expected.add_trunk(ids, length, 0, nullptr);
    BranchSpec a{2 * round, trunk, 1 + random.below(length), random.ids(1), 1 + random.below(20)};
    BranchSpec b{2 * round + 1, trunk, length, {}, 1 + random.below(9)};
    engine.submit({a, b});
    a.trunk = b.trunk = other;
    expected.submit({a, b});
    open.emplace_back(trunk, length);
    collect(found, engine.step(2));
    if (round % 3 == 2) {
      engine.release_trunk(open.front().first);
      open.erase(open.begin());
    }
  }
  for (auto& [id, branch] : drain(engine, 100, streamed)) found[id] = branch;
  CHECK(differing(drain(expected), found) <= kTies);
}

TEST_CASE("emulated device loop: cancelled branches give no result and leave the others as they are") {
  Model model = kEmulated.model(Structure::kOlmo2);
  RolloutEngine engine(model, {2, {}, 0, false, kEmulated.parts(model)});
  const int64_t trunk = engine.add_trunk({1, 2, 3, 4}, 4, 0, nullptr);
  engine.submit(
      {{1, trunk, 4, {}, 30}, {2, trunk, 3, {5}, 30}, {3, trunk, 2, {6}, 30}, {4, trunk, 1, {7}, 3}});
  const cft::StepResult first = engine.step(4);
  CHECK(first.active == 2);
  CHECK(first.waiting == 2);
  CHECK(first.steps == 4);
  engine.cancel({1, 3});  // one active, one waiting
  engine.release_trunk(trunk);
  Results results;
  for (;;) {
    const cft::StepResult step = engine.step(5);
    for (const int64_t id : step.token_branches) CHECK((id == 2 || id == 4));
    for (const BranchResult& branch : step.finished) results[branch.id] = branch;
    if (step.active + step.waiting == 0) break;
  }
  const Work alone{{{1, 2, 3, 4}}, {{2, 0, 3, {5}, 30}, {4, 0, 1, {7}, 3}}};
  CHECK(differing(reference(Structure::kOlmo2, alone, {}), results) <= kTies);
}

TEST_CASE("emulated device loop: a cancelled branch is in no new trunk's way") {
  Model model = kEmulated.model(Structure::kLlama);
  const int64_t position = cft::KvLayout(model.config(), at::kFloat).position_bytes();
  RolloutEngine engine(model, {1, {}, 200 * position, false, kEmulated.parts(model)});
  const int64_t trunk = engine.add_trunk({1, 2}, 2, 0, nullptr);
  engine.submit({{1, trunk, 2, {}, 50}});
  CHECK(engine.step(3).active == 1);
  engine.cancel({1});
  engine.release_trunk(trunk);
  CHECK_NOTHROW(engine.add_trunk(std::vector<int32_t>(190, 5), 190, 0, nullptr));
}

TEST_CASE(
    "emulated device loop: a new trunk leaves room for the next branch of one that is between two of them") {
  Model model = kEmulated.model(Structure::kLlama);
  const int64_t position = cft::KvLayout(model.config(), at::kFloat).position_bytes();
  RolloutEngine engine(model, {1, {}, 60 * position, false, kEmulated.parts(model)});
  const int64_t first = engine.add_trunk({1, 2}, 2, 0, nullptr);
  engine.submit({{1, first, 2, {5}, 50}});
  CHECK(drain(engine).size() == 1);
  // A verdict on that one will ask for another, which needs 50 positions.
  const int64_t second = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  CHECK_THROWS_WITH_AS(engine.add_trunk({1, 2, 4, 5, 6, 7}, 6, 0, nullptr), doctest::Contains("no room"),
                       cft::Error);
  engine.submit({{2, first, 2, {5}, 50}});
  CHECK(drain(engine).at(2).token_ids.size() == 50);
  engine.release_trunk(first);
  engine.release_trunk(second);
  // Nothing is held: what was long once is in nobody's way.
  CHECK_NOTHROW(engine.add_trunk(std::vector<int32_t>(40, 5), 40, 0, nullptr));
  CHECK_NOTHROW(engine.add_trunk({1, 2}, 2, 0, nullptr));
}

// Room for 60 positions, 20 of which a trunk holds that no branch needs.
struct HeldMemory {
  Model model = kEmulated.model(Structure::kLlama);
  RolloutEngine engine{model,
                       {1,
                        {},
                        60 * cft::KvLayout(model.config(), at::kFloat).position_bytes(),
                        false,
                        kEmulated.parts(model)}};
  const std::pair<int64_t, int64_t> trunks{engine.add_trunk(std::vector<int32_t>(20, 7), 20, 0, nullptr),
                                           engine.add_trunk({1, 2, 3, 4}, 4, 0, nullptr)};
};

TEST_CASE("emulated device loop: a branch that does not fit alone makes way for one that goes first") {
  HeldMemory memory;
  const auto& [held, trunk] = memory.trunks;
  RolloutEngine& engine = memory.engine;
  BranchSpec late{2, trunk, 4, {}, 50};
  late.priority = 2;
  engine.submit({late});
  int64_t told = 0;
  while (told < 30) told += static_cast<int64_t>(engine.step(1).tokens.size());
  BranchSpec early{1, held, 3, {5}, 10};
  early.priority = 1;
  engine.submit({early});
  Results results;
  for (int calls = 0; calls < 200 && results.size() < 2; ++calls) {
    for (const BranchResult& branch : engine.step(4).finished) {
      results[branch.id] = branch;
      if (branch.id == 1) engine.release_trunk(held);
    }
  }
  REQUIRE(results.size() == 2);
  const Work alone{{std::vector<int32_t>(20, 7), {1, 2, 3, 4}}, {{1, 0, 3, {5}, 10}, {2, 1, 4, {}, 50}}};
  CHECK(differing(reference(Structure::kLlama, alone, {}), results) <= kTies);
}

TEST_CASE("emulated device loop: tokens that were decoded before memory ran out are told") {
  HeldMemory memory;
  const auto& [held, trunk] = memory.trunks;
  RolloutEngine& engine = memory.engine;
  engine.submit({{1, trunk, 4, {}, 50}});
  std::vector<int32_t> told;
  bool refused = false;
  for (int calls = 0; calls < 10; ++calls) {
    try {
      const cft::StepResult step = engine.step(1000);
      told.insert(told.end(), step.tokens.begin(), step.tokens.end());
      if (step.finished.empty()) continue;
      CHECK(refused);
      CHECK(told == step.finished[0].token_ids);
      return;
    } catch (const cft::Error&) {
      CHECK(!told.empty());
      refused = true;
      engine.release_trunk(held);
    }
  }
  FAIL("the branch does not come to an end");
}

TEST_CASE("emulated device loop: lower priority numbers go first, equal ones in the order of submission") {
  Model model = kEmulated.model(Structure::kLlama);
  RolloutEngine engine(model, {1, {}, 0, false, kEmulated.parts(model)});
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

TEST_CASE("emulated device loop: an end token at once, budgets of one and none, interrupts") {
  Model model = kEmulated.model(Structure::kLlama);
  const Work work{{{1, 2, 3}}, {{1, 0, 3, {}, 5}}};
  const int32_t token = reference(Structure::kLlama, work, {}).at(1).token_ids[0];
  RolloutEngine engine(model, {3, {token}, 0, false, kEmulated.parts(model)});
  const int64_t trunk = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  engine.submit(
      {{1, trunk, 3, {}, 5}, {2, trunk, 3, {}, 1}, {3, trunk, 3, {4, 5}, 0}, {4, trunk, 2, {3}, 1}});
  engine.interrupt();
  CHECK(engine.step(10).steps == 0);
  const Results results = drain(engine);
  CHECK(results.size() == 4);
  for (const int64_t id : {1, 2, 4}) {
    CHECK(results.at(id).token_ids.empty());
    CHECK(results.at(id).end_token_id == token);
  }
  CHECK(results.at(3).end_token_id == -1);
}

TEST_CASE("emulated device loop: damaged weights are an error that names the branch, greedy or sampled") {
  const Work whole{{{1, 2, 3}}, {{8, 0, 3, {6}, 4}}};
  const std::vector<int32_t> tokens = reference(Structure::kQwen2, whole, {}).at(8).token_ids;
  int32_t damaged = 7;  // a token that the whole branch does not meet
  while (std::count(tokens.begin(), tokens.end(), damaged) > 0) ++damaged;
  for (const double temperature : {0.0, 1.0}) {
    Model model = kEmulated.model(Structure::kQwen2);
    model.parameters()[0].second.select(0, damaged).fill_(NAN);  // its embedding
    RolloutEngine engine(model, {3, {}, 0, false, kEmulated.parts(model)});
    const int64_t trunk = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
    engine.submit({{7, trunk, 3, {damaged}, 4, temperature}});
    CHECK_THROWS_WITH_AS(engine.step(10), doctest::Contains("branch 7: expected logits, found only NaN"),
                         cft::Error);
    engine.cancel({7});
    engine.submit({{8, trunk, 3, {6}, 4}});
    CHECK(drain(engine).at(8).token_ids == tokens);
  }
}

TEST_CASE("emulated device loop: changed weights drop trunks instead of mixing two models") {
  Model model = kEmulated.model(Structure::kLlama);
  RolloutEngine engine(model, {2, {}, 0, false, kEmulated.parts(model)});
  const int64_t trunk = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  engine.submit({{1, trunk, 3, {}, 30}});
  engine.step(3);
  model.weights_changed();
  CHECK_THROWS_AS(engine.step(1), cft::Error);
  CHECK_THROWS_AS(engine.submit({{1, trunk, 3, {}, 5}}), cft::Error);
  const int64_t fresh = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  engine.submit({{1, fresh, 3, {}, 5}});
  CHECK(drain(engine).at(1).token_ids.size() == 5);
}

TEST_CASE("emulated device loop: scores of a trunk are the reference's") {
  Random random(3);
  const std::vector<int32_t> ids = random.ids(50);
  cft::TrunkScores found, expected;
  Model model = kEmulated.model(Structure::kQwen3);
  RolloutEngine(model, {2, {}, 0, false, kEmulated.parts(model)}).add_trunk(ids, 7, 3, &found);
  RolloutEngine(model, {2, {}, 0, true}).add_trunk(ids, 7, 3, &expected);
  CHECK(found.log_probs == expected.log_probs);
  CHECK(found.alternative_ids == expected.alternative_ids);
  CHECK(found.alternative_log_probs == expected.alternative_log_probs);
  CHECK(found.log_probs.size() == 43);
}

TEST_CASE("device loop: memory is planned from what is free, and nothing left is an error") {
  Model model = kEmulated.model(Structure::kLlama);
  auto parts = std::make_shared<emulated::Parts>(at::kFloat);
  parts->on->free = 1 << 20;
  RolloutEngine small(model, {4096, {}, 0, false, parts});
  const int64_t trunk = small.add_trunk({1, 2, 3}, 3, 0, nullptr);
  std::vector<BranchSpec> specs;
  for (int64_t id = 0; id < 30; ++id) specs.push_back({id, trunk, 3, {}, 3});
  small.submit(specs);
  CHECK(drain(small).size() == 30);
  CHECK(small.used_bytes() < 1 << 18);
  parts->on->free = 1000;
  RolloutEngine none(model, {4096, {}, 0, false, parts});
  CHECK_THROWS_WITH_AS(none.add_trunk({1, 2, 3}, 3, 0, nullptr), doctest::Contains("no memory is left"),
                       cft::Error);
}

TEST_CASE("device loop: shapes that the kernels do not take are served by the host's loop") {
  Model model = cft_test::random_model(Structure::kLlama);  // head_dim 12
  const auto parts = std::make_shared<const emulated::Parts>(at::kFloat);
  RolloutEngine engine(model, {2, {}, 0, false, parts});
  const int64_t trunk = engine.add_trunk({1, 2, 3}, 3, 0, nullptr);
  engine.submit({{1, trunk, 3, {}, 5}});
  CHECK(drain(engine).at(1).token_ids.size() == 5);
  CHECK(parts->on->synchronized == 0);
}

#ifdef CFT_CUDA
namespace {

bool no_gpu() {
  if (c10::cuda::device_count() > 0) return false;
  MESSAGE("no GPU: nothing compared");
  return true;
}

const Device kGpu{at::kCUDA, [](const Model& model) {
                    auto parts = std::make_shared<cft::DeviceParts>(*cft::cuda_parts(model));
                    parts->chunk_positions = 64;
                    parts->first_capacity = 16;
                    return parts;
                  }};

}  // namespace

TEST_CASE("CUDA: the device loop gives the CPU reference's tokens for every structure of model") {
  if (no_gpu()) return;
  compare_structures(kGpu);
}

TEST_CASE("CUDA: the device loop samples as the CPU reference does") {
  if (no_gpu()) return;
  compare_sampling(kGpu);
}

TEST_CASE("CUDA: the device loop's arenas grow, its batches shrink through the buckets") {
  if (no_gpu()) return;
  compare_growth(kGpu);
}

TEST_CASE("CUDA: the device loop in bf16 agrees with the CPU reference on most branches") {
  if (no_gpu()) return;
  const Work work = random_work(5, 40, 6);
  const Results expected = reference(Structure::kQwen3, work, {kEnd}, at::kBFloat16);
  Model model = kGpu.model(Structure::kQwen3, at::kBFloat16);
  RolloutEngine engine(model, 9, {kEnd});  // as the addon makes it, memory planned from what is free
  put(engine, work);
  CHECK(differing(expected, drain(engine)) <= static_cast<int>(expected.size()) / 2);
}

TEST_CASE("CUDA: a batch that does not fit the memory shrinks, and every branch gets its tokens") {
  if (no_gpu()) return;
  const Work work = random_work(17, 30, 24);
  const Results expected = reference(Structure::kQwen2, work, {kEnd});
  Model model = kGpu.model(Structure::kQwen2);
  for (const int64_t positions : {120, 200}) {
    RolloutEngine engine(model, {8, {kEnd}, positions * position_bytes(model), false, kGpu.parts(model)});
    put(engine, work);
    CHECK(differing(expected, drain(engine)) <= kTies);
  }
}
#endif
