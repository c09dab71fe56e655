// The process's one compute thread: all tensor work runs there, in the order in which it was posted. OpenMP
// keeps a pool per calling thread, and libtorch's guards are thread-local.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace cft {

class ComputeThread {
 public:
  static ComputeThread& instance();

  // The thread lives while any user is attached, so that nothing of it is left when static objects die.
  void attach();
  // Forgets the queued jobs of `owner`, waits for its running one, and ends the thread with its last user.
  void detach(const void* owner);
  // `run` must not throw. Nothing is run for an owner after its detach.
  void post(const void* owner, std::function<void()> run);

 private:
  struct Item {
    const void* owner;
    std::function<void()> run;
  };

  void loop(uint64_t generation);

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<Item> queue_;
  const void* running_ = nullptr;
  size_t users_ = 0;
  // A thread ends when its generation is over; the next one may start before the last one has ended.
  uint64_t generation_ = 0;
  std::thread thread_;
};

}  // namespace cft
