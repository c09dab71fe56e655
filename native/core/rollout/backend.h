// What the rollout engine needs of a device: sequences that hold keys and values, and a forward pass over
// rows of many sequences. The engine decides which rows; a backend only computes.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "core/model/model.h"
#include "core/rollout/types.h"

namespace cft {

// Keys and values of consecutive positions. A backend makes them and knows what is inside.
class KvSequence {
 public:
  virtual ~KvSequence() = default;
};

enum class Wanted : uint8_t { kNothing, kToken, kLogits };

// One token on its way through the model. It sees the first `prefix` positions of `trunk` and, from there on,
// those of `own` up to and including itself: own position 0 stands at `prefix`. Rows that write to the same
// `own` stand together, in ascending positions, and see each other. A trunk is only read.
struct ForwardRow {
  int32_t token = 0;
  int64_t position = 0;
  const KvSequence* trunk = nullptr;  // null: prefix is 0
  int64_t prefix = 0;
  KvSequence* own = nullptr;
  Wanted wanted = Wanted::kNothing;
};

struct ForwardOutput {
  // One per row: the most probable next token (the first of equals) where kToken was wanted; -1 where no
  // logit is a number.
  std::vector<int32_t> tokens;
  // The rows that wanted kLogits, in their order, vocab floats each.
  std::vector<float> logits;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::unique_ptr<KvSequence> create_sequence() = 0;
  // Makes room for positions [0, length); false, and nothing changed, where the memory budget is used up.
  virtual bool reserve(KvSequence& sequence, int64_t length) = 0;
  virtual void forward(const std::vector<ForwardRow>& rows, ForwardOutput* output) = 0;
  // Fills an empty sequence, in which there is room, with a trunk. scores describes tokens [score_from, T)
  // with k alternatives each, 1 <= score_from <= T.
  virtual void prefill(KvSequence& sequence, const std::vector<int32_t>& tokens, int64_t score_from,
                       int64_t k, TrunkScores* scores) = 0;

  // With fewer rows than this a step takes hardly less time: drafts may fill up to it.
  virtual int64_t cheap_rows() const = 0;
  virtual int64_t used_bytes() const = 0;
  virtual int64_t budget_bytes() const = 0;
};

// The fastest for the model's device and dtype. budget_bytes for keys and values; 0 = planned from the memory
// that is free. Throws Error ERR_CFT_OUT_OF_MEMORY where nothing is left for any.
std::unique_ptr<Backend> make_backend(Model& model, int64_t budget_bytes);
// Plain libtorch operations, one after the other, on any device: the reference of the tests, and the backend
// where there is no faster one.
std::unique_ptr<Backend> make_reference_backend(Model& model, int64_t budget_bytes);

}  // namespace cft
