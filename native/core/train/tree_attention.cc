#include "core/train/tree_attention.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/ops/cpu/product.h"
#include "core/ops/cpu/train_kernels.h"

namespace cft {
namespace {

// Queries of one block: its scores stay in the second-level cache up to some hundred keys. Half of the square
// of a block and its own keys is computed in vain; libtorch's products are slow for fewer rows.
int64_t query_block() { return cpu::multiplies_itself() ? 48 : 128; }

// One segment and one key head.
struct Task {
  const TreeSegment* segment;
  int64_t index;  // of the segment
  int64_t kv_head;
};

// Queries of a segment, one block after the other: f(first query, count, keys that the block sees,
// positions).
template <class F>
void for_blocks(const TreeAttention& a, const TreeSegment& s, const F& f) {
  const int64_t first = a.selected_only ? s.first_query : s.first;
  const int64_t last = a.selected_only ? s.last_query : s.first + s.length;
  std::vector<int64_t> positions;
  const int64_t block = query_block();
  for (int64_t begin = first; begin < last; begin += block) {
    const int64_t count = std::min(block, last - begin);
    positions.clear();
    for (int64_t i = begin; i < begin + count; ++i)
      positions.push_back(a.tree.positions[a.selected_only ? a.tree.query_rows[i] : i]);
    f(begin, count, positions.back() + 1, positions.data());
  }
}

// Longest first, so that the threads end together; the results do not depend on the order.
std::vector<Task> tasks_of(const TreeAttention& a) {
  std::vector<Task> tasks;
  for (size_t i = 0; i < a.tree.segments.size(); ++i) {
    const TreeSegment& s = a.tree.segments[i];
    if (a.selected_only && s.first_query == s.last_query) continue;
    for (int64_t head = 0; head < a.kv_heads; ++head) tasks.push_back({&s, static_cast<int64_t>(i), head});
  }
  const auto cost = [](const Task& t) {
    return t.segment->length * (t.segment->position + t.segment->length);
  };
  std::ranges::stable_sort(tasks, std::greater<>(), cost);
  return tasks;
}

// In turn, thread by thread: the sorted tasks are dealt like cards.
template <class F>
void run_tasks(const std::vector<Task>& tasks, const F& f) {
  const auto count = static_cast<int64_t>(tasks.size());
  const int64_t hands = std::min<int64_t>(at::get_num_threads(), count);
  at::parallel_for(0, hands, 1, [&](int64_t begin, int64_t end) {
    const at::NoGradGuard no_grad;
    for (int64_t hand = begin; hand < end; ++hand) {
      for (int64_t i = hand; i < count; i += hands) f(tasks[i]);
    }
  });
}

// Ancestors of a segment, the root first.
std::vector<const TreeSegment*> ancestors(const PrefixTree& tree, const TreeSegment& segment) {
  std::vector<const TreeSegment*> path;
  for (int64_t i = segment.parent; i >= 0; i = tree.segments[i].parent) path.push_back(&tree.segments[i]);
  std::ranges::reverse(path);
  return path;
}

// The rows of `x` (rows, kv_heads * d) that a segment's queries see, of one head: (position + length, d).
at::Tensor path_rows(const PrefixTree& tree, const TreeSegment& s, const at::Tensor& x, int64_t head,
                     int64_t d) {
  const at::Tensor column = x.narrow(1, head * d, d);
  const at::Tensor own = column.narrow(0, s.first, s.length);
  if (s.parent < 0) return own;
  std::vector<at::Tensor> pieces;
  for (const TreeSegment* each : ancestors(tree, s))
    pieces.push_back(column.narrow(0, each->first, each->length));
  pieces.push_back(own);
  return at::cat(pieces, 0);
}

// From row `row` and column `column` of x on.
cpu::MatrixView block_of(const at::Tensor& x, int64_t row, int64_t column) {
  return {x.const_data_ptr<float>() + row * x.stride(0) + column, x.stride(0), 1};
}

float* place_of(const at::Tensor& x, int64_t row, int64_t column) {
  return x.mutable_data_ptr<float>() + row * x.stride(0) + column;
}

}  // namespace

at::Tensor TreeAttention::forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  at::Tensor& log_sums) const {
  const int64_t d = head_dim, group = heads / kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  at::Tensor out = at::empty({q.size(0), heads * d}, q.options());
  log_sums = at::empty({heads, q.size(0)}, q.options());
  const cpu::TrainKernels& kernels = cpu::train_kernels();
  run_tasks(tasks_of(*this), [&](const Task& task) {
    const at::Tensor keys = path_rows(tree, *task.segment, k, task.kv_head, d);
    const at::Tensor values = path_rows(tree, *task.segment, v, task.kv_head, d);
    const int64_t length = keys.size(0);
    const cpu::SharedFactor keys_across(cpu::view_of(keys.t()), d, length),
        value_rows(cpu::view_of(values), length, d);
    std::vector<float> scores(query_block() * length);
    for_blocks(
        *this, *task.segment, [&](int64_t first, int64_t count, int64_t visible, const int64_t* positions) {
          for (int64_t h = task.kv_head * group; h < (task.kv_head + 1) * group; ++h) {
            keys_across.multiply(block_of(q, first, h * d), count, d, visible, scores.data(), visible, false);
            kernels.causal_softmax(scores.data(), {count, visible, positions, window, scale},
                                   log_sums.mutable_data_ptr<float>() + h * q.size(0) + first);
            value_rows.multiply({scores.data(), visible, 1}, count, visible, d, place_of(out, first, h * d),
                                out.stride(0), false);
          }
        });
  });
  return out;
}

void TreeAttention::backward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const at::Tensor& out, const at::Tensor& log_sums, const at::Tensor& d_out,
                             const at::Tensor& d_q, const at::Tensor& d_k, const at::Tensor& d_v) const {
  const int64_t d = head_dim, group = heads / kv_heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const cpu::TrainKernels& kernels = cpu::train_kernels();
  d_k.zero_();
  d_v.zero_();
  const at::Tensor deltas =
      (out * d_out).view({out.size(0), heads, d}).sum(2).t().contiguous();  // (heads, queries)
  // What a segment's queries add to their ancestors' keys and values waits in a place of its own, so that the
  // sums have one order whatever the threads do.
  std::vector<at::Tensor> inherited(tree.segments.size());
  for (size_t i = 0; i < inherited.size(); ++i) {
    const TreeSegment& s = tree.segments[i];
    const bool asked = !selected_only || s.first_query < s.last_query;
    if (s.parent >= 0 && asked) inherited[i] = at::zeros({2, kv_heads, s.position, d}, q.options());
  }
  run_tasks(tasks_of(*this), [&](const Task& task) {
    const TreeSegment& s = *task.segment;
    const at::Tensor keys = path_rows(tree, s, k, task.kv_head, d);
    const at::Tensor values = path_rows(tree, s, v, task.kv_head, d);
    const auto own = [&](const at::Tensor& x) {
      return x.narrow(1, task.kv_head * d, d).narrow(0, s.first, s.length);
    };
    const bool root = s.parent < 0;
    const at::Tensor key_sums = root ? own(d_k) : at::zeros_like(keys),
                     value_sums = root ? own(d_v) : at::zeros_like(keys);
    const int64_t length = keys.size(0);
    const cpu::SharedFactor keys_across(cpu::view_of(keys.t()), d, length),
        values_across(cpu::view_of(values.t()), d, length), key_rows(cpu::view_of(keys), length, d);
    std::vector<float> scores(query_block() * length), gradients(query_block() * length);
    for_blocks(*this, s, [&](int64_t first, int64_t count, int64_t visible, const int64_t* positions) {
      // (visible, count), as the other factor of sums over queries
      const cpu::MatrixView scores_across{scores.data(), 1, visible},
          gradients_across{gradients.data(), 1, visible};
      for (int64_t h = task.kv_head * group; h < (task.kv_head + 1) * group; ++h) {
        const cpu::MatrixView queries = block_of(q, first, h * d), slopes = block_of(d_out, first, h * d);
        keys_across.multiply(queries, count, d, visible, scores.data(), visible, false);
        values_across.multiply(slopes, count, d, visible, gradients.data(), visible, false);
        const int64_t offset = h * q.size(0) + first;
        kernels.causal_softmax_backward(
            scores.data(), gradients.data(), {count, visible, positions, window, scale},
            log_sums.const_data_ptr<float>() + offset, deltas.const_data_ptr<float>() + offset);
        cpu::multiply(scores_across, slopes, visible, count, d, value_sums.mutable_data_ptr<float>(),
                      value_sums.stride(0), true);
        cpu::multiply(gradients_across, queries, visible, count, d, key_sums.mutable_data_ptr<float>(),
                      key_sums.stride(0), true);
        key_rows.multiply({gradients.data(), visible, 1}, count, visible, d, place_of(d_q, first, h * d),
                          d_q.stride(0), false);
      }
    });
    if (root) return;
    own(d_k).copy_(key_sums.narrow(0, s.position, s.length));
    own(d_v).copy_(value_sums.narrow(0, s.position, s.length));
    inherited[task.index].select(0, 0).select(0, task.kv_head).copy_(key_sums.narrow(0, 0, s.position));
    inherited[task.index].select(0, 1).select(0, task.kv_head).copy_(value_sums.narrow(0, 0, s.position));
  });
  for (size_t i = 0; i < inherited.size(); ++i) {
    if (!inherited[i].defined()) continue;
    for (const TreeSegment* each : ancestors(tree, tree.segments[i])) {
      for (const auto& [which, target] : {std::pair(0, &d_k), std::pair(1, &d_v)}) {
        const at::Tensor part = inherited[i].select(0, which).narrow(1, each->position, each->length);
        target->narrow(0, each->first, each->length).add_(part.transpose(0, 1).reshape({each->length, -1}));
      }
    }
  }
}

}  // namespace cft
