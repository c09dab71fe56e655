#include "test/emulator/emulator.h"

#include <algorithm>
#include <memory>
#include <stdexcept>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kWarp = 32;

// Where a fiber or the scheduler stopped. swapcontext would do, but asks the kernel for the signal mask at
// each switch, which is most of a test's time.
#ifdef __x86_64__
struct Context {
  void* stack = nullptr;
};

// Pushes what a call has to keep, changes stacks, pops it.
extern "C" void cft_switch_stack(void** from, void* to);
asm(R"(
.text
.p2align 4
.globl cft_switch_stack
.hidden cft_switch_stack
.type cft_switch_stack, @function
cft_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cft_switch_stack, .-cft_switch_stack
)");

void switch_to(Context& from, Context& to) { cft_switch_stack(&from.stack, to.stack); }

void prepare(Context& context, char* stack, void (*function)()) {
  // Six registers, the address to return to, and one word that stands for a caller's, so that the stack is
  // aligned as at a call.
  void** top = reinterpret_cast<void**>(stack + kStackBytes) - 8;
  std::fill(top, top + 8, nullptr);
  top[6] = reinterpret_cast<void*>(function);
  context.stack = top;
}
#else
struct Context {
  ucontext_t context{};
};

void switch_to(Context& from, Context& to) { swapcontext(&from.context, &to.context); }

void prepare(Context& context, char* stack, void (*function)()) {
  getcontext(&context.context);
  context.context.uc_stack.ss_sp = stack;
  context.context.uc_stack.ss_size = kStackBytes;
  context.context.uc_link = nullptr;
  makecontext(&context.context, function, 0);
}
#endif

enum class State { kReady, kAtWarpBarrier, kAtBlockBarrier, kDone };

struct Copy {
  void* target;
  const void* source;
  size_t bytes;
};

struct Fiber {
  Context context;
  std::vector<Copy> copies;                  // not committed yet
  std::vector<std::vector<Copy>> in_flight;  // committed groups
  std::unique_ptr<char[]> stack;
  State state = State::kReady;
  bool odd = false;  // which half of `exchanged` the next exchange takes
  Dim3 index;
};

struct Block {
  // Serve every launch, one kernel after the other: to make them anew would take longer than most kernels.
  std::vector<Fiber> fibers;
  size_t count = 0;  // of them in this launch
  // One value per thread, twice: a lane may be at the next exchange while others still read this one's.
  std::vector<uint64_t> exchanged;
  std::vector<unsigned char> shared;
  const std::function<void()>* kernel = nullptr;
  Context scheduler;
  size_t current = 0;
  const void* scheduler_stack = nullptr;  // for AddressSanitizer, which must know every stack
  size_t scheduler_stack_bytes = 0;
};

Block block;

// AddressSanitizer follows a change of stacks only when it is told.
void announce_switch([[maybe_unused]] void** saved, [[maybe_unused]] const void* stack,
                     [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(saved, stack, bytes);
#endif
}

void confirm_switch([[maybe_unused]] void* saved, [[maybe_unused]] const void** stack,
                    [[maybe_unused]] size_t* bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(saved, stack, bytes);
#endif
}

void leave(State state) {
  Fiber& fiber = block.fibers[block.current];
  fiber.state = state;
  void* saved = nullptr;
  announce_switch(&saved, block.scheduler_stack, block.scheduler_stack_bytes);
  switch_to(fiber.context, block.scheduler);
  confirm_switch(saved, &block.scheduler_stack, &block.scheduler_stack_bytes);
}

void enter(size_t number) {
  block.current = number;
  Fiber& fiber = block.fibers[number];
  threadIdx = fiber.index;
  void* saved = nullptr;
  announce_switch(&saved, fiber.stack.get(), kStackBytes);
  switch_to(block.scheduler, fiber.context);
  confirm_switch(saved, nullptr, nullptr);
}

void fiber_main() {
  confirm_switch(nullptr, &block.scheduler_stack, &block.scheduler_stack_bytes);
  for (;;) {
    (*block.kernel)();
    leave(State::kDone);
  }
}

void start(Fiber& fiber) {
  fiber.state = State::kReady;
  fiber.odd = false;
  fiber.copies.clear();
  fiber.in_flight.clear();
}

// Lets every group of `size` threads go on whose living members all wait in `state`. True where there was
// one.
bool release(size_t size, State state) {
  bool any = false;
  for (size_t first = 0; first < block.count; first += size) {
    const auto begin = block.fibers.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = block.fibers.begin() + static_cast<std::ptrdiff_t>(std::min(first + size, block.count));
    if (std::none_of(begin, end, [&](const Fiber& f) { return f.state == state; })) continue;
    if (std::any_of(begin, end, [&](const Fiber& f) { return f.state != state && f.state != State::kDone; }))
      continue;
    for (auto fiber = begin; fiber != end; ++fiber)
      if (fiber->state == state) fiber->state = State::kReady;
    any = true;
  }
  return any;
}

void run_block(Order order) {
  const size_t count = block.count;
  const auto threads = [&] { return block.fibers.begin() + static_cast<std::ptrdiff_t>(count); };
  std::fill(block.shared.begin(), block.shared.end(), static_cast<unsigned char>(0xff));
  std::fill(block.exchanged.begin(), block.exchanged.end(), ~uint64_t{0});
  std::for_each(block.fibers.begin(), threads(), start);
  for (;;) {
    bool ran = false;
    for (size_t i = 0; i < count; ++i) {
      const size_t number = order == Order::kForward ? i : count - 1 - i;
      if (block.fibers[number].state != State::kReady) continue;
      ran = true;
      enter(number);
    }
    if (ran || release(kWarp, State::kAtWarpBarrier) || release(count, State::kAtBlockBarrier)) continue;
    const bool done =
        std::all_of(block.fibers.begin(), threads(), [](const Fiber& f) { return f.state == State::kDone; });
    if (done) return;
    block.fibers.clear();  // they stand in the midst of this kernel
    throw std::runtime_error("the threads of a block wait at different barriers");
  }
}

}  // namespace

void launch(Dim3 grid, Dim3 threads, size_t shared_bytes, Order order, const std::function<void()>& kernel) {
  gridDim = grid;
  blockDim = threads;
  const size_t count = size_t{threads.x} * threads.y * threads.z;
  block.kernel = &kernel;
  block.count = count;
  block.shared = std::vector<unsigned char>(shared_bytes);
  block.exchanged.resize(2 * count);
  while (block.fibers.size() < count) {
    Fiber& fiber = block.fibers.emplace_back();
    fiber.stack.reset(new char[kStackBytes]);
    prepare(fiber.context, fiber.stack.get(), fiber_main);
  }
  for (size_t i = 0; i < count; ++i)
    block.fibers[i].index = {static_cast<unsigned>(i % threads.x),
                             static_cast<unsigned>(i / threads.x % threads.y),
                             static_cast<unsigned>(i / threads.x / threads.y)};
  const size_t blocks = size_t{grid.x} * grid.y * grid.z;
  for (size_t i = 0; i < blocks; ++i) {
    const size_t number = order == Order::kForward ? i : blocks - 1 - i;
    blockIdx = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                static_cast<unsigned>(number / grid.x / grid.y)};
    run_block(order);
  }
}

unsigned char* shared_memory() { return block.shared.data(); }
void sync_warp() { leave(State::kAtWarpBarrier); }
void sync_block() { leave(State::kAtBlockBarrier); }
unsigned lane() { return static_cast<unsigned>(block.current % kWarp); }

const uint64_t* warp_values(uint64_t own) {
  Fiber& fiber = block.fibers[block.current];
  uint64_t* half = block.exchanged.data() + (fiber.odd ? block.count : 0);
  fiber.odd = !fiber.odd;
  half[block.current] = own;
  sync_warp();
  return half + block.current / kWarp * kWarp;
}

uint64_t exchange(uint64_t value, unsigned source) {
  const uint64_t* values = warp_values(value);
  const bool there = source < kWarp && block.current / kWarp * kWarp + source < block.count;
  return there ? values[source] : value;
}

void copy_later(void* target, const void* source, size_t bytes) {
  std::memset(target, 0xff, bytes);  // until it arrives, nobody may read what was there
  block.fibers[block.current].copies.push_back({target, source, bytes});
}

void commit_copies() {
  Fiber& fiber = block.fibers[block.current];
  fiber.in_flight.push_back(std::move(fiber.copies));
  fiber.copies.clear();
}

void wait_copies(size_t pending) {
  Fiber& fiber = block.fibers[block.current];
  for (; fiber.in_flight.size() > pending; fiber.in_flight.erase(fiber.in_flight.begin()))
    for (const Copy& copy : fiber.in_flight.front()) {
      if (copy.source == nullptr)
        std::memset(copy.target, 0, copy.bytes);
      else
        std::memcpy(copy.target, copy.source, copy.bytes);
    }
}

}  // namespace emulator
