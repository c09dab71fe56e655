// What several threads touch at once: the compute thread's queue, and an engine whose branches come, are
// cancelled and lose their trunks while another thread steps. Run under ThreadSanitizer by
// scripts/test-sanitizers.mjs.
#include <ATen/Parallel.h>
#include <doctest.h>

#include <atomic>
#include <set>
#include <thread>

#include "core/compute_thread.h"
#include "core/errors.h"
#include "core/rollout/cpu/team.h"
#include "core/rollout/engine.h"
#include "random_model.h"

TEST_CASE("threads: jobs of an owner run in order, and none after its detach") {
  cft::ComputeThread queue;
  constexpr int kOwners = 4, kRounds = 30, kJobs = 20;
  std::atomic<int> wrong{0};
  std::vector<std::thread> owners;
  for (int owner = 0; owner < kOwners; ++owner) {
    owners.emplace_back([&queue, &wrong, owner] {
      for (int round = 0; round < kRounds; ++round) {
        queue.attach();
        int done = 0;  // only the compute thread writes it until the detach
        for (int job = 0; job < kJobs; ++job) {
          queue.post(&done, [&done, &wrong, job] { wrong += done++ != job; });
        }
        // Half of the rounds wait for the last job, the others end in the midst of them.
        if ((owner + round) % 2 == 0) {
          std::atomic<bool> last{false};
          queue.post(&done, [&last] { last = true; });
          while (!last) std::this_thread::yield();
          queue.detach(&done);
          wrong += done != kJobs;
        } else {
          queue.detach(&done);
          const int at_detach = done;
          std::this_thread::yield();
          wrong += done != at_detach;
        }
      }
    });
  }
  for (std::thread& owner : owners) owner.join();
  CHECK(wrong == 0);
}

TEST_CASE("threads: an owner that comes while the last one leaves is served") {
  cft::ComputeThread queue;
  std::atomic<int> served{0};
  std::vector<std::thread> owners;
  for (int owner = 0; owner < 3; ++owner) {
    owners.emplace_back([&queue, &served] {
      for (int round = 0; round < 200; ++round) {
        queue.attach();
        std::atomic<bool> ran{false};
        queue.post(&ran, [&ran] { ran = true; });
        while (!ran) std::this_thread::yield();
        queue.detach(&ran);
        ++served;
      }
    });
  }
  for (std::thread& owner : owners) owner.join();
  CHECK(served == 600);
}

TEST_CASE("threads: submit, cancel, release and interrupt while another thread steps") {
  // OpenMP's own threads are not instrumented, so one thread does the arithmetic here.
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  cft::Model model = cft_test::random_model(cft_test::Structure::kQwen2);
  cft::RolloutEngine engine(model, 8, {3});
  constexpr int kTrunks = 12, kBranches = 20;
  std::vector<int64_t> trunks;
  std::mutex mutex;  // of trunks
  std::atomic<bool> ready{false}, ended{false};
  std::set<int64_t> finished;

  // As on the compute thread: trunks are made and steps taken by the same thread.
  std::thread compute([&] {
    for (int t = 0; t < kTrunks; ++t) {
      const int64_t trunk = engine.add_trunk({1, 2, 3, static_cast<int32_t>(4 + t)}, 4, 0, nullptr);
      {
        const std::lock_guard<std::mutex> lock(mutex);
        trunks.push_back(trunk);
      }
      for (const cft::BranchResult& branch : engine.step(3).finished) finished.insert(branch.id);
      std::this_thread::yield();
    }
    ready = true;
    for (;;) {
      const bool last = ended;
      const cft::StepResult step = engine.step(4);
      for (const cft::BranchResult& branch : step.finished) finished.insert(branch.id);
      if (last && step.active + step.waiting == 0) return;
      std::this_thread::yield();
    }
  });
  std::set<int64_t> kept;
  size_t used = 0;
  int64_t id = 0;
  while (used < kTrunks) {
    int64_t trunk = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (used < trunks.size()) trunk = trunks[used];
    }
    if (trunk == 0) continue;
    ++used;
    std::vector<cft::BranchSpec> specs;
    std::vector<int64_t> unwanted;
    for (int b = 0; b < kBranches; ++b, ++id) {
      cft::BranchSpec spec;
      spec.id = id;
      spec.trunk = trunk;
      spec.length = 1 + b % 4;
      spec.forced_tokens = {5 + b};
      spec.max_new_tokens = 1 + b % 7;
      spec.draft = b % 2 == 0;
      spec.priority = b % 3;
      specs.push_back(spec);
      (b % 5 == 4 ? unwanted.push_back(id) : void(kept.insert(id)));
    }
    engine.submit(specs);
    engine.cancel(unwanted);
    engine.release_trunk(trunk);
    engine.interrupt();
    CHECK(engine.used_bytes() >= 0);
  }
  ended = true;
  compute.join();
  CHECK(ready);
  // A cancelled branch may have been finished before the word came; the others all are.
  for (const int64_t wanted : kept) CHECK(finished.count(wanted) == 1);
  CHECK(engine.used_bytes() == 0);
  at::set_num_threads(threads);
}

TEST_CASE("threads: who waits at a barrier is let go when another one has failed") {
  cft::cpu::Barrier barrier;
  barrier.reset(2);
  std::atomic<bool> met{false}, thrown{false};
  std::thread waits([&] {
    try {
      barrier.wait();
      met = true;
      barrier.wait();
    } catch (const cft::cpu::Barrier::Abandoned&) {
      thrown = true;
    }
  });
  barrier.wait();
  barrier.abandon();
  waits.join();
  CHECK(met);
  CHECK(thrown);
  barrier.reset(1);
  barrier.wait();
}
