// NativeTrainer of lib/native/binding.ts.
#pragma once
#include <napi.h>

#include <memory>

#include "core/train/trainer.h"

namespace cft::binding {

class TrainerHandle : public Napi::ObjectWrap<TrainerHandle> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit TrainerHandle(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override;

  // createTrainer(model, options): Promise<NativeTrainer>
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  // The trainer and the model it trains: jobs hold it, so neither dies under a running step.
  struct Core {
    Core(std::shared_ptr<Model> trained, const TrainerOptions& options)
        : model(std::move(trained)), trainer(*model, options) {}
    std::shared_ptr<Model> model;
    Trainer trainer;
  };
  std::shared_ptr<Core> need() const;
  // Runs work(trainer) on the compute thread; the trainer is interrupted where the environment ends
  // meanwhile.
  template <class Work, class Convert>
  Napi::Value post(const Napi::CallbackInfo& info, Work work, Convert convert) const;

  Napi::Value trainable_parameters(const Napi::CallbackInfo& info);
  Napi::Value parts(const Napi::CallbackInfo& info);
  Napi::Value accumulate(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value score(const Napi::CallbackInfo& info);
  Napi::Value gradient(const Napi::CallbackInfo& info);
  Napi::Value parameter_names(const Napi::CallbackInfo& info);
  Napi::Value save_state(const Napi::CallbackInfo& info);
  Napi::Value load_state(const Napi::CallbackInfo& info);
  Napi::Value save_adapter(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);
  std::shared_ptr<Core> release(Napi::BasicEnv env);

  std::shared_ptr<Core> core_;
  int64_t accounted_bytes_ = 0;
};

}  // namespace cft::binding
