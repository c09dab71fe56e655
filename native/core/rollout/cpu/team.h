// Threads that go through a forward pass together.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cft::cpu {

// A few threads that meet often. They spin for some microseconds, then let others run: on a busy machine the
// thread that is waited for may not be running at all.
class Barrier {
 public:
  // What wait() throws where somebody will not come.
  struct Abandoned : std::exception {};

  void reset(int64_t size) {
    size_ = size;
    arrived_ = 0;
    abandoned_ = false;
  }

  // By a thread that has failed: the others would wait for it for ever.
  void abandon() { abandoned_.store(true, std::memory_order_release); }

  void wait() {
    if (size_ == 1) return;
    const uint64_t generation = generation_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
      return;
    }
    for (int64_t spins = 0; generation_.load(std::memory_order_acquire) == generation; ++spins) {
      if (abandoned_.load(std::memory_order_acquire)) throw Abandoned();
      if (spins < 4000) {
#if defined(__x86_64__)
        _mm_pause();
#endif
      } else {
        std::this_thread::yield();
      }
    }
  }

 private:
  int64_t size_ = 1;
  std::atomic<int64_t> arrived_{0};
  std::atomic<uint64_t> generation_{0};
  std::atomic<bool> abandoned_{false};
};

// One thread's place in a team. A team of one never waits.
struct Team {
  int64_t rank = 0, size = 1;
  Barrier* barrier = nullptr;

  void meet() const {
    if (size > 1) barrier->wait();
  }
  // This thread's contiguous share of `count` items.
  int64_t begin(int64_t count) const { return count * rank / size; }
  int64_t end(int64_t count) const { return count * (rank + 1) / size; }
};

}  // namespace cft::cpu
