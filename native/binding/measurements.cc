// The model's methods that measure for the benchmarks.
#include <c10/core/GradMode.h>

#include "binding/convert.h"
#include "binding/environment.h"
#include "binding/model.h"
#include "core/measure/device_memory.h"
#include "core/measure/gemm_limit.h"

namespace cft::binding {
namespace {

int64_t rows_of(const Napi::Value& value) {
  return value.IsNumber() ? value.As<Napi::Number>().Int64Value() : 0;
}

// work(model) on the compute thread; fill(object, what it measured) makes the result.
template <class Work, class Fill>
Napi::Value measure(Napi::Env env, std::shared_ptr<Model> model, Work work, Fill fill) {
  return run(
      env,
      [model = std::move(model), work = std::move(work)] {
        const c10::NoGradGuard no_grad;
        return work(*model);
      },
      [fill](Napi::Env env, auto& measured) -> Napi::Value {
        Napi::Object result = Napi::Object::New(env);
        fill(result, measured);
        return result;
      });
}

void fill_limit(Napi::Object& result, const GemmLimit& limit) {
  result.Set("tokensPerSecond", limit.tokens_per_second);
  result.Set("steps", static_cast<double>(limit.steps));
  result.Set("kernel", limit.kernel);
}

}  // namespace

Napi::Value ModelHandle::gemm_limit(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    return measure(
        env, need(), [rows = rows_of(info[0])](Model& model) { return cft::gemm_limit(model, rows); },
        fill_limit);
  });
}

Napi::Value ModelHandle::train_gemm_limit(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    return measure(
        env, need(),
        [rows = rows_of(info[0]), head_rows = rows_of(info[1])](Model& model) {
          return cft::train_gemm_limit(model, rows, head_rows);
        },
        fill_limit);
  });
}

Napi::Value ModelHandle::device_limits(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    return measure(
        env, need(), [](Model& model) { return cft::device_limits(model); },
        [](Napi::Object& result, const DeviceLimits& limits) {
          result.Set("flopsPerSecond", limits.flops_per_second);
          result.Set("bytesPerSecond", limits.bytes_per_second);
        });
  });
}

Napi::Value ModelHandle::peak_device_bytes(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&]() -> Napi::Value {
    return Napi::Number::New(env, static_cast<double>(cft::peak_device_bytes(need()->device())));
  });
}

}  // namespace cft::binding
