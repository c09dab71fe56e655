#include "core/compute_thread.h"

#include <utility>

namespace cft {

ComputeThread& ComputeThread::instance() {
  static ComputeThread* thread =
      new ComputeThread;  // never destroyed: environments may outlive static destructors
  return *thread;
}

void ComputeThread::attach() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (users_++ == 0) thread_ = std::thread([this, generation = generation_] { loop(generation); });
}

void ComputeThread::detach(const void* owner) {
  std::thread ending;
  std::deque<Item> dropped;  // destroyed after the lock: a job may own a model
  {
    std::unique_lock<std::mutex> lock(mutex_);
    std::deque<Item> kept;
    for (Item& item : queue_) (item.owner == owner ? dropped : kept).push_back(std::move(item));
    queue_.swap(kept);
    idle_.wait(lock, [&] { return running_ != owner; });
    if (--users_ == 0) {
      ++generation_;
      wake_.notify_all();
      ending = std::move(thread_);
    }
  }
  if (ending.joinable()) ending.join();
}

void ComputeThread::post(const void* owner, std::function<void()> run) {
  const std::lock_guard<std::mutex> lock(mutex_);
  queue_.push_back({owner, std::move(run)});
  wake_.notify_one();
}

void ComputeThread::loop(uint64_t generation) {
  for (;;) {
    Item item;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation != generation_ || !queue_.empty(); });
      if (generation != generation_) return;
      item = std::move(queue_.front());
      queue_.pop_front();
      running_ = item.owner;
    }
    item.run();
    item.run = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      running_ = nullptr;
    }
    idle_.notify_all();
  }
}

}  // namespace cft
