// NativeRolloutEngine of lib/native/binding.ts.
#pragma once
#include <napi.h>

#include <memory>

#include "core/rollout/engine.h"

namespace cft::binding {

class EngineHandle : public Napi::ObjectWrap<EngineHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit EngineHandle(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override;

  // createRolloutEngine(model, options): NativeRolloutEngine
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  // The engine and the model it reads: jobs hold it, so neither dies under a running step.
  struct Core {
    std::shared_ptr<Model> model;
    std::unique_ptr<RolloutEngine> engine;
  };
  std::shared_ptr<Core> need() const;
  Napi::Value add_trunk(const Napi::CallbackInfo& info);
  void submit(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  void cancel(const Napi::CallbackInfo& info);
  void release_trunk(const Napi::CallbackInfo& info);
  void interrupt(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<Core> core_;
};

}  // namespace cft::binding
