// Guesses how a branch goes on: after a substitution the text usually rejoins its trunk some tokens earlier
// or later, and the trunk's own tokens are then the draft. A wrong guess costs rows, never a token.
#pragma once
#include <cstdint>
#include <vector>

namespace cft {

class TrunkDraft {
 public:
  // A branch that keeps `prefix` trunk tokens and put `forced` others in the place of as many.
  void start(int64_t prefix, int64_t forced) { next_ = prefix + forced; }
  // After `tokens` (forced and decoded ones, after the prefix) got a new last one: follows the trunk or looks
  // for the place where the last tokens stand in it.
  void follow(const std::vector<int32_t>& trunk, const std::vector<int32_t>& tokens, int64_t prefix);
  // At most `count` trunk tokens that may come next.
  std::vector<int32_t> guess(const std::vector<int32_t>& trunk, int64_t count) const;

 private:
  int64_t next_ = -1;  // trunk index of the token expected next, -1: lost
};

}  // namespace cft
