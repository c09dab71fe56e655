#include "binding/model.h"

#include <c10/core/GradMode.h>

#include <numeric>

#include "binding/convert.h"
#include "binding/environment.h"
#include "core/errors.h"
#include "core/model/decoder.h"
#include "core/ops/lanes.h"

namespace cft::binding {
namespace {

// Positions whose logits are turned into scores at once: bounds memory at 256 * vocab floats.
constexpr int64_t kScoreRows = 256;

PackedTokens one_sequence(const Model& model, const std::vector<int32_t>& ids) {
  return PackedTokens::make(model, ids, {0, static_cast<int64_t>(ids.size())});
}

struct Scores {
  std::vector<float> log_probs, entropies;
};

Scores score_sequence(const Model& model, const std::vector<int32_t>& ids) {
  const PackedTokens packed = one_sequence(model, ids);
  const at::Tensor hidden = forward_hidden(model, packed);
  const int64_t count = static_cast<int64_t>(ids.size()) - 1;
  Scores scores;
  for (int64_t first = 0; first < count; first += kScoreRows) {
    const int64_t rows = std::min(kScoreRows, count - first);
    const at::Tensor log_probs = at::log_softmax(forward_head(model, hidden.narrow(0, first, rows)), -1);
    const at::Tensor own =
        log_probs.gather(1, packed.token_ids.narrow(0, first + 1, rows).unsqueeze(1)).squeeze(1);
    // p log p is 0 where p underflows to 0, not NaN.
    const at::Tensor entropy = -(log_probs.exp() * log_probs).nan_to_num(0.0).sum(-1);
    for (float value : host_floats(own)) scores.log_probs.push_back(value);
    for (float value : host_floats(entropy)) scores.entropies.push_back(value);
  }
  return scores;
}

}  // namespace

at::Device parse_device(const std::string& name) {
  if (name == "cpu") return at::kCPU;
#ifdef CFT_CUDA
  if (name.rfind("cuda", 0) == 0 && at::hasCUDA()) return at::Device(name);
#endif
  throw Error("ERR_CFT_NO_DEVICE", "device " + name + ": this build or machine has no such device");
}

Napi::Function ModelHandle::define(Napi::Env env) {
  return DefineClass(
      env, "NativeModel",
      {InstanceMethod<&ModelHandle::logits>("logits"), InstanceMethod<&ModelHandle::scores>("scores"),
       InstanceMethod<&ModelHandle::gemm_limit>("gemmLimit"),
       InstanceMethod<&ModelHandle::train_gemm_limit>("trainGemmLimit"),
       InstanceMethod<&ModelHandle::device_limits>("deviceLimits"),
       InstanceMethod<&ModelHandle::peak_device_bytes>("peakDeviceBytes"),
       InstanceMethod<&ModelHandle::tensor_names>("tensorNames"),
       InstanceMethod<&ModelHandle::tensor_shape>("tensorShape"),
       InstanceMethod<&ModelHandle::save_tensors>("saveTensors"),
       InstanceMethod<&ModelHandle::dispose>("dispose"),
       InstanceAccessor<&ModelHandle::parameter_count>("parameterCount"),
       InstanceAccessor<&ModelHandle::weight_bytes>("weightBytes"),
       InstanceAccessor<&ModelHandle::device>("device"), InstanceAccessor<&ModelHandle::dtype>("dtype"),
       InstanceAccessor<&ModelHandle::weight_version>("weightVersion")});
}

// Called by load() with the core model; JavaScript code cannot construct one.
ModelHandle::ModelHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ModelHandle>(info) {
  if (info.Length() != 1 || !info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "NativeModel cannot be constructed; call loadModel");
  }
  model_ = *info[0].As<Napi::External<std::shared_ptr<Model>>>().Data();
  accounted_bytes_ =
      model_->device().is_cpu() ? model_->parameter_count() * at::elementSize(model_->dtype()) : 0;
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), accounted_bytes_);
}

void ModelHandle::release(Napi::BasicEnv env) {
  if (!model_) return;
  model_.reset();
  Napi::MemoryManagement::AdjustExternalMemory(env, -accounted_bytes_);
}

void ModelHandle::Finalize(Napi::BasicEnv env) { release(env); }

std::shared_ptr<Model> ModelHandle::need() const {
  if (!model_) throw Error("ERR_CFT_DISPOSED", "this model was disposed");
  return model_;
}

std::shared_ptr<Model> ModelHandle::unwrap(const Napi::Value& value) {
  const Napi::Env env = value.Env();
  if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(Environment::of(env)->model_class.Value())) {
    throw Napi::TypeError::New(env, "expected a NativeModel");
  }
  return ModelHandle::Unwrap(value.As<Napi::Object>())->need();
}

Napi::Value ModelHandle::load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    const Napi::Object spec = need_object(info[0], "spec");
    ModelConfig config = need_model_config(spec.Get("config"));
    std::vector<TensorEntry> tensors = need_tensor_entries(spec.Get("tensors"), "tensors");
    const at::Device device = parse_device(need_string(spec, "device"));
    const at::ScalarType dtype = need_string(spec, "dtype") == "bfloat16" ? at::kBFloat16 : at::kFloat;
    std::vector<TensorEntry> adapter;
    double scale = 1.0;
    if (spec.Get("adapter").IsObject()) {
      const Napi::Object lora = spec.Get("adapter").As<Napi::Object>();
      adapter = need_tensor_entries(lora.Get("tensors"), "adapter.tensors");
      scale = need_number(lora, "scale");
    }
    return run(
        env,
        [config = std::move(config), tensors = std::move(tensors), adapter = std::move(adapter), device,
         dtype, scale] {
          const c10::NoGradGuard no_grad;
          return std::make_shared<Model>(config, tensors, device, dtype, adapter, scale);
        },
        [](Napi::Env env, std::shared_ptr<Model>& model) -> Napi::Value {
          return Environment::of(env)->model_class.New(
              {Napi::External<std::shared_ptr<Model>>::New(env, &model)});
        });
  });
}

Napi::Value ModelHandle::logits(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    return run(
        env,
        [model = need(), ids = need_int32s(info[0], "tokenIds")] {
          const c10::NoGradGuard no_grad;
          at::Tensor logits;
          run_one_lane(*model, [&] {
            logits =
                forward_head(*model, forward_hidden(*model, one_sequence(*model, ids))).cpu().contiguous();
          });
          return logits;
        },
        [](Napi::Env env, at::Tensor& logits) -> Napi::Value {
          Napi::Float32Array data = Napi::Float32Array::New(env, static_cast<size_t>(logits.numel()));
          std::memcpy(data.Data(), logits.const_data_ptr<float>(), logits.nbytes());
          Napi::Array shape = Napi::Array::New(env, 2);
          shape.Set(0u, static_cast<double>(logits.size(0)));
          shape.Set(1u, static_cast<double>(logits.size(1)));
          Napi::Object result = Napi::Object::New(env);
          result.Set("data", data);
          result.Set("shape", shape);
          return result;
        });
  });
}

Napi::Value ModelHandle::scores(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    return run(
        env,
        [model = need(), ids = need_int32s(info[0], "tokenIds")] {
          const c10::NoGradGuard no_grad;
          Scores scores;
          run_one_lane(*model, [&] { scores = score_sequence(*model, ids); });
          return scores;
        },
        [](Napi::Env env, Scores& scores) -> Napi::Value {
          Napi::Object result = Napi::Object::New(env);
          result.Set("logProbs", floats(env, scores.log_probs));
          result.Set("entropies", floats(env, scores.entropies));
          return result;
        });
  });
}

Napi::Value ModelHandle::tensor_names(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    Napi::Array names = Napi::Array::New(env);
    for (const auto& [name, tensor] : need()->parameters()) names.Set(names.Length(), name);
    return names;
  });
}

Napi::Value ModelHandle::tensor_shape(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    const std::string wanted = info[0].ToString().Utf8Value();
    const std::shared_ptr<Model> model = need();
    for (const auto& [name, tensor] : model->parameters()) {
      if (name != wanted) continue;
      Napi::Array shape = Napi::Array::New(env);
      for (int64_t size : tensor.sizes()) shape.Set(shape.Length(), static_cast<double>(size));
      return shape;
    }
    throw Error("ERR_CFT_INTERNAL", "the model has no tensor " + wanted);
  });
}

Napi::Value ModelHandle::save_tensors(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    return run(
        env,
        [model = need(), path = info[0].ToString().Utf8Value(), names = need_strings(info[1], "names")] {
          std::vector<std::pair<std::string, at::Tensor>> chosen;
          for (const std::string& wanted : names) {
            for (const auto& [name, tensor] : model->parameters()) {
              if (name == wanted) chosen.emplace_back(name, tensor);
            }
            if (chosen.empty() || chosen.back().first != wanted) {
              throw Error("ERR_CFT_INTERNAL", "the model has no tensor " + wanted);
            }
          }
          return static_cast<double>(write_safetensors(path, chosen));
        },
        [](Napi::Env env, double& bytes) -> Napi::Value { return Napi::Number::New(env, bytes); });
  });
}

Napi::Value ModelHandle::parameter_count(const Napi::CallbackInfo& info) {
  return guard(info.Env(),
               [&] { return Napi::Number::New(info.Env(), static_cast<double>(need()->parameter_count())); });
}

Napi::Value ModelHandle::weight_bytes(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    const std::shared_ptr<Model> model = need();
    const double bytes = static_cast<double>(model->parameter_count()) * at::elementSize(model->dtype());
    return Napi::Number::New(info.Env(), bytes);
  });
}

Napi::Value ModelHandle::device(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] { return Napi::String::New(info.Env(), need()->device().str()); });
}

Napi::Value ModelHandle::dtype(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return Napi::String::New(info.Env(), need()->dtype() == at::kBFloat16 ? "bfloat16" : "float32");
  });
}

Napi::Value ModelHandle::weight_version(const Napi::CallbackInfo& info) {
  return guard(info.Env(),
               [&] { return Napi::Number::New(info.Env(), static_cast<double>(need()->weight_version())); });
}

void ModelHandle::dispose(const Napi::CallbackInfo& info) {
  if (!model_) return;
  // Freeing gigabytes takes more than a millisecond: the last reference goes on the compute thread.
  auto job = std::make_unique<Job>();
  job->work = [model = model_] {};
  job->settle = [](Napi::Env, const std::exception_ptr&) {};
  release(info.Env());
  Worker::of(info.Env()).post(info.Env(), std::move(job));
}

}  // namespace cft::binding
