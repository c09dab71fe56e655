// Random cases of trunk and suffix attention with their result in doubles, for the emulator and for a GPU.
#pragma once
#include <algorithm>
#include <cmath>

#include "test/emulator/decode_slots.h"

namespace decode_test {

struct Shape {
  int heads, kv_heads, dim, window = 0, chunk = 64;
};

struct Row {
  int trunk, prefix, suffix;  // suffix: positions before the new one
  bool running = true;
};

struct Case {
  Shape shape;
  std::vector<int> trunks;  // lengths
  std::vector<Row> rows;
};

// A case's memory. Whatever no row may see is NaN: the pool between the trunks, the arena behind suffixes.
template <class T>
struct Memory {
  Slots slots;
  std::vector<T> queries, trunk_keys, trunk_values, arena_keys, arena_values;
  int pool = 0, chunks = 0;

  Memory(const Case& c, unsigned seed, int capacity = 40)
      : slots(c.rows.size() + 1, c.rows.size() + 2, capacity) {
    std::mt19937 random(seed);
    const Shape& s = c.shape;
    std::vector<int> starts;
    int longest = 1;
    for (const int length : c.trunks) {
      starts.push_back(pool + 3);
      pool += length + 3;
      longest = std::max(longest, length);
    }
    pool += 2;
    chunks = (longest + s.chunk - 1) / s.chunk;
    // NaN for rows that do not run, which nobody should look at.
    queries = poisoned<T>(slots.slot_of_row.size() * s.heads * s.dim);
    for (size_t i = 0; i < c.rows.size(); ++i) {
      if (!c.rows[i].running) continue;
      const auto values = random_values<T>(random, size_t(s.heads) * s.dim, 2.0f);
      std::copy(values.begin(), values.end(), queries.begin() + i * s.heads * s.dim);
    }
    for (auto* part : {&trunk_keys, &trunk_values}) {
      *part = poisoned<T>(size_t(s.kv_heads) * pool * s.dim);
      for (size_t t = 0; t < c.trunks.size(); ++t)
        for (int h = 0; h < s.kv_heads; ++h) {
          const auto values = random_values<T>(random, size_t(c.trunks[t]) * s.dim);
          std::copy(values.begin(), values.end(), part->begin() + (size_t(h) * pool + starts[t]) * s.dim);
        }
    }
    for (auto* part : {&arena_keys, &arena_values})
      *part = poisoned<T>(slots.status.size() * s.kv_heads * capacity * s.dim);
    for (size_t i = 0; i < c.rows.size(); ++i) {
      const Row& row = c.rows[i];
      const size_t slot = c.rows.size() - i;  // another order than the rows'
      slots.slot_of_row[i] = static_cast<int32_t>(slot);
      slots.status[slot] = row.running ? CFT_SLOT_RUNNING : CFT_SLOT_IDLE;
      slots.prefix[slot] = row.prefix;
      slots.suffix[slot] = row.suffix;
      slots.trunk_start[slot] = starts[row.trunk];
      for (auto* part : {&arena_keys, &arena_values})
        for (int h = 0; h < s.kv_heads; ++h) {
          const auto values = random_values<T>(random, size_t(row.suffix + 1) * s.dim);
          std::copy(values.begin(), values.end(), part->begin() + (slot * s.kv_heads + h) * capacity * s.dim);
        }
    }
  }
};

// One row in doubles: plain softmax over all keys that it sees.
template <class T>
std::vector<double> reference(const Case& c, Memory<T>& m, size_t i) {
  const Shape& s = c.shape;
  std::vector<double> result(size_t(s.heads) * s.dim, 0.0);
  if (i >= c.rows.size() || !c.rows[i].running) return result;
  const Row& row = c.rows[i];
  const size_t slot = static_cast<size_t>(m.slots.slot_of_row[i]);
  const int position = row.prefix + row.suffix;
  for (int h = 0; h < s.heads; ++h) {
    const int kv = h / (s.heads / s.kv_heads);
    const T* query = m.queries.data() + (i * s.heads + h) * s.dim;
    std::vector<double> scores;
    std::vector<const T*> values;
    for (int p = 0; p <= position; ++p) {
      if (s.window > 0 && p <= position - s.window) continue;
      const size_t place = p < row.prefix
                               ? (size_t(kv) * m.pool + m.slots.trunk_start[slot] + p) * s.dim
                               : ((slot * s.kv_heads + kv) * m.slots.capacity + (p - row.prefix)) * s.dim;
      const T* key = (p < row.prefix ? m.trunk_keys : m.arena_keys).data() + place;
      values.push_back((p < row.prefix ? m.trunk_values : m.arena_values).data() + place);
      double score = 0;
      for (int d = 0; d < s.dim; ++d)
        score += double(cft::kernels::to_float(query[d])) * cft::kernels::to_float(key[d]);
      scores.push_back(score / std::sqrt(double(s.dim)));
    }
    const double top = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (double& score : scores) total += score = std::exp(score - top);
    for (size_t k = 0; k < scores.size(); ++k)
      for (int d = 0; d < s.dim; ++d)
        result[size_t(h) * s.dim + d] += scores[k] / total * cft::kernels::to_float(values[k][d]);
  }
  return result;
}

// How far a result may lie from the doubles': values are of size 1, bf16 rounds weights and results to 8
// bits.
template <class T>
constexpr double kAttentionTolerance = sizeof(T) == 4 ? 2e-6 : 1.2e-2;

// The largest difference to the reference; a huge one where there is a NaN.
template <class T>
double worst_difference(const Case& c, Memory<T>& m, const std::vector<T>& out) {
  const std::vector<double> found = to_double(out);
  const size_t width = size_t(c.shape.heads) * c.shape.dim;
  double worst = 0;
  for (size_t i = 0; i <= c.rows.size(); ++i) {
    const std::vector<double> expected = reference(c, m, i);
    for (size_t d = 0; d < width; ++d) {
      const double difference = std::abs(found[i * width + d] - expected[d]);
      worst = std::isnan(difference) ? 1e9 : std::max(worst, difference);
    }
  }
  return worst;
}

// Three trunks; rows that see nothing of theirs, one position, a border of tiles and chunks, all of it; a row
// that has ended; suffixes of one position, a whole tile, more tiles than warps.
inline Case mixed_case(const Shape& shape) {
  return {shape,
          {130, 1, 67},
          {{0, 130, 0},
           {2, 67, 39},
           {0, 0, 3},
           {1, 1, 15},
           {0, 64, 16},
           {0, 65, 7},
           {0, 129, 38, false},
           {2, 1, 31},
           {0, 63, 0},
           {1, 0, 1},
           {0, 128, 20}}};
}

}  // namespace decode_test
