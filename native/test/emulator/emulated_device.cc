#include "test/emulator/emulated_device.h"

#include <c10/util/Exception.h>

#include <limits>

#include "kernels/branch_attention.cuh"
#include "kernels/elementwise.cuh"
#include "kernels/end_step.cuh"
#include "kernels/rms_norm.cuh"
#include "kernels/split_qkv.cuh"

namespace emulated {
namespace {

using cft::kernels::Bf16;
using emulator::Order;

template <class... Arguments>
int launch(Dim3 grid, unsigned threads, size_t shared, const Arguments&... kernel) {
  emulator::launch(grid, {threads}, shared, Order::kForward, kernel...);
  return 0;
}

unsigned blocks_of(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

int refill_slots(const CftSlotRecord* records, int32_t count, const CftDecodeState* state, void*) {
  return launch({blocks_of(count, 128)}, 128, 0,
                [&] { cft::kernels::refill_slots_kernel<128>(records, count, *state); });
}

template <class T>
int begin_step(const CftDecodeState* state, const CftBeginStep* step, void*) {
  return launch({unsigned(state->rows)}, cft::kernels::kBeginStepThreads, 0,
                [&] { cft::kernels::begin_step_kernel<T, 1>(*state, *step); });
}

template <class T>
int split_qkv(const CftDecodeState* state, const CftLayerCache* cache, const CftSplitQkv* split, void*) {
  return launch({unsigned(state->rows)}, cft::kernels::kSplitQkvThreads, cft::kernels::kSplitQkvShared,
                [&] { cft::kernels::split_qkv_kernel<T>(*state, *cache, *split); });
}

// head_dim up to 64: what the tests' models have.
template <class T>
int trunk_attention(const CftDecodeState* state, const CftLayerCache* cache, const CftAttention* work,
                    void*) {
  return launch({2}, 32 * cft::kernels::kTrunkWarps, cft::kernels::kTrunkShared<T, 64>,
                [&] { cft::kernels::trunk_attention_kernel<T, 64>(*state, *cache, *work); });
}

template <class T>
int suffix_attention(const CftDecodeState* state, const CftLayerCache* cache, const CftAttention* work,
                     void*) {
  const auto groups = blocks_of(cache->heads / cache->kv_heads, cft::kernels::kWarpQueries);
  return launch({unsigned(state->rows), unsigned(cache->kv_heads), groups},
                32 * cft::kernels::kSuffixWarps<T>, cft::kernels::kSuffixShared<T, 64>,
                [&] { cft::kernels::suffix_attention_kernel<T, 64>(*state, *cache, *work); });
}

template <class T>
int swiglu(const void* gate_up, void* y, int64_t rows, int64_t width, void*) {
  return launch(
      {blocks_of(width, cft::kernels::kSwigluThreads), unsigned(rows)}, cft::kernels::kSwigluThreads, 0,
      [&] { cft::kernels::swiglu_kernel<T, 1>(static_cast<const T*>(gate_up), static_cast<T*>(y), width); });
}

template <class T, bool kAdd>
int rms_norm(const void* x, const void* weight, void* y, int64_t rows, int64_t width, float eps, void*) {
  const int threads = cft::kernels::row_threads(width);
  return launch({unsigned(rows)}, unsigned(threads), threads / 32 * sizeof(float), [&] {
    cft::kernels::rms_norm_kernel<T, 1, kAdd>(static_cast<const T*>(x), static_cast<const T*>(weight),
                                              static_cast<T*>(y), width, eps);
  });
}

template <class T>
int add_rms_norm(const void* x, void* residual, const void* weight, void* y, int64_t rows, int64_t width,
                 float eps, void*) {
  const int threads = cft::kernels::add_rms_norm_threads(width);
  return launch({unsigned(rows)}, unsigned(threads), threads / 32 * sizeof(float), [&] {
    cft::kernels::add_rms_norm_kernel<T, 1>(static_cast<const T*>(x), static_cast<T*>(residual),
                                            static_cast<const T*>(weight), static_cast<T*>(y), width, eps);
  });
}

int64_t argmax_blocks(int64_t vocab) { return blocks_of(vocab, cft::kernels::kArgmaxElements); }

template <bool kArgmax, bool kAdvance>
int end_step(const CftDecodeState* state, const CftEndStep* end) {
  return launch(
      {blocks_of(state->rows, cft::kernels::kEndStepWarps)}, 32 * cft::kernels::kEndStepWarps, 0, [&] {
        cft::kernels::end_step_kernel<kArgmax, kAdvance>(*state, *end, int(argmax_blocks(end->vocab)));
      });
}

template <class T, bool kAdvance>
int argmax(const CftDecodeState* state, const CftEndStep* end, void*) {
  launch({unsigned(argmax_blocks(end->vocab)), unsigned(state->rows)}, cft::kernels::kArgmaxThreads,
         cft::kernels::kArgmaxShared, [&] { cft::kernels::argmax_blocks_kernel<T, 1>(*state, *end); });
  return end_step<true, kAdvance>(state, end);
}

int advance(const CftDecodeState* state, const CftEndStep* end, void*) {
  return end_step<false, true>(state, end);
}

int32_t trunk_tile_rows(int32_t heads, int32_t kv_heads) {
  return cft::kernels::kTrunkQueries / (heads / kv_heads);
}

template <class T>
const cft::DecodeKernels kTable{
    refill_slots, begin_step<T>,       split_qkv<T>,      trunk_attention<T>, suffix_attention<T>,
    swiglu<T>,    rms_norm<T, false>,  rms_norm<T, true>, add_rms_norm<T>,    argmax<float, false>,
    advance,      argmax<float, true>, trunk_tile_rows,   argmax_blocks};

class Graph : public cft::DeviceGraph {
 public:
  Graph(std::function<void()> work, int64_t& replayed) : work_(std::move(work)), replayed_(replayed) {}
  void replay() override {
    work_();
    ++replayed_;
  }

 private:
  const std::function<void()> work_;
  int64_t& replayed_;
};

}  // namespace

at::Tensor Runtime::empty(at::IntArrayRef shape, at::ScalarType dtype) {
  const at::Tensor tensor = at::empty(shape, dtype);
  TORCH_CHECK_WITH(OutOfMemoryError, tensor.numel() <= largest && refuse-- != 0,
                   "the emulated device is full");
  if (at::isFloatingType(dtype)) {
    tensor.fill_(std::numeric_limits<double>::quiet_NaN());
  } else {
    tensor.fill_(-77);
  }
  return tensor;
}

at::Tensor Runtime::staging(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::full(shape, -77, dtype);
}

std::unique_ptr<cft::DeviceGraph> Runtime::capture(const std::function<void()>& work) {
  ++captured;
  return std::make_unique<Graph>(work, replayed);
}

const cft::DecodeKernels* kernels(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? &kTable<Bf16> : &kTable<float>;
}

}  // namespace emulated
