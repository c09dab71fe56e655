// Work for a rollout engine and the cases that its device loop is compared in with the engine over the
// reference backend, under the emulator and on a GPU.
#pragma once
#include <doctest.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "core/rollout/engine.h"
#include "test/emulator/emulated_device.h"
#include "test/random_model.h"

namespace device_test {

using cft::BranchResult;
using cft::BranchSpec;
using cft::Model;
using cft::RolloutEngine;
using cft_test::Structure;
using Results = std::map<int64_t, BranchResult>;

constexpr int32_t kEnd = 3, kVocab = 67;
constexpr int64_t kDim = 16;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  int64_t below(int64_t n) {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<int64_t>((state_ >> 33) % static_cast<uint64_t>(n));
  }
  std::vector<int32_t> ids(int64_t count) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(below(kVocab)));
    return ids;
  }

 private:
  uint64_t state_;
};

// Work for an engine: branches name trunks by their index.
struct Work {
  std::vector<std::vector<int32_t>> trunks;
  std::vector<BranchSpec> branches;
};

inline Work random_work(uint64_t seed, int64_t longest_trunk, int64_t most_new, bool sampled = false) {
  Random random(seed);
  Work work;
  for (int t = 0; t < 3; ++t) {
    work.trunks.push_back(random.ids(t == 0 ? 1 : 1 + random.below(longest_trunk)));
    for (int b = 0; b < 5; ++b) {
      BranchSpec spec;
      spec.id = static_cast<int64_t>(work.branches.size());
      spec.trunk = t;
      spec.length = 1 + random.below(static_cast<int64_t>(work.trunks.back().size()));
      spec.forced_tokens = random.ids(random.below(4));
      spec.max_new_tokens = random.below(most_new + 1);
      spec.draft = random.below(2) == 1;
      spec.priority = static_cast<double>(random.below(3));
      if (sampled && b > 1) {
        spec.temperature = b == 2 ? 0.7 : 1.3;
        spec.top_p = b == 4 ? 0.8 : 1.0;
        spec.seed = static_cast<uint64_t>(random.below(1000));
      }
      work.branches.push_back(spec);
    }
  }
  return work;
}

inline void put(RolloutEngine& engine, Work work) {
  std::vector<int64_t> trunks;
  for (const auto& ids : work.trunks)
    trunks.push_back(engine.add_trunk(ids, static_cast<int64_t>(ids.size()), 0, nullptr));
  for (BranchSpec& spec : work.branches) spec.trunk = trunks[spec.trunk];
  engine.submit(work.branches);
}

using Streamed = std::map<int64_t, std::vector<int32_t>>;

// Runs to the end, and holds what the steps say against what comes out.
inline Results drain(RolloutEngine& engine, int64_t max_steps = 100, Streamed streamed = {}) {
  Results results;
  for (int calls = 0; calls < 2000; ++calls) {
    const cft::StepResult step = engine.step(max_steps);
    CHECK(step.steps <= max_steps);
    CHECK(step.rows >= static_cast<int64_t>(step.tokens.size()));
    REQUIRE(step.tokens.size() == step.token_branches.size());
    for (size_t i = 0; i < step.tokens.size(); ++i)
      streamed[step.token_branches[i]].push_back(step.tokens[i]);
    for (const BranchResult& branch : step.finished) {
      CHECK(results.count(branch.id) == 0);
      CHECK(branch.token_ids == streamed[branch.id]);
      results[branch.id] = branch;
    }
    if (step.active + step.waiting == 0) return results;
  }
  FAIL("the engine does not come to an end");
  return results;
}

inline int differing(const Results& a, const Results& b) {
  REQUIRE(a.size() == b.size());
  int count = 0;
  for (const auto& [id, x] : a) {
    const BranchResult& y = b.at(id);
    count += x.token_ids != y.token_ids || x.end_token_id != y.end_token_id;
  }
  return count;
}

// A device and models on it.
struct Device {
  at::Device place = at::kCPU;
  std::function<std::shared_ptr<const cft::DeviceParts>(const Model&)> parts;
  Model model(Structure structure, at::ScalarType dtype = at::kFloat) const {
    return cft_test::random_model(structure, dtype, false, kDim, place);
  }
};

inline const Device kEmulated{
    at::kCPU, [](const Model& model) { return std::make_shared<const emulated::Parts>(model.dtype()); }};

inline Results reference(Structure structure, const Work& work, std::vector<int32_t> ends,
                         at::ScalarType dtype = at::kFloat) {
  Model model = cft_test::random_model(structure, dtype, false, kDim);
  RolloutEngine engine(model, {8, std::move(ends), 0, true});
  put(engine, work);
  return drain(engine);
}

// Arithmetic in another order may decide a near tie otherwise: at most one branch of a case.
constexpr int kTies = 1;

inline void compare_structures(const Device& device) {
  for (const Structure structure : cft_test::kStructures) {
    CAPTURE(static_cast<int>(structure));
    const Work work = random_work(11 + static_cast<uint64_t>(structure), 90, 9);
    const Results expected = reference(structure, work, {kEnd, 9});
    for (const int64_t branches : {3, 40}) {
      // Refills with the two structures that differ most.
      if (branches == 3 && structure != Structure::kOlmo2 && structure != Structure::kMistral) continue;
      Model model = device.model(structure);
      RolloutEngine engine(model, {branches, {kEnd, 9}, 0, false, device.parts(model)});
      put(engine, work);
      CHECK(differing(expected, drain(engine, branches == 3 ? 7 : 100)) <= kTies);
    }
  }
}

inline void compare_sampling(const Device& device) {
  const Work work = random_work(31, 40, 14, /*sampled=*/true);
  const Results expected = reference(Structure::kQwen2, work, {kEnd});
  Model model = device.model(Structure::kQwen2);
  for (const int64_t branches : {4, 20}) {
    RolloutEngine engine(model, {branches, {kEnd}, 0, false, device.parts(model)});
    put(engine, work);
    CHECK(differing(expected, drain(engine)) <= kTies);
  }
}

// Suffixes of many arena sizes, batches of many buckets, a prompt fed token by token.
inline void compare_growth(const Device& device) {
  Random random(7);
  Work work{{random.ids(5)}, {}};
  for (int64_t id = 0; id < 7; ++id) {
    BranchSpec spec{id, 0, 1 + id % 5, random.ids(id == 3 ? 20 : id % 3), 2 + 6 * id};
    work.branches.push_back(spec);
  }
  const Results expected = reference(Structure::kLlama, work, {});
  Model model = device.model(Structure::kLlama);
  for (const int64_t branches : {3, 7}) {
    RolloutEngine engine(model, {branches, {}, 0, false, device.parts(model)});
    put(engine, work);
    CHECK(differing(expected, drain(engine)) <= kTies);
  }
}

inline int64_t position_bytes(const Model& model) {
  return cft::KvLayout(model.config(), model.dtype()).position_bytes();
}

}  // namespace device_test
