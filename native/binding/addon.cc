// Entry point of the addon: defines the classes and functions of lib/native/binding.ts.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <napi.h>
#include <sys/resource.h>
#include <torch/version.h>

#include <memory>
#include <string>
#include <utility>

#include "binding/engine.h"
#include "binding/environment.h"
#include "binding/model.h"
#include "binding/trainer.h"
#include "binding/worker.h"
#include "core/ops/cpu/product.h"
#include "core/ops/cpu/train_kernels.h"
#ifdef CFT_CUDA
#include <cuda_runtime_api.h>
#endif

namespace cft::binding {
namespace {

bool fast_bfloat16() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") != 0;  // every CPU with AMX has it too
#else
  return false;
#endif
}

// "2.13.0" of "2.13.0+cpu".
std::string release_of(const std::string& version) { return version.substr(0, version.find('+')); }

Napi::Value info(const Napi::CallbackInfo& call) {
  return guard(call.Env(), [&] {
    const Napi::Env env = call.Env();
    Napi::Object object = Napi::Object::New(env);
    object.Set("libtorch", release_of(TORCH_VERSION));
    object.Set("builtAgainst", release_of(TORCH_VERSION));
#ifdef CFT_CUDA
    object.Set("flavour", "cuda");
#else
    object.Set("flavour", "cpu");
#endif
    object.Set("cpuCapability", at::get_cpu_capability());
    object.Set("cpuKernels", cpu::train_kernels().name);
    object.Set("fastBfloat16", Napi::Boolean::New(env, fast_bfloat16()));
    object.Set("ownProducts", Napi::Boolean::New(env, cpu::multiplies_itself()));
    object.Set("threads", at::get_num_threads());
    return object;
  });
}

Napi::Value cuda_devices(const Napi::CallbackInfo& call) {
  return guard(call.Env(), [&] {
    Napi::Array devices = Napi::Array::New(call.Env());
#ifdef CFT_CUDA
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;  // no driver is no device, not an error
    for (int i = 0; i < count; ++i) {
      cudaDeviceProp properties{};
      if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
      Napi::Object device = Napi::Object::New(call.Env());
      device.Set("index", i);
      device.Set("name", std::string(properties.name));
      device.Set("totalBytes", static_cast<double>(properties.totalGlobalMem));
      device.Set("computeCapability",
                 std::to_string(properties.major) + "." + std::to_string(properties.minor));
      devices.Set(devices.Length(), device);
    }
#endif
    return devices;
  });
}

void set_threads(const Napi::CallbackInfo& call) {
  guard(call.Env(), [&] {
    const int64_t count = call[0].IsNumber() ? call[0].As<Napi::Number>().Int64Value() : 0;
    if (count < 1 || count > 4096) throw Napi::RangeError::New(call.Env(), "threads: expected 1 to 4096");
    // OpenMP keeps the number per calling thread: the compute thread's is the one that counts, this thread's
    // the one that info() reports.
    at::set_num_threads(static_cast<int>(count));
    auto job = std::make_unique<Job>();
    job->work = [count] { at::set_num_threads(static_cast<int>(count)); };
    job->settle = [](Napi::Env, const std::exception_ptr&) {};
    Worker::of(call.Env()).post(call.Env(), std::move(job));
    return 0;
  });
}

Napi::Value peak_memory_bytes(const Napi::CallbackInfo& call) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  const double unit = 1.0;
#else
  const double unit = 1024.0;
#endif
  return Napi::Number::New(call.Env(), static_cast<double>(usage.ru_maxrss) * unit);
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* environment = new Environment;
  env.SetInstanceData(environment);  // deleted by Node-API with the environment
  Worker::attach(env);
  environment->model_class = Napi::Persistent(ModelHandle::define(env));
  environment->engine_class = Napi::Persistent(EngineHandle::define(env));
  environment->trainer_class = Napi::Persistent(TrainerHandle::define(env));
  exports.Set("info", Napi::Function::New<info>(env));
  exports.Set("cudaDevices", Napi::Function::New<cuda_devices>(env));
  exports.Set("setThreads", Napi::Function::New<set_threads>(env));
  exports.Set("peakMemoryBytes", Napi::Function::New<peak_memory_bytes>(env));
  exports.Set("loadModel", Napi::Function::New<&ModelHandle::load>(env));
  exports.Set("createRolloutEngine", Napi::Function::New<&EngineHandle::create>(env));
  exports.Set("createTrainer", Napi::Function::New<&TrainerHandle::create>(env));
  return exports;
}

}  // namespace

NODE_API_MODULE(cft_native, init)

}  // namespace cft::binding
