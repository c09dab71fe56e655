// What the addon keeps per JavaScript environment: nothing is static, so worker threads can load it too.
#pragma once
#include <napi.h>

#include "binding/worker.h"

namespace cft::binding {

class Environment {
 public:
  static Environment* of(Napi::Env env) { return env.GetInstanceData<Environment>(); }

  Worker worker;
  Napi::FunctionReference model_class, engine_class, trainer_class;
};

}  // namespace cft::binding
