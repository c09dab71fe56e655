#include "binding/engine.h"

#include "binding/convert.h"
#include "binding/environment.h"
#include "binding/model.h"
#include "core/compute_thread.h"
#include "core/errors.h"

namespace cft::binding {
namespace {

struct TrunkAnswer {
  int64_t trunk = 0;
  TrunkScores scores;
};

Napi::Object branch_result(Napi::Env env, const BranchResult& branch) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("id", static_cast<double>(branch.id));
  object.Set("tokenIds", int32s(env, branch.token_ids));
  object.Set("endTokenId", branch.end_token_id);
  return object;
}

Napi::Value step_result(Napi::Env env, StepResult& step) {
  Napi::Array finished = Napi::Array::New(env, step.finished.size());
  for (uint32_t i = 0; i < step.finished.size(); ++i) finished.Set(i, branch_result(env, step.finished[i]));
  Napi::Float64Array branch_ids = Napi::Float64Array::New(env, step.token_branches.size());
  for (size_t i = 0; i < step.token_branches.size(); ++i)
    branch_ids[i] = static_cast<double>(step.token_branches[i]);
  Napi::Object tokens = Napi::Object::New(env);
  tokens.Set("branchIds", branch_ids);
  tokens.Set("tokenIds", int32s(env, step.tokens));
  tokens.Set("entropies", floats(env, step.entropies));
  Napi::Object result = Napi::Object::New(env);
  result.Set("finished", finished);
  result.Set("tokens", tokens);
  result.Set("active", static_cast<double>(step.active));
  result.Set("waiting", static_cast<double>(step.waiting));
  result.Set("decodedTokens", static_cast<double>(step.tokens.size()));
  result.Set("steps", static_cast<double>(step.steps));
  result.Set("forwardRows", static_cast<double>(step.rows));
  result.Set("draftedTokens", static_cast<double>(step.drafted));
  result.Set("acceptedTokens", static_cast<double>(step.accepted));
  return result;
}

BranchSpec need_branch(const Napi::Value& value) {
  const Napi::Object object = need_object(value, "branch");
  BranchSpec spec;
  spec.id = need_integer(object, "id");
  spec.trunk = need_integer(object, "trunk");
  spec.length = need_integer(object, "length");
  spec.forced_tokens = need_int32s(object.Get("forcedTokens"), "forcedTokens");
  spec.max_new_tokens = need_integer(object, "maxNewTokens");
  spec.temperature = need_number(object, "temperature");
  spec.top_p = need_number(object, "topP");
  spec.seed = static_cast<uint64_t>(need_integer(object, "seed"));
  if (object.Has("entropy")) spec.entropy = object.Get("entropy").ToBoolean().Value();
  if (object.Has("draft")) spec.draft = object.Get("draft").ToBoolean().Value();
  if (object.Has("priority")) spec.priority = need_number(object, "priority");
  return spec;
}

}  // namespace

Napi::Function EngineHandle::define(Napi::Env env) {
  return DefineClass(
      env, "NativeRolloutEngine",
      {InstanceMethod<&EngineHandle::add_trunk>("addTrunk"), InstanceMethod<&EngineHandle::submit>("submit"),
       InstanceMethod<&EngineHandle::step>("step"), InstanceMethod<&EngineHandle::cancel>("cancel"),
       InstanceMethod<&EngineHandle::release_trunk>("releaseTrunk"),
       InstanceMethod<&EngineHandle::interrupt>("interrupt"),
       InstanceMethod<&EngineHandle::dispose>("dispose")});
}

Napi::Value EngineHandle::create(const Napi::CallbackInfo& info) {
  return Environment::of(info.Env())->engine_class.New({info[0], info[1]});
}

EngineHandle::EngineHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineHandle>(info) {
  const Napi::Env env = info.Env();
  guard(env, [&] {
    const Napi::Object options = need_object(info[1], "options");
    // Dies on the compute thread: what it frees records events on a stream that another engine may be
    // capturing.
    const std::shared_ptr<Core> core(new Core, [](Core* dying) {
      ComputeThread::instance().post(nullptr, [owned = std::shared_ptr<Core>(dying)] {});
    });
    core->model = ModelHandle::unwrap(info[0]);
    EngineOptions wanted;
    wanted.max_branches = need_integer(options, "maxBranches");
    wanted.end_token_ids = need_int32s(options.Get("endTokenIds"), "endTokenIds");
    if (options.Has("memoryBytes")) wanted.memory_bytes = need_integer(options, "memoryBytes");
    if (options.Has("reference")) wanted.reference = options.Get("reference").ToBoolean().Value();
    core->engine = std::make_unique<RolloutEngine>(*core->model, std::move(wanted));
    core_ = core;
    return 0;
  });
}

void EngineHandle::Finalize(Napi::BasicEnv) { core_.reset(); }

std::shared_ptr<EngineHandle::Core> EngineHandle::need() const {
  if (!core_) throw Error("ERR_CFT_DISPOSED", "this rollout engine was disposed");
  return core_;
}

Napi::Value EngineHandle::add_trunk(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    const Napi::Object spec = need_object(info[0], "spec");
    return run(
        env,
        [core = need(), ids = need_int32s(spec.Get("tokenIds"), "tokenIds"),
         score_from = need_integer(spec, "scoreFrom"), alternatives = need_integer(spec, "alternatives")] {
          TrunkAnswer answer;
          answer.trunk = core->engine->add_trunk(ids, score_from, alternatives, &answer.scores);
          return answer;
        },
        [](Napi::Env env, TrunkAnswer& answer) -> Napi::Value {
          Napi::Object object = Napi::Object::New(env);
          object.Set("trunk", static_cast<double>(answer.trunk));
          object.Set("logProbs", floats(env, answer.scores.log_probs));
          object.Set("alternativeIds", int32s(env, answer.scores.alternative_ids));
          object.Set("alternativeLogProbs", floats(env, answer.scores.alternative_log_probs));
          return object;
        });
  });
}

void EngineHandle::submit(const Napi::CallbackInfo& info) {
  guard(info.Env(), [&] {
    if (!info[0].IsArray()) throw Napi::TypeError::New(info.Env(), "branches: expected an array");
    const Napi::Array array = info[0].As<Napi::Array>();
    std::vector<BranchSpec> specs;
    specs.reserve(array.Length());
    for (uint32_t i = 0; i < array.Length(); ++i) {
      const Napi::HandleScope scope(info.Env());
      specs.push_back(need_branch(array.Get(i)));
    }
    need()->engine->submit(specs);
    return 0;
  });
}

Napi::Value EngineHandle::step(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&] {
    const int64_t max_steps = info[0].IsNumber() ? info[0].As<Napi::Number>().Int64Value() : 1;
    const std::shared_ptr<Core> core = need();
    Worker& worker = Worker::of(env);
    const uint64_t interrupter = worker.add_interrupter([weak = std::weak_ptr<Core>(core)] {
      if (const std::shared_ptr<Core> alive = weak.lock()) alive->engine->interrupt();
    });
    return run(
        env,
        [core, &worker, interrupter, max_steps] {
          // Removed whether the step returns or throws.
          const std::shared_ptr<void> cleanup(nullptr,
                                              [&](void*) { worker.remove_interrupter(interrupter); });
          return core->engine->step(max_steps);
        },
        step_result);
  });
}

void EngineHandle::cancel(const Napi::CallbackInfo& info) {
  guard(info.Env(), [&] {
    if (!info[0].IsArray()) throw Napi::TypeError::New(info.Env(), "branchIds: expected an array");
    const Napi::Array array = info[0].As<Napi::Array>();
    std::vector<int64_t> ids;
    for (uint32_t i = 0; i < array.Length(); ++i) ids.push_back(array.Get(i).ToNumber().Int64Value());
    need()->engine->cancel(ids);
    return 0;
  });
}

void EngineHandle::release_trunk(const Napi::CallbackInfo& info) {
  guard(info.Env(), [&] {
    need()->engine->release_trunk(info[0].ToNumber().Int64Value());
    return 0;
  });
}

void EngineHandle::interrupt(const Napi::CallbackInfo& info) {
  guard(info.Env(), [&] {
    need()->engine->interrupt();
    return 0;
  });
}

void EngineHandle::dispose(const Napi::CallbackInfo&) {
  if (core_) core_->engine->interrupt();  // a step that is under way ends at its next token
  core_.reset();
}

}  // namespace cft::binding
