// The rows that a micro-batch really needs. Attention is causal, so the hidden states of a token depend on
// what stands before it alone: sequences that begin alike (a system prompt, a question with several
// responses) share the rows of their common beginning, and the gradients of all of them meet there. Exact,
// for rows of one content are equal.
#pragma once
#include <cstdint>
#include <vector>

#include "core/train/batch.h"

namespace cft {

// A run of rows. Its keys are those of its ancestors and its own up to the query, whose index among them is
// its position.
struct TreeSegment {
  int64_t first = 0;     // row
  int64_t length = 0;    // rows, at least one
  int64_t position = 0;  // of the first row, which is also the number of its ancestors' rows
  int64_t parent = -1;   // segment, always an earlier one
  // Its selected rows: queries [first_query, last_query) of the tree.
  int64_t first_query = 0, last_query = 0;
};

// R rows, Q queries, M terms.
struct PrefixTree {
  std::vector<int64_t> token_ids;  // (R)
  std::vector<int64_t> positions;  // (R)
  std::vector<int64_t> row_keys;   // (R) packed index in the batch of one token with this row
  std::vector<TreeSegment> segments;
  std::vector<int64_t> query_rows;  // (Q) rows with a selected token, ascending
  std::vector<int64_t> terms;       // (M) index of each selected position in query_rows
};

// The tree of a batch that prune_batch made; with `share` false every sequence is a segment of its own.
PrefixTree make_prefix_tree(const TrainBatch& batch, bool share);

}  // namespace cft
