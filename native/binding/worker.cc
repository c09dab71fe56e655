#include "binding/worker.h"

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>

#include <mutex>
#include <new>
#include <string>
#include <unordered_map>

#include "binding/environment.h"
#include "core/compute_thread.h"
#include "core/errors.h"

namespace cft::binding {

struct Worker::State {
  Napi::ThreadSafeFunction to_js;
  std::mutex mutex;
  std::unordered_map<uint64_t, std::function<void()>> interrupters;
  uint64_t next_interrupter = 1;
  size_t pending = 0;  // JavaScript thread only: jobs not settled yet
};

namespace {

// Error text without libtorch's C++ stack.
std::string first_line(const char* text) {
  const std::string whole(text);
  return whole.substr(0, whole.find('\n'));
}

Napi::Error make_error(Napi::Env env, const char* code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

}  // namespace

Napi::Error to_js_error(Napi::Env env, const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Napi::Error& error) {
    return error;
  } catch (const cft::Error& error) {
    return make_error(env, error.code(), error.what());
  } catch (const c10::OutOfMemoryError& error) {
    return make_error(env, "ERR_CFT_OUT_OF_MEMORY", first_line(error.what_without_backtrace()));
  } catch (const std::bad_alloc&) {
    return make_error(env, "ERR_CFT_OUT_OF_MEMORY", "the system has no memory left");
  } catch (const c10::Error& error) {
    const std::string message = first_line(error.what_without_backtrace());
    // The CPU allocator reports exhaustion as a plain c10::Error.
    const bool memory = message.find("can't allocate memory") != std::string::npos ||
                        message.find("not enough memory") != std::string::npos;
    return make_error(env, memory ? "ERR_CFT_OUT_OF_MEMORY" : "ERR_CFT_INTERNAL", message);
  } catch (const std::exception& error) {
    return make_error(env, "ERR_CFT_INTERNAL", error.what());
  } catch (...) {
    return make_error(env, "ERR_CFT_INTERNAL", "an exception of an unknown kind");
  }
}

void Worker::attach(Napi::Env env) {
  Environment* environment = Environment::of(env);
  auto state = std::make_shared<State>();
  state->to_js = Napi::ThreadSafeFunction::New(env, Napi::Function(), "cft", 0, 1);
  state->to_js.Unref(
      env);  // referenced only while jobs are pending, so that an idle addon lets the process end
  environment->worker.state_ = state;
  ComputeThread::instance().attach();
  // Hooks run in reverse order, so this one comes before the thread-safe function's own.
  env.AddCleanupHook([state] {
    {
      const std::lock_guard<std::mutex> lock(state->mutex);
      for (auto& [number, interrupt] : state->interrupters) interrupt();
    }
    ComputeThread::instance().detach(state.get());
  });
}

Worker& Worker::of(Napi::Env env) { return Environment::of(env)->worker; }

void Worker::post(Napi::Env env, std::unique_ptr<Job> job) {
  if (state_->pending++ == 0) state_->to_js.Ref(env);
  std::shared_ptr<Job> shared = std::move(job);
  ComputeThread::instance().post(state_.get(), [state = state_, shared] {
    try {
      shared->work();
    } catch (...) {
      shared->failure = std::current_exception();
    }
    shared->work = nullptr;  // what it holds (models, buffers) is freed here, not on the JavaScript thread
    state->to_js.BlockingCall([state, shared](Napi::Env env, Napi::Function) {
      if (env == nullptr) return;
      const Napi::HandleScope scope(env);
      if (--state->pending == 0) state->to_js.Unref(env);
      shared->settle(env, shared->failure);
    });
  });
}

uint64_t Worker::add_interrupter(std::function<void()> interrupt) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->interrupters[state_->next_interrupter] = std::move(interrupt);
  return state_->next_interrupter++;
}

void Worker::remove_interrupter(uint64_t number) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->interrupters.erase(number);
}

}  // namespace cft::binding
