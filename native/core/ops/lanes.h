// How the CPU's threads share the work of a small model.
#pragma once
#include <ATen/Parallel.h>

#include "core/model/model.h"

namespace cft {

// A small model's weights fit into the cache, and its operations are shorter than waking a thread for each:
// there each thread takes a share of the rows through all layers, and the threads meet once per step. A
// larger model's weights would be read once per thread that way, so there the threads share each operation.
inline bool runs_by_lanes(const Model& model) {
  constexpr int64_t kCachedParameters = 8'000'000;
  return model.device().is_cpu() && model.parameter_count() <= kCachedParameters;
}

// Runs work(lane) for lanes 0 to lanes - 1. Operations inside a lane start no threads of their own, also
// where there is only one lane with work.
template <class Work>
void run_lanes(int64_t lanes, const Work& work) {
  at::parallel_for(0, lanes, 1, [&](int64_t begin, int64_t end) {
    for (int64_t lane = begin; lane < end; ++lane) work(lane);
  });
}

// Runs work() on one thread for a small model, and as it is for others.
template <class Work>
void run_one_lane(const Model& model, const Work& work) {
  if (!runs_by_lanes(model)) return work();
  run_lanes(at::get_num_threads(), [&](int64_t lane) {
    if (lane == 0) work();
  });
}

}  // namespace cft
