#include "test/emulator/emulated_training.h"

#ifdef CFT_CUDA
#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>
#include <c10/util/Logging.h>  // before doctest: its CHECK would take the place of doctest's
#include <doctest.h>
#endif

#include <cmath>
#include <limits>

#include "kernels/train_launches.cuh"

namespace emulated {
namespace {

void* stream_of(at::Device) { return nullptr; }

bool attends(const at::Tensor& q) { return q.size(2) % 4 == 0; }

struct Sequence {
  at::Tensor q, k, v;  // (heads, L, d), keys and values spread over the query heads
  at::Tensor mask;     // (L, L)
  int64_t first, length, group;
  double scale;
};

Sequence sequence(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const cft::PackedSequences& sequences, int64_t s) {
  Sequence one;
  one.first = sequences.starts[s].item<int32_t>();
  one.length = sequences.starts[s + 1].item<int32_t>() - one.first;
  one.group = q.size(1) / k.size(1);
  one.scale = 1 / std::sqrt(static_cast<double>(q.size(2)));
  const auto cut = [&](const at::Tensor& x, int64_t group) {
    return x.narrow(0, one.first, one.length).to(at::kFloat).transpose(0, 1).repeat_interleave(group, 0);
  };
  one.q = cut(q, 1);
  one.k = cut(k, one.group);
  one.v = cut(v, one.group);
  const at::Tensor index = at::arange(one.length);
  const at::Tensor distance = index.unsqueeze(1) - index.unsqueeze(0);
  at::Tensor seen = distance.ge(0);
  if (sequences.window > 0) seen = seen.logical_and(distance.lt(sequences.window));
  one.mask = at::zeros({one.length, one.length})
                 .masked_fill_(seen.logical_not(), -std::numeric_limits<double>::infinity());
  return one;
}

at::Tensor scores(const Sequence& one) {
  return at::matmul(one.q, one.k.transpose(1, 2)) * one.scale + one.mask;
}

cft::AttentionResult attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const cft::PackedSequences& sequences) {
  cft::AttentionResult result{at::empty_like(q), at::empty({q.size(1), q.size(0)}, at::kFloat),
                              at::empty({0}), at::empty({0})};
  for (int64_t s = 0; s + 1 < sequences.starts.size(0); ++s) {
    const Sequence one = sequence(q, k, v, sequences, s);
    const at::Tensor all = scores(one);
    result.out.narrow(0, one.first, one.length).copy_(at::matmul(at::softmax(all, 2), one.v).transpose(0, 1));
    result.log_sums.narrow(1, one.first, one.length).copy_(at::logsumexp(all, {2}));
  }
  return result;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(const at::Tensor& d_out,
                                                                  const at::Tensor& q, const at::Tensor& k,
                                                                  const at::Tensor& v,
                                                                  const cft::AttentionResult& forward,
                                                                  const cft::PackedSequences& sequences) {
  const at::Tensor dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
  for (int64_t s = 0; s + 1 < sequences.starts.size(0); ++s) {
    const Sequence one = sequence(q, k, v, sequences, s);
    const auto cut = [&](const at::Tensor& x) {
      return x.narrow(0, one.first, one.length).to(at::kFloat).transpose(0, 1);
    };
    const at::Tensor p = (scores(one) - forward.log_sums.narrow(1, one.first, one.length).unsqueeze(2)).exp();
    const at::Tensor d = cut(d_out), delta = (d * cut(forward.out)).sum(2, true);
    const at::Tensor d_scores = p * (at::matmul(d, one.v.transpose(1, 2)) - delta) * one.scale;
    const auto put = [&](const at::Tensor& target, const at::Tensor& heads, int64_t group) {
      target.narrow(0, one.first, one.length)
          .copy_(heads.reshape({-1, group, one.length, q.size(2)}).sum(1).transpose(0, 1));
    };
    put(dq, at::matmul(d_scores, one.k), 1);
    put(dk, at::matmul(d_scores.transpose(1, 2), one.q), one.group);
    put(dv, at::matmul(p.transpose(1, 2), d), one.group);
  }
  return {dq, dk, dv};
}

}  // namespace

const cft::TrainDevice& train_device() {
  namespace kernels = cft::kernels;
  static const cft::TrainDevice table{kernels::norm_parts, kernels::squares_parts,
                                      kernels::norm,       kernels::norm_backward,
                                      kernels::swiglu,     kernels::swiglu_backward,
                                      kernels::rope,       kernels::dropout,
                                      kernels::loss,       kernels::adamw,
                                      kernels::squares,    kernels::clip,
                                      stream_of,           attends,
                                      attention,           attention_backward};
  return table;
}

#ifdef CFT_CUDA
void on_gpu(Place& place, void (*compare)()) {
  if (c10::cuda::device_count() == 0) {
    MESSAGE("no GPU: nothing compared");
    return;
  }
  place = {at::Device(at::kCUDA, 0), &cft::cuda_train_device()};
  compare();
  place = {};
}
#endif

}  // namespace emulated
