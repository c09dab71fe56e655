#include "core/train/prefix_tree.h"

#include <algorithm>
#include <numeric>

namespace cft {
namespace {

// A shared run must save so many rows, or the products of its small segments cost more.
constexpr int64_t kLeastSaved = 8;

class Builder {
 public:
  explicit Builder(const TrainBatch& batch) : batch_(batch), row_of_(batch.token_ids.size()) {}

  // `sequences` in lexicographic order, alike in their first `depth` tokens, whose rows end in segment
  // `parent`.
  void add(const std::vector<int64_t>& sequences, int64_t depth, int64_t parent) {
    int64_t common = length(sequences.front());
    if (sequences.size() > 1) common = common_length(sequences.front(), sequences.back());
    const auto saved = (common - depth) * (static_cast<int64_t>(sequences.size()) - 1);
    if (sequences.size() == 1 || saved >= kLeastSaved) {
      parent = add_segment(sequences, depth, common, parent);
      depth = common;
    }
    // Those that go on, by their next different token.
    std::vector<int64_t> group;
    for (const int64_t s : sequences) {
      if (length(s) == depth) continue;
      if (!group.empty() && common_length(group.front(), s) <= common) {
        add(group, depth, parent);
        group.clear();
      }
      group.push_back(s);
    }
    if (!group.empty()) add(group, depth, parent);
  }

  // After all sequences.
  PrefixTree finish() {
    std::vector<int64_t> rows;
    for (const int64_t position : batch_.selected) rows.push_back(row_of_[position]);
    tree_.query_rows = rows;
    std::ranges::sort(tree_.query_rows);
    tree_.query_rows.erase(std::ranges::unique(tree_.query_rows).begin(), tree_.query_rows.end());
    const auto place = [&](int64_t row) {
      return std::ranges::lower_bound(tree_.query_rows, row) - tree_.query_rows.begin();
    };
    for (const int64_t row : rows) tree_.terms.push_back(place(row));
    for (TreeSegment& segment : tree_.segments) {
      segment.first_query = place(segment.first);
      segment.last_query = place(segment.first + segment.length);
    }
    return std::move(tree_);
  }

 private:
  int64_t start(int64_t s) const { return batch_.sequence_starts[s]; }
  int64_t length(int64_t s) const { return batch_.sequence_starts[s + 1] - start(s); }

  int64_t common_length(int64_t a, int64_t b) const {
    const int64_t most = std::min(length(a), length(b));
    const auto first = batch_.token_ids.begin() + start(a);
    return std::mismatch(first, first + most, batch_.token_ids.begin() + start(b)).first - first;
  }

  int64_t add_segment(const std::vector<int64_t>& sequences, int64_t from, int64_t to, int64_t parent) {
    if (from == to) return parent;
    const auto first = static_cast<int64_t>(tree_.token_ids.size());
    const int64_t origin = start(sequences.front());
    for (int64_t i = from; i < to; ++i) {
      tree_.token_ids.push_back(batch_.token_ids[origin + i]);
      tree_.positions.push_back(i);
      tree_.row_keys.push_back(batch_.first_token + origin + i);
      for (const int64_t s : sequences) row_of_[start(s) + i] = first + i - from;
    }
    tree_.segments.push_back({first, to - from, from, parent, 0, 0});
    return static_cast<int64_t>(tree_.segments.size()) - 1;
  }

  const TrainBatch& batch_;
  std::vector<int64_t> row_of_;  // of each packed token
  PrefixTree tree_;
};

}  // namespace

PrefixTree make_prefix_tree(const TrainBatch& batch, bool share) {
  Builder builder(batch);
  std::vector<int64_t> order(batch.sequence_starts.size() - 1);
  std::iota(order.begin(), order.end(), 0);
  if (order.empty()) return builder.finish();
  if (!share) {
    for (const int64_t s : order) builder.add({s}, 0, -1);
    return builder.finish();
  }
  const auto tokens = [&](int64_t s) { return batch.token_ids.begin() + batch.sequence_starts[s]; };
  std::ranges::stable_sort(order, [&](int64_t a, int64_t b) {
    return std::lexicographical_compare(tokens(a), tokens(a + 1), tokens(b), tokens(b + 1));
  });
  builder.add(order, 0, -1);
  return builder.finish();
}

}  // namespace cft
