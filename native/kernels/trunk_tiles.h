// The host's side of trunk attention: which rows a block attends together.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/decode.h"

namespace cft::kernels {

struct TrunkRow {
  int32_t row;
  int32_t trunk_start;  // the trunk's first position in the pool
  int32_t prefix;       // positions of it that the row sees
};

struct TrunkTiles {
  std::vector<CftTrunkTile> tiles;
  std::vector<int32_t> rows;  // their rows, one tile after the other
};

// Groups rows by trunk and similar prefix, at most `tile_rows` (cft_trunk_tile_rows) together, tiles with the
// longest prefixes first. Needed when slots are refilled or rows change their slots, not per token.
inline TrunkTiles trunk_tiles(std::vector<TrunkRow> rows, int32_t tile_rows) {
  std::sort(rows.begin(), rows.end(), [](const TrunkRow& a, const TrunkRow& b) {
    if (a.trunk_start != b.trunk_start) return a.trunk_start < b.trunk_start;
    return a.prefix != b.prefix ? a.prefix > b.prefix : a.row < b.row;
  });
  struct Tile {
    CftTrunkTile rows;
    int32_t longest;
  };
  std::vector<Tile> tiles;
  for (size_t i = 0; i < rows.size(); ++i) {
    const bool same = !tiles.empty() && rows[i].trunk_start == rows[i - 1].trunk_start;
    if (same && tiles.back().rows.count < tile_rows) {
      ++tiles.back().rows.count;
    } else {
      tiles.push_back({{static_cast<int32_t>(i), 1}, rows[i].prefix});
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const Tile& a, const Tile& b) { return a.longest > b.longest; });
  TrunkTiles result;
  for (const Tile& tile : tiles) result.tiles.push_back(tile.rows);
  for (const TrunkRow& row : rows) result.rows.push_back(row.row);
  return result;
}

}  // namespace cft::kernels
