#include "core/rollout/draft.h"

#include <algorithm>

namespace cft {
namespace {

constexpr int64_t kJoin = 2;              // tokens that must agree to call it a join with the trunk
constexpr int64_t kReach = 48;            // how far from the same position a join is looked for
constexpr int64_t kRun = 3;               // tokens that must agree elsewhere
constexpr size_t kPlaces = 8192;          // a power of two; later runs take the places of earlier ones
constexpr int64_t kMostTokens = 1 << 18;  // of a book: 1 MB

size_t place_of(const int32_t* run) {
  uint64_t hash = 0;
  for (int64_t i = 0; i < kRun; ++i) hash = (hash ^ static_cast<uint32_t>(run[i])) * 0x9e3779b97f4a7c15;
  return static_cast<size_t>(hash >> 32) % kPlaces;
}

}  // namespace

DraftBook::DraftBook(const std::vector<int32_t>& trunk) : texts_(1), last_seen_(kPlaces) {
  for (const int32_t token : trunk) add(0, token);
}

int32_t DraftBook::open(int64_t prefix) {
  if (tokens_ >= kMostTokens) return -1;
  // The first runs reach into the prefix.
  const auto end = texts_[0].begin() + prefix;
  texts_.push_back({end - std::min(prefix, kRun - 1), end});
  return static_cast<int32_t>(texts_.size()) - 1;
}

DraftBook::Place DraftBook::add(int32_t text, int32_t token) {
  if (text < 0) return {};
  std::vector<int32_t>& to = texts_[text];
  to.push_back(token);
  ++tokens_;
  if (static_cast<int64_t>(to.size()) < kRun) return {};
  const int32_t* run = to.data() + to.size() - kRun;
  Place& here = last_seen_[place_of(run)];
  const Place before = here;
  here = {text, static_cast<int32_t>(to.size())};
  if (before.text < 0 || !std::equal(run, run + kRun, texts_[before.text].data() + before.index - kRun))
    return {};
  return before;
}

bool DraftBook::says(Place place, int32_t token) const {
  if (place.text < 0) return false;
  const std::vector<int32_t>& text = texts_[place.text];
  return place.index < static_cast<int64_t>(text.size()) && text[place.index] == token;
}

std::vector<int32_t> DraftBook::from(Place place, int64_t count) const {
  if (place.text < 0 || count <= 0) return {};
  const std::vector<int32_t>& text = texts_[place.text];
  const int64_t length = static_cast<int64_t>(text.size());
  if (place.index >= length) return {};
  return {text.begin() + place.index, text.begin() + std::min(length, place.index + count)};
}

DraftBook::Place DraftBook::join(const std::vector<int32_t>& tokens, int64_t prefix) const {
  const std::vector<int32_t>& trunk = texts_[0];
  const int64_t length = static_cast<int64_t>(trunk.size()), count = static_cast<int64_t>(tokens.size());
  if (count < kJoin) return {};
  const int64_t here = prefix + count;
  for (int64_t distance = 0; distance <= kReach; ++distance) {
    for (const int64_t j : {here + distance, here - distance}) {
      if (j < kJoin || j > length) continue;
      if (std::equal(tokens.end() - kJoin, tokens.end(), trunk.begin() + (j - kJoin)))
        return {0, static_cast<int32_t>(j)};
    }
  }
  return {};
}

void Draft::follow(DraftBook& book, const std::vector<int32_t>& tokens, int64_t prefix) {
  if (!opened_) {
    opened_ = true;
    text_ = book.open(prefix);
    for (auto token = tokens.begin(); token + 1 < tokens.end(); ++token) book.add(text_, *token);
  }
  const bool followed = book.says(next_, tokens.back());
  const DraftBook::Place seen = book.add(text_, tokens.back());
  if (followed) {
    ++next_.index;
    return;
  }
  next_ = book.join(tokens, prefix);
  if (next_.text < 0) next_ = seen;
}

}  // namespace cft
