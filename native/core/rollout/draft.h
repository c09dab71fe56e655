// Guesses how a branch goes on. After a substitution the text usually rejoins its trunk some tokens earlier
// or later, and the trunk's own tokens are then the draft; else what the branch, its siblings or the prompt
// said after the same few tokens is. A wrong guess costs rows, never a token.
#pragma once
#include <cstdint>
#include <vector>

namespace cft {

// What a trunk and its branches have said so far, with an index of where runs of tokens were seen last. Of
// the compute thread alone.
class DraftBook {
 public:
  // A token of a text; the trunk is text 0.
  struct Place {
    int32_t text = -1;  // -1: nowhere
    int32_t index = 0;
  };

  explicit DraftBook(const std::vector<int32_t>& trunk);

  // A text that goes on after the trunk's first `prefix` tokens. -1 where the book is full.
  int32_t open(int64_t prefix);
  // The text's next token. Returns what followed where its last tokens stood before, most lately; nowhere for
  // text -1.
  Place add(int32_t text, int32_t token);
  // Whether that token stands there.
  bool says(Place place, int32_t token) const;
  // At most `count` tokens from there on.
  std::vector<int32_t> from(Place place, int64_t count) const;
  // The place after trunk tokens that are the last ones of `tokens`, which follow `prefix` trunk tokens; the
  // nearest to the same position, which is the likeliest.
  Place join(const std::vector<int32_t>& tokens, int64_t prefix) const;

 private:
  std::vector<std::vector<int32_t>> texts_;
  std::vector<Place> last_seen_;  // by a hash of a run of tokens, the place after it
  int64_t tokens_ = 0;            // of all texts
};

// Where one branch stands in the book.
class Draft {
 public:
  // A branch that keeps `prefix` trunk tokens and put `forced` others in the place of as many.
  void start(int64_t prefix, int64_t forced) { next_ = {0, static_cast<int32_t>(prefix + forced)}; }
  // After `tokens` (forced and decoded ones, after the prefix) got a new last one: follows the text that the
  // branch is said to copy, or looks for another.
  void follow(DraftBook& book, const std::vector<int32_t>& tokens, int64_t prefix);
  // At most `count` tokens that may come next.
  std::vector<int32_t> guess(const DraftBook& book, int64_t count) const { return book.from(next_, count); }

 private:
  DraftBook::Place next_;  // of the token expected next
  int32_t text_ = -1;      // the branch's own
  bool opened_ = false;
};

}  // namespace cft
