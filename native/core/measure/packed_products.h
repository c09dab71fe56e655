// The matrix products of a decode step with the engine's own kernels, and nothing else: what a step could
// reach if norms, attention and sampling took no time.
#pragma once
#include <vector>

#include "core/rollout/cpu/packed_model.h"

namespace cft::cpu {

class PackedProducts {
 public:
  // For steps of so many rows (1 at least). By lanes each thread multiplies its share of the rows by all
  // columns, else its share of the columns by all rows.
  PackedProducts(Model& model, int64_t rows, bool by_lanes);

  void step();

 private:
  void multiply(int64_t first_row, int64_t rows, int64_t rank, int64_t team);

  std::shared_ptr<const PackedModel> packed_;
  int64_t rows_, width_, threads_;
  bool by_lanes_;
  std::vector<float> from_, to_;  // (rows, width), read and written by all products
  std::vector<Best> best_;        // (threads, rows)
};

}  // namespace cft::cpu
