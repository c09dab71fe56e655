#include "core/ops/branch_attention.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/ops/simd.h"

namespace cft::ops {
namespace {

using simd::kLanes;
using simd::Vec;

// One run of keys and values at consecutive positions of one kv head.
struct Span {
  const float* keys;
  const float* values;
  int64_t count;
  int64_t stride;  // floats between positions
};

CFT_INLINE void multiply_add(Vec& total, const float* a, const float* b) {
  Vec x, y;
  simd::load(x, a);
  simd::load(y, b);
  total += x * y;
}

// scores[i] = query . keys[i] * scale; returns the largest.
CFT_INLINE float score_span(const float* query, const Span& span, int64_t dim, float scale, float* scores) {
  const int64_t whole = dim / kLanes * kLanes;
  int64_t i = 0;
  for (; i + 4 <= span.count; i += 4) {  // four at a time: their sums across lanes cost as much as one
    Vec totals[4] = {};
    for (int64_t d = 0; d < whole; d += kLanes) {
      for (int64_t n = 0; n < 4; ++n)
        multiply_add(totals[n], query + d, span.keys + (i + n) * span.stride + d);
    }
    simd::sum4(scores + i, totals[0], totals[1], totals[2], totals[3]);
  }
  for (; i < span.count; ++i) {
    Vec total = {};
    for (int64_t d = 0; d < whole; d += kLanes)
      multiply_add(total, query + d, span.keys + i * span.stride + d);
    scores[i] = simd::sum(total);
  }
  float top = -std::numeric_limits<float>::infinity();
  for (i = 0; i < span.count; ++i) {
    for (int64_t d = whole; d < dim; ++d) scores[i] += query[d] * span.keys[i * span.stride + d];
    scores[i] *= scale;
    top = std::max(top, scores[i]);
  }
  return top;
}

// out += sum of weights[i] * values[i]
CFT_INLINE void add_values(const Span& span, int64_t dim, const float* weights, float* out) {
  constexpr int64_t kTogether = 4;  // independent sums in flight, to hide the latency of the additions
  int64_t d = 0;
  for (; d + kTogether * kLanes <= dim; d += kTogether * kLanes) {
    Vec totals[kTogether];
    for (int64_t n = 0; n < kTogether; ++n) simd::load(totals[n], out + d + n * kLanes);
    for (int64_t i = 0; i < span.count; ++i) {
      const float* values = span.values + i * span.stride + d;
      for (int64_t n = 0; n < kTogether; ++n) {
        Vec value;
        simd::load(value, values + n * kLanes);
        totals[n] += value * weights[i];
      }
    }
    for (int64_t n = 0; n < kTogether; ++n) simd::store(out + d + n * kLanes, totals[n]);
  }
  for (; d + kLanes <= dim; d += kLanes) {
    Vec total;
    simd::load(total, out + d);
    for (int64_t i = 0; i < span.count; ++i) {
      Vec value;
      simd::load(value, span.values + i * span.stride + d);
      total += value * weights[i];
    }
    simd::store(out + d, total);
  }
  for (; d < dim; ++d) {
    for (int64_t i = 0; i < span.count; ++i) out[d] += span.values[i * span.stride + d] * weights[i];
  }
}

// Softmax attention of one query over two spans. `scores` has room for both, rounded up to whole vectors.
CFT_MULTIVERSION void attend_one(const float* query, const Span* spans, int64_t dim, float scale,
                                 float* scores, float* out) {
  const int64_t count = spans[0].count + spans[1].count;
  const float top = std::max(score_span(query, spans[0], dim, scale, scores),
                             score_span(query, spans[1], dim, scale, scores + spans[0].count));
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  for (int64_t i = count; i < padded; ++i) scores[i] = -std::numeric_limits<float>::infinity();
  Vec total = {};
  for (int64_t i = 0; i < padded; i += kLanes) {
    Vec x;
    simd::load(x, scores + i);
    x -= top;
    simd::exp_in_place(x);
    if (i + kLanes > count) {
      for (int64_t lane = count - i; lane < kLanes; ++lane) x[lane] = 0.0f;
    }
    simd::store(scores + i, x);
    total += x;
  }
  std::fill(out, out + dim, 0.0f);
  add_values(spans[0], dim, scores, out);
  add_values(spans[1], dim, scores + spans[0].count, out);
  const float inverse = 1.0f / simd::sum(total);
  for (int64_t d = 0; d < dim; ++d) out[d] *= inverse;
}

at::Tensor branch_attention_float(const at::Tensor& queries, const std::vector<BranchRow>& rows,
                                  const at::Tensor& arena_keys, const at::Tensor& arena_values) {
  const int64_t heads = queries.size(1), dim = queries.size(2);
  const int64_t kv_heads = arena_keys.size(2), group = heads / kv_heads, stride = kv_heads * dim;
  const int64_t slot_stride = arena_keys.size(1) * stride;
  const at::Tensor contiguous = queries.contiguous();
  at::Tensor out = at::zeros({queries.size(0), heads * dim}, queries.options());
  const float* query_data = contiguous.const_data_ptr<float>();
  const float* suffix_keys = arena_keys.const_data_ptr<float>();
  const float* suffix_values = arena_values.const_data_ptr<float>();
  float* out_data = out.mutable_data_ptr<float>();
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));

  int64_t seen = 0;
  for (const BranchRow& row : rows)
    seen += row.trunk_end - row.trunk_begin + row.suffix_end - row.suffix_begin;
  // Rows per task such that a task is worth waking a thread for (a quarter of a million multiply-adds).
  const int64_t row_cost = std::max<int64_t>(seen * heads * dim * 2 / std::max<int64_t>(rows.size(), 1), 1);
  const int64_t grain = std::max<int64_t>(262144 / row_cost, 1);
  at::parallel_for(0, static_cast<int64_t>(rows.size()), grain, [&](int64_t begin, int64_t end) {
    std::vector<float> scores;
    for (int64_t b = begin; b < end; ++b) {
      const BranchRow& row = rows[b];
      const int64_t trunk_count = row.trunk_end - row.trunk_begin,
                    suffix_count = row.suffix_end - row.suffix_begin;
      scores.resize(trunk_count + suffix_count + kLanes);
      const float* trunk_keys = trunk_count > 0 ? row.trunk_keys->const_data_ptr<float>() : nullptr;
      const float* trunk_values = trunk_count > 0 ? row.trunk_values->const_data_ptr<float>() : nullptr;
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at_trunk = row.trunk_begin * stride + h / group * dim;
        const int64_t at_suffix = row.slot * slot_stride + row.suffix_begin * stride + h / group * dim;
        const Span spans[2] = {{trunk_keys + at_trunk, trunk_values + at_trunk, trunk_count, stride},
                               {suffix_keys + at_suffix, suffix_values + at_suffix, suffix_count, stride}};
        attend_one(query_data + (b * heads + h) * dim, spans, dim, scale, scores.data(),
                   out_data + (b * heads + h) * dim);
      }
    }
  });
  return out;
}

}  // namespace

at::Tensor branch_attention_reference(const at::Tensor& queries, const std::vector<BranchRow>& rows,
                                      const at::Tensor& arena_keys, const at::Tensor& arena_values) {
  const int64_t heads = queries.size(1), dim = queries.size(2), group = heads / arena_keys.size(2);
  at::Tensor out = at::zeros({queries.size(0), heads * dim}, queries.options());
  for (size_t b = 0; b < rows.size(); ++b) {
    const BranchRow& row = rows[b];
    auto gather = [&](const at::Tensor* trunk, const at::Tensor& arena) {
      at::Tensor own = arena.select(0, row.slot).slice(0, row.suffix_begin, row.suffix_end);
      if (row.trunk_end > row.trunk_begin) {
        own = at::cat({trunk->slice(0, row.trunk_begin, row.trunk_end), own}, 0);
      }
      return own.repeat_interleave(group, 1).permute({1, 0, 2});  // (heads, L, d)
    };
    const at::Tensor keys = gather(row.trunk_keys, arena_keys),
                     values = gather(row.trunk_values, arena_values);
    const at::Tensor query = queries.select(0, static_cast<int64_t>(b)).unsqueeze(1);  // (heads, 1, d)
    const at::Tensor scores =
        at::bmm(query, keys.transpose(1, 2)).to(at::kFloat) / std::sqrt(static_cast<double>(dim));
    const at::Tensor mixed = at::bmm(scores.softmax(-1).to(values.scalar_type()), values);  // (heads, 1, d)
    out.select(0, static_cast<int64_t>(b)).copy_(mixed.reshape({-1}));
  }
  return out;
}

at::Tensor branch_attention(const at::Tensor& queries, const std::vector<BranchRow>& rows,
                            const at::Tensor& arena_keys, const at::Tensor& arena_values) {
  if (queries.is_cpu() && queries.scalar_type() == at::kFloat) {
    return branch_attention_float(queries, rows, arena_keys, arena_values);
  }
  return branch_attention_reference(queries, rows, arena_keys, arena_values);
}

}  // namespace cft::ops
