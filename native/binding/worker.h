// The process's one compute thread and the way back to JavaScript. All tensor work runs there, in the order
// of the calls: OpenMP keeps a pool per calling thread, and libtorch's guards are thread-local.
#pragma once
#include <napi.h>

#include <exception>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

namespace cft::binding {

// Copies an exception into a JavaScript error whose `code` is one of the CftError codes.
Napi::Error to_js_error(Napi::Env env, const std::exception_ptr& exception);

// One job: `work` runs on the compute thread; `settle` afterwards on the JavaScript thread, with the
// exception that `work` threw or null. Where the environment dies first, settle never runs.
struct Job {
  std::function<void()> work;
  std::function<void(Napi::Env, std::exception_ptr)> settle;
  std::exception_ptr failure;
};

// The link of one JavaScript environment (main thread or worker thread) to the compute thread.
class Worker {
 public:
  static void attach(Napi::Env env);  // once per environment, before anything is posted
  static Worker& of(Napi::Env env);

  void post(Napi::Env env, std::unique_ptr<Job> job);

  // Called when the environment is torn down while work may be under way: makes long steps end soon.
  // Returns a number for remove_interrupter.
  uint64_t add_interrupter(std::function<void()> interrupt);
  void remove_interrupter(uint64_t number);

 private:
  friend class Environment;
  struct State;
  std::shared_ptr<State> state_;
};

// Runs work() on the compute thread; the promise resolves with convert(env, its result).
template <class Work, class Convert>
Napi::Promise run(Napi::Env env, Work work, Convert convert) {
  using Result = std::invoke_result_t<Work>;
  static_assert(!std::is_void_v<Result>, "return something to convert");
  auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
  auto result = std::make_shared<std::unique_ptr<Result>>();
  auto job = std::make_unique<Job>();
  job->work = [work = std::move(work), result]() mutable { *result = std::make_unique<Result>(work()); };
  job->settle = [deferred, result, convert = std::move(convert)](Napi::Env env, std::exception_ptr failure) {
    if (failure) {
      deferred->Reject(to_js_error(env, failure).Value());
      return;
    }
    try {
      deferred->Resolve(convert(env, **result));
    } catch (const Napi::Error& error) {
      deferred->Reject(error.Value());
    } catch (...) {
      deferred->Reject(to_js_error(env, std::current_exception()).Value());
    }
  };
  Worker::of(env).post(env, std::move(job));
  return deferred->Promise();
}

// Runs `body` on the JavaScript thread and turns C++ exceptions into JavaScript ones.
template <class Body>
auto guard(Napi::Env env, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js_error(env, std::current_exception());
  }
}

}  // namespace cft::binding
