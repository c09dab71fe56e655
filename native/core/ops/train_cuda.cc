// The table of training on CUDA. Attention is libtorch's flash attention over packed sequences (Dao et al.,
// arXiv 2205.14135).
#ifdef CFT_CUDA
#include <ATen/Context.h>
#include <c10/cuda/CUDAStream.h>

#include "core/ops/train_device.h"

namespace cft {
namespace {

void* stream_of(at::Device device) { return c10::cuda::getCurrentCUDAStream(device.index()).stream(); }

// The widths that both directions of flash attention take; fp32 has no such kernel.
bool attends(const at::Tensor& q) {
  return q.scalar_type() == at::kBFloat16 && q.size(2) % 8 == 0 && q.size(2) <= 256;
}

// Keys from i - left to i + right are seen.
struct Sides {
  std::optional<int64_t> left, right;
  explicit Sides(int64_t window) {
    if (window == 0) return;
    left = window - 1;
    right = 0;
  }
};

AttentionResult attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const PackedSequences& sequences) {
  const Sides sides(sequences.window);
  const auto [out, log_sums, random_state, unused, debug] = at::_flash_attention_forward(
      q, k, v, sequences.starts, sequences.starts, sequences.longest, sequences.longest, /*dropout_p=*/0.0,
      /*is_causal=*/true, /*return_debug_mask=*/false, /*scale=*/std::nullopt, sides.left, sides.right);
  return {out, log_sums, random_state, unused};
}

// Flash attention's backward adds up in an order of its own where libtorch is asked for determinism. Asked
// for this one operation: elsewhere the same switch fills fresh memory and warns.
class Deterministic {
 public:
  Deterministic() {
    at::globalContext().setDeterministicAlgorithms(true, false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  ~Deterministic() {
    at::globalContext().setDeterministicAlgorithms(on_, warns_);
    at::globalContext().setDeterministicFillUninitializedMemory(fills_);
  }
  Deterministic(const Deterministic&) = delete;
  Deterministic& operator=(const Deterministic&) = delete;

 private:
  const bool on_ = at::globalContext().deterministicAlgorithms();
  const bool warns_ = at::globalContext().deterministicAlgorithmsWarnOnly();
  const bool fills_ = at::globalContext().deterministicFillUninitializedMemory();
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(const at::Tensor& d_out,
                                                                  const at::Tensor& q, const at::Tensor& k,
                                                                  const at::Tensor& v,
                                                                  const AttentionResult& forward,
                                                                  const PackedSequences& sequences) {
  const Deterministic deterministic;
  const Sides sides(sequences.window);
  return at::_flash_attention_backward(d_out, q, k, v, forward.out, forward.log_sums, sequences.starts,
                                       sequences.starts, sequences.longest, sequences.longest,
                                       /*dropout_p=*/0.0, /*is_causal=*/true, forward.random_state,
                                       forward.unused, /*scale=*/std::nullopt, sides.left, sides.right);
}

}  // namespace

const TrainDevice& cuda_train_device() {
  static const TrainDevice table{cft_train_norm_parts,
                                 cft_train_squares_parts,
                                 cft_train_norm,
                                 cft_train_norm_backward,
                                 cft_train_swiglu,
                                 cft_train_swiglu_backward,
                                 cft_train_rope,
                                 cft_train_dropout,
                                 cft_train_loss,
                                 cft_train_adamw,
                                 cft_train_squares,
                                 cft_train_clip,
                                 stream_of,
                                 attends,
                                 attention,
                                 attention_backward};
  return table;
}

}  // namespace cft
#endif
