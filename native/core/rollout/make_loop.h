// Which decode loop serves a model.
#pragma once
#include <memory>

#include "core/rollout/decode_loop.h"

namespace cft {

struct EngineOptions;

// The device loop where options bring a device's parts or the model lies on a GPU and the kernels take its
// shape, else the host's loop over the fastest backend. All references must outlive it.
std::unique_ptr<DecodeLoop> make_decode_loop(Model& model, const EngineOptions& options,
                                             const EndTokens& end_tokens, BranchQueue& queue);

}  // namespace cft
