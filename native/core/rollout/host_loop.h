// The decode loop that the host steps: before every forward pass it composes the rows, a backend computes
// them, and the host picks the next tokens.
#pragma once
#include "core/rollout/decode_loop.h"

namespace cft {

class HostLoop : public DecodeLoop {
 public:
  // Model, queue and end tokens must outlive it.
  HostLoop(const Model& model, std::unique_ptr<Backend> backend, const EndTokens& end_tokens,
           int64_t max_branches, BranchQueue& queue);

  std::unique_ptr<KvSequence> prefill(const std::vector<int32_t>& tokens, int64_t score_from, int64_t k,
                                      TrunkScores* scores) override;
  void run(int64_t max_steps, const std::atomic<bool>& interrupted, StepResult* result) override;
  int64_t active() const override { return static_cast<int64_t>(active_.size()); }
  int64_t used_bytes() const override { return backend_->used_bytes(); }

 private:
  // The rows of one branch in a forward pass.
  struct Span {
    size_t branch, first_row, rows, drafts;
  };

  bool leaves_room();
  void drop_cancelled();
  void admit(StepResult* result);
  void compose();
  bool make_room(size_t index, int64_t length);
  void park(size_t index);
  void pick_tokens();
  void decode_once(StepResult* result);
  void accept_rows(const Span& span, StepResult* result);

  const Model& model_;
  const std::unique_ptr<Backend> backend_;
  const EndTokens& end_tokens_;
  const size_t max_branches_;
  BranchQueue& queue_;
  std::vector<Branch> active_;
  size_t limit_;         // of active branches: below max_branches after memory was short
  int64_t longest_ = 0;  // most positions of a branch since memory was last empty
  std::vector<ForwardRow> rows_;
  std::vector<Span> spans_;
  ForwardOutput output_;
  std::vector<int32_t> picked_;   // per row: the next token
  std::vector<float> entropies_;  // per row, where wanted
};

}  // namespace cft
