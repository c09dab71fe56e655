// Attention of forward rows over paged keys and values: the rows of a trunk as one matrix against its pages,
// then each row against its own.
#pragma once
#include <cstdint>
#include <vector>

#include "core/ops/cpu/kernels.h"
#include "core/rollout/cpu/kv_pages.h"

namespace cft::cpu {

// What one row of a lane sees. Positions [0, shared) lie in `trunk`, the following `own_count` in `own`;
// `begin` is the first that its layer's window lets it see.
struct AttentionRow {
  const PagedSequence* trunk = nullptr;
  const PagedSequence* own = nullptr;
  int64_t shared = 0, own_count = 0;
  int64_t end() const { return shared + own_count; }
};

// (row, query head of the group) pairs that are computed together: first_pair = row * group + head in group.
struct AttentionTile {
  int64_t first_pair = 0, pairs = 0;
};

// Cuts the pairs of rows [0, rows.size()) into tiles of one trunk each. Rows of a trunk must stand together.
std::vector<AttentionTile> attention_tiles(const std::vector<AttentionRow>& rows, int64_t group,
                                           int64_t tile);

struct AttentionShape {
  int64_t layer = 0, window = 0;  // 0: everything
  int64_t heads = 0, kv_heads = 0, dim = 0;
};

// Scratch of one thread.
struct AttentionScratch {
  std::vector<float> queries, scores, sums;
};

// One tile and one key head. queries (rows, heads * dim), already scaled; out the same shape.
void attend(const Kernels& kernels, const AttentionShape& shape, const std::vector<AttentionRow>& rows,
            const AttentionTile& tile, int64_t kv_head, const float* queries, int64_t query_stride,
            float* out, int64_t out_stride, AttentionScratch* scratch);

}  // namespace cft::cpu
