// NativeModel of lib/native/binding.ts.
#pragma once
#include <napi.h>

#include <memory>
#include <optional>

#include "core/model/model.h"

namespace cft::binding {

class ModelHandle : public Napi::ObjectWrap<ModelHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit ModelHandle(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override;

  // loadModel(spec): Promise<NativeModel>
  static Napi::Value load(const Napi::CallbackInfo& info);

  // The core model of a JavaScript handle; throws ERR_CFT_DISPOSED, or a TypeError for anything else.
  static std::shared_ptr<Model> unwrap(const Napi::Value& value);

 private:
  std::shared_ptr<Model> need() const;
  Napi::Value logits(const Napi::CallbackInfo& info);
  Napi::Value scores(const Napi::CallbackInfo& info);
  Napi::Value gemm_limit(const Napi::CallbackInfo& info);
  Napi::Value train_gemm_limit(const Napi::CallbackInfo& info);
  Napi::Value device_limits(const Napi::CallbackInfo& info);
  Napi::Value peak_device_bytes(const Napi::CallbackInfo& info);
  Napi::Value tensor_names(const Napi::CallbackInfo& info);
  Napi::Value tensor_shape(const Napi::CallbackInfo& info);
  Napi::Value save_tensors(const Napi::CallbackInfo& info);
  Napi::Value parameter_count(const Napi::CallbackInfo& info);
  Napi::Value weight_bytes(const Napi::CallbackInfo& info);
  Napi::Value device(const Napi::CallbackInfo& info);
  Napi::Value dtype(const Napi::CallbackInfo& info);
  Napi::Value weight_version(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);
  void release(Napi::BasicEnv env);

  std::shared_ptr<Model> model_;
  int64_t accounted_bytes_ = 0;
};

// "cpu", "cuda", "cuda:N" -> device. Throws Error ERR_CFT_NO_DEVICE where this build or machine lacks it.
at::Device parse_device(const std::string& name);

}  // namespace cft::binding
