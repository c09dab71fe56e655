#include "binding/trainer.h"

#include "binding/convert.h"
#include "binding/environment.h"
#include "binding/model.h"
#include "core/errors.h"

namespace cft::binding {
namespace {

std::vector<int64_t> need_positions(const Napi::Object& batch, const char* field) {
  const std::vector<int32_t> values = need_int32s(batch.Get(field), field);
  return std::vector<int64_t>(values.begin(), values.end());
}

TrainBatch need_batch(const Napi::Value& value) {
  const Napi::Object object = need_object(value, "batch");
  TrainBatch batch;
  batch.token_ids = need_int32s(object.Get("tokenIds"), "tokenIds");
  batch.sequence_starts = need_positions(object, "sequenceStarts");
  batch.selected = need_positions(object, "selected");
  batch.targets = need_positions(object, "targets");
  batch.weights = need_floats(object.Get("weights"), "weights");
  batch.dropout_counter = static_cast<uint64_t>(need_integer(object, "dropoutCounter"));
  if (!object.Get("firstToken").IsUndefined()) batch.first_token = need_integer(object, "firstToken");
  return batch;
}

TrainerOptions need_options(const Napi::Value& value) {
  const Napi::Object object = need_object(value, "options");
  TrainerOptions options;
  if (object.Get("lora").IsObject()) {
    const Napi::Object lora = object.Get("lora").As<Napi::Object>();
    options.lora = LoraOptions{.rank = need_integer(lora, "rank"),
                               .alpha = need_number(lora, "alpha"),
                               .dropout = need_number(lora, "dropout"),
                               .targets = need_strings(lora.Get("targets"), "targets"),
                               .rank_stabilized = need_bool(lora, "rankStabilized")};
  }
  options.adamw.beta1 = need_number(object, "beta1");
  options.adamw.beta2 = need_number(object, "beta2");
  options.adamw.epsilon = need_number(object, "epsilon");
  options.adamw.weight_decay = need_number(object, "weightDecay");
  options.adamw.master_weights = need_bool(object, "masterWeights");
  options.max_grad_norm = need_number(object, "maxGradNorm");
  options.seed = static_cast<uint64_t>(need_integer(object, "seed"));
  if (!object.Get("bf16Moments").IsUndefined()) options.adamw.bf16_moments = need_bool(object, "bf16Moments");
  if (!object.Get("checkpoint").IsUndefined()) options.checkpoint = need_bool(object, "checkpoint");
  return options;
}

std::string need_text(const Napi::Value& value, const char* what) {
  if (!value.IsString()) throw Napi::TypeError::New(value.Env(), std::string(what) + ": expected a string");
  return value.As<Napi::String>().Utf8Value();
}

// For work without a result.
Napi::Value undefined(Napi::Env env, bool&) { return env.Undefined(); }

}  // namespace

Napi::Function TrainerHandle::define(Napi::Env env) {
  return DefineClass(
      env, "NativeTrainer",
      {InstanceAccessor<&TrainerHandle::trainable_parameters>("trainableParameters"),
       InstanceAccessor<&TrainerHandle::parts>("parts"),
       InstanceMethod<&TrainerHandle::accumulate>("accumulate"), InstanceMethod<&TrainerHandle::step>("step"),
       InstanceMethod<&TrainerHandle::score>("score"), InstanceMethod<&TrainerHandle::gradient>("gradient"),
       InstanceMethod<&TrainerHandle::parameter_names>("parameterNames"),
       InstanceMethod<&TrainerHandle::save_state>("saveState"),
       InstanceMethod<&TrainerHandle::load_state>("loadState"),
       InstanceMethod<&TrainerHandle::save_adapter>("saveAdapter"),
       InstanceMethod<&TrainerHandle::dispose>("dispose")});
}

// Called by create() with the core trainer; JavaScript code cannot construct one.
TrainerHandle::TrainerHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TrainerHandle>(info) {
  if (info.Length() != 1 || !info[0].IsExternal()) {
    throw Napi::TypeError::New(info.Env(), "NativeTrainer cannot be constructed; call createTrainer");
  }
  core_ = *info[0].As<Napi::External<std::shared_ptr<Core>>>().Data();
  // Two moments and the gradient, all fp32; masters count little beside them.
  accounted_bytes_ = core_->model->device().is_cpu() ? core_->trainer.trainable_parameters() * 12 : 0;
  Napi::MemoryManagement::AdjustExternalMemory(info.Env(), accounted_bytes_);
}

// Gives the core away.
std::shared_ptr<TrainerHandle::Core> TrainerHandle::release(Napi::BasicEnv env) {
  if (!core_) return nullptr;
  Napi::MemoryManagement::AdjustExternalMemory(env, -accounted_bytes_);
  return std::move(core_);
}

// Work that is under way holds the core and goes on: its promise does not hold this object.
void TrainerHandle::Finalize(Napi::BasicEnv env) { release(env); }

std::shared_ptr<TrainerHandle::Core> TrainerHandle::need() const {
  if (!core_) throw Error("ERR_CFT_DISPOSED", "this trainer was disposed");
  return core_;
}

Napi::Value TrainerHandle::create(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    return run(
        env,
        [model = ModelHandle::unwrap(info[0]), options = need_options(info[1])] {
          return std::make_shared<Core>(model, options);
        },
        [](Napi::Env env, std::shared_ptr<Core>& core) -> Napi::Value {
          return Environment::of(env)->trainer_class.New(
              {Napi::External<std::shared_ptr<Core>>::New(env, &core)});
        });
  });
}

template <class Work, class Convert>
Napi::Value TrainerHandle::post(const Napi::CallbackInfo& info, Work work, Convert convert) const {
  const Napi::Env env = info.Env();
  const std::shared_ptr<Core> core = need();
  Worker& worker = Worker::of(env);
  const uint64_t interrupter = worker.add_interrupter([weak = std::weak_ptr<Core>(core)] {
    if (const std::shared_ptr<Core> alive = weak.lock()) alive->trainer.interrupt();
  });
  return run(
      env,
      [core, &worker, interrupter, work = std::move(work)]() mutable {
        // Removed whether the work returns or throws.
        const std::shared_ptr<void> cleanup(nullptr, [&](void*) { worker.remove_interrupter(interrupter); });
        return work(core->trainer);
      },
      convert);
}

Napi::Value TrainerHandle::trainable_parameters(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return Napi::Number::New(info.Env(), static_cast<double>(need()->trainer.trainable_parameters()));
  });
}

Napi::Value TrainerHandle::parts(const Napi::CallbackInfo& info) {
  return guard(info.Env(),
               [&] { return Napi::Number::New(info.Env(), static_cast<double>(need()->trainer.parts())); });
}

Napi::Value TrainerHandle::accumulate(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return post(
        info, [batch = need_batch(info[0])](Trainer& trainer) { return trainer.accumulate(batch); },
        [](Napi::Env env, double& loss) -> Napi::Value { return Napi::Number::New(env, loss); });
  });
}

Napi::Value TrainerHandle::step(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    if (!info[0].IsNumber()) throw Napi::TypeError::New(info.Env(), "learningRate: expected a number");
    return post(
        info,
        [rate = info[0].As<Napi::Number>().DoubleValue()](Trainer& trainer) { return trainer.step(rate); },
        [](Napi::Env env, OptimizerStep& step) -> Napi::Value {
          Napi::Object object = Napi::Object::New(env);
          object.Set("gradNorm", step.grad_norm);
          object.Set("applied", Napi::Boolean::New(env, step.applied));
          return object;
        });
  });
}

Napi::Value TrainerHandle::score(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return post(
        info, [batch = need_batch(info[0])](Trainer& trainer) { return trainer.score(batch); },
        [](Napi::Env env, HeadScores& scores) -> Napi::Value {
          Napi::Object object = Napi::Object::New(env);
          object.Set("nll", floats(env, scores.nll));
          object.Set("entropies", floats(env, scores.entropies));
          object.Set("correct", floats(env, scores.correct));
          return object;
        });
  });
}

Napi::Value TrainerHandle::gradient(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return post(
        info,
        [name = need_text(info[0], "name")](Trainer& trainer) { return host_floats(trainer.gradient(name)); },
        [](Napi::Env env, std::vector<float>& values) -> Napi::Value { return floats(env, values); });
  });
}

Napi::Value TrainerHandle::parameter_names(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    Napi::Array names = Napi::Array::New(info.Env());
    for (const std::string& name : need()->trainer.parameter_names()) names.Set(names.Length(), name);
    return names;
  });
}

Napi::Value TrainerHandle::save_state(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return post(
        info,
        [path = need_text(info[0], "path")](Trainer& trainer) {
          trainer.save_state(path);
          return true;
        },
        undefined);
  });
}

Napi::Value TrainerHandle::load_state(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return post(
        info,
        [entries = need_tensor_entries(info[0], "entries")](Trainer& trainer) {
          trainer.load_state(entries);
          return true;
        },
        undefined);
  });
}

Napi::Value TrainerHandle::save_adapter(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&] {
    return post(
        info,
        [path = need_text(info[0], "path")](Trainer& trainer) {
          trainer.save_adapter(path);
          return true;
        },
        undefined);
  });
}

void TrainerHandle::dispose(const Napi::CallbackInfo& info) {
  guard(info.Env(), [&] {
    std::shared_ptr<Core> core = release(info.Env());
    if (!core) return 0;
    core->trainer.interrupt();  // work that is under way ends at its next layer
    // Gigabytes take long to give back, so that happens on the compute thread.
    auto job = std::make_unique<Job>();
    job->work = [core = std::move(core)] {};
    job->settle = [](Napi::Env, const std::exception_ptr&) {};
    Worker::of(info.Env()).post(info.Env(), std::move(job));
    return 0;
  });
}

}  // namespace cft::binding
