#include "core/rollout/cpu/attention.h"

#include <algorithm>

namespace cft::cpu {
namespace {

constexpr int64_t kMostPairs = 16;  // the largest register tile of any instruction set is below it

// Rows [first, first + count) of a tile: those of one branch, or all of them.
struct Run {
  int64_t first, count;
};

class TileAttention {
 public:
  TileAttention(const Kernels& kernels, const AttentionShape& shape, int64_t kv_head, float* queries,
                float* scores, int64_t stride, float* sums)
      : k_(kernels),
        shape_(shape),
        head_(kv_head),
        queries_(queries),
        scores_(scores),
        stride_(stride),
        sums_(sums) {
    width_ = (shape.dim + k_.panel - 1) / k_.panel * k_.panel;
  }

  // scores[row][at + i] for positions i of `sequence` from the panel of `begin` up to `end`.
  void score(const PagedSequence& sequence, Run run, int64_t begin, int64_t end, int64_t at) const {
    for (int64_t first = begin / k_.panel * k_.panel; first < end;) {
      const int64_t page = first / kPagePositions, in_page = first % kPagePositions;
      const int64_t last = std::min((page + 1) * kPagePositions, (end + k_.panel - 1) / k_.panel * k_.panel);
      k_.scores(queries_ + run.first * shape_.dim, shape_.dim, run.count,
                sequence.keys(page, shape_.layer, head_) + in_page * shape_.dim, (last - first) / k_.panel,
                shape_.dim, scores_ + run.first * stride_ + at + first, stride_);
      first = last;
    }
  }

  // sums[row] += scores[row][at + i] * value i, for i in [begin, end).
  void add_values(const PagedSequence& sequence, Run run, int64_t begin, int64_t end, int64_t at) const {
    for (int64_t first = begin; first < end;) {
      const int64_t page = first / kPagePositions, in_page = first % kPagePositions;
      const int64_t last = std::min((page + 1) * kPagePositions, end);
      k_.add_values(scores_ + run.first * stride_ + at + first, stride_, run.count,
                    sequence.values(page, shape_.layer, head_) + in_page * width_, last - first, width_,
                    sums_ + run.first * width_, width_);
      first = last;
    }
  }

  int64_t width() const { return width_; }

 private:
  const Kernels& k_;
  const AttentionShape& shape_;
  const int64_t head_;
  float* queries_;
  float* scores_;
  const int64_t stride_;
  float* sums_;
  int64_t width_;
};

}  // namespace

std::vector<AttentionTile> attention_tiles(const std::vector<AttentionRow>& rows, int64_t group,
                                           int64_t tile) {
  std::vector<AttentionTile> tiles;
  const int64_t count = static_cast<int64_t>(rows.size());
  for (int64_t first = 0; first < count;) {
    int64_t last = first + 1;
    while (last < count && rows[last].trunk == rows[first].trunk) ++last;
    for (int64_t pair = first * group; pair < last * group; pair += tile)
      tiles.push_back({pair, std::min(tile, last * group - pair)});
    first = last;
  }
  return tiles;
}

void attend(const Kernels& kernels, const AttentionShape& shape, const std::vector<AttentionRow>& rows,
            const AttentionTile& tile, int64_t kv_head, const float* queries, int64_t query_stride,
            float* out, int64_t out_stride, AttentionScratch* scratch) {
  const int64_t group = shape.heads / shape.kv_heads, dim = shape.dim;
  auto row_of = [&](int64_t i) { return (tile.first_pair + i) / group; };
  auto head_of = [&](int64_t i) { return kv_head * group + (tile.first_pair + i) % group; };
  auto begin_of = [&](const AttentionRow& row) {
    return shape.window > 0 ? std::max<int64_t>(row.end() - shape.window, 0) : 0;
  };
  // What all rows of the tile see of the trunk, and room for the longest row.
  int64_t shared = INT64_MAX, begin = INT64_MAX, longest = 0;
  for (int64_t i = 0; i < tile.pairs; ++i) {
    const AttentionRow& row = rows[row_of(i)];
    shared = std::min(shared, row.shared);
    begin = std::min(begin, begin_of(row));
    longest = std::max(longest, row.end());
  }
  // A score panel may start anywhere and be cut by the end.
  const int64_t stride = longest + 3 * kernels.panel;
  const int64_t width = (dim + kernels.panel - 1) / kernels.panel * kernels.panel;
  auto room = [](std::vector<float>& buffer, int64_t count) {
    if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(count);
    return buffer.data();
  };
  float* q = room(scratch->queries, tile.pairs * dim);
  float* scores = room(scratch->scores, tile.pairs * stride);
  float* sums = room(scratch->sums, tile.pairs * width);
  for (int64_t i = 0; i < tile.pairs; ++i)
    std::copy_n(queries + row_of(i) * query_stride + head_of(i) * dim, dim, q + i * dim);
  std::fill_n(sums, tile.pairs * width, 0.0f);

  const TileAttention work(kernels, shape, kv_head, q, scores, stride, sums);
  const Run all{0, tile.pairs};
  Run runs[kMostPairs];  // pairs of one row
  int64_t run_count = 0;
  for (int64_t i = 0; i < tile.pairs;) {
    int64_t end = i + 1;
    while (end < tile.pairs && row_of(end) == row_of(i)) ++end;
    runs[run_count++] = {i, end - i};
    i = end;
  }

  // Scores by absolute position: together first, then what each row has beyond, which overwrites the cut
  // panels.
  if (begin < shared) work.score(*rows[row_of(0)].trunk, all, begin, shared, 0);
  for (int64_t r = 0; r < run_count; ++r) {
    const Run run = runs[r];
    const AttentionRow& row = rows[row_of(run.first)];
    const int64_t from = begin_of(row);
    if (row.shared > shared && from < row.shared) {
      work.score(*row.trunk, run, std::max(from, shared), row.shared, 0);
    }
    if (row.own_count > 0)
      work.score(*row.own, run, std::max<int64_t>(from - row.shared, 0), row.own_count, row.shared);
  }
  float totals[kMostPairs];
  for (int64_t i = 0; i < tile.pairs; ++i) {
    const AttentionRow& row = rows[row_of(i)];
    const int64_t from = begin_of(row);
    if (begin < from) std::fill(scores + i * stride + begin, scores + i * stride + from, 0.0f);
    totals[i] = kernels.softmax(scores + i * stride, from, row.end());
  }
  // Values in ascending absolute positions: each sum is one chain, wherever the position lies.
  if (begin < shared) work.add_values(*rows[row_of(0)].trunk, all, begin, shared, 0);
  for (int64_t r = 0; r < run_count; ++r) {
    const Run run = runs[r];
    const AttentionRow& row = rows[row_of(run.first)];
    const int64_t from = begin_of(row);
    if (row.shared > shared && from < row.shared)
      work.add_values(*row.trunk, run, std::max(from, shared), row.shared, 0);
    if (row.own_count > 0)
      work.add_values(*row.own, run, std::max<int64_t>(from - row.shared, 0), row.own_count, row.shared);
  }
  for (int64_t i = 0; i < tile.pairs; ++i) {
    const float scale = 1.0f / totals[i];
    float* to = out + row_of(i) * out_stride + head_of(i) * dim;
    for (int64_t d = 0; d < dim; ++d) to[d] = sums[i * width + d] * scale;
  }
}

}  // namespace cft::cpu
