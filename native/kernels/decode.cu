// Launches of the decode step's kernels but attention.
#include <cuda_runtime.h>

#include "kernels/elementwise.cuh"
#include "kernels/end_step.cuh"
#include "kernels/split_qkv.cuh"

namespace cft::kernels {
namespace {

unsigned blocks_of(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

// Whether rows of `width` elements can be moved 16 bytes at a time.
template <class T>
bool packs(int64_t width, const void* a, const void* b, const void* c = nullptr) {
  const uintptr_t pointers =
      reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | reinterpret_cast<uintptr_t>(c);
  return width % (16 / sizeof(T)) == 0 && pointers % 16 == 0;
}

template <class T>
int begin_step(const CftDecodeState* state, const CftBeginStep* step, void* stream) {
  if (state->rows == 0) return cudaSuccess;
  const auto kernel = packs<T>(step->width, step->embedding, step->hidden)
                          ? begin_step_kernel<T, 16 / sizeof(T)>
                          : begin_step_kernel<T, 1>;
  kernel<<<static_cast<unsigned>(state->rows), kBeginStepThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      *state, *step);
  return cudaGetLastError();
}

template <class T>
int split_qkv(const CftDecodeState* state, const CftLayerCache* cache, const CftSplitQkv* split,
              void* stream) {
  if (cache->head_dim % 8 != 0 || cache->head_dim > 256) return cudaErrorInvalidValue;
  if (state->rows == 0) return cudaSuccess;
  split_qkv_kernel<T><<<static_cast<unsigned>(state->rows), kSplitQkvThreads, kSplitQkvShared,
                        static_cast<cudaStream_t>(stream)>>>(*state, *cache, *split);
  return cudaGetLastError();
}

template <class T, int N>
void launch_swiglu(const void* gate_up, void* y, int64_t rows, int64_t width, cudaStream_t stream) {
  const dim3 grid(blocks_of(width / N, kSwigluThreads), static_cast<unsigned>(rows));
  swiglu_kernel<T, N>
      <<<grid, kSwigluThreads, 0, stream>>>(static_cast<const T*>(gate_up), static_cast<T*>(y), width);
}

template <class T>
int swiglu(const void* gate_up, void* y, int64_t rows, int64_t width, void* stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  const auto run = packs<T>(width, gate_up, y) ? launch_swiglu<T, 16 / sizeof(T)> : launch_swiglu<T, 1>;
  run(gate_up, y, rows, width, static_cast<cudaStream_t>(stream));
  return cudaGetLastError();
}

template <class T, int N, bool kAdd>
void launch_rms_norm(const void* x, const void* weight, void* y, int64_t rows, int64_t width, float eps,
                     cudaStream_t stream) {
  const int threads = row_threads(width / N);
  rms_norm_kernel<T, N, kAdd><<<static_cast<unsigned>(rows), threads, threads / 32 * sizeof(float), stream>>>(
      static_cast<const T*>(x), static_cast<const T*>(weight), static_cast<T*>(y), width, eps);
}

template <class T, bool kAdd>
int rms_norm(const void* x, const void* weight, void* y, int64_t rows, int64_t width, float eps,
             void* stream) {
  if (rows == 0 || width == 0) return cudaSuccess;
  const auto run =
      packs<T>(width, x, weight, y) ? launch_rms_norm<T, 16 / sizeof(T), kAdd> : launch_rms_norm<T, 1, kAdd>;
  run(x, weight, y, rows, width, eps, static_cast<cudaStream_t>(stream));
  return cudaGetLastError();
}

template <bool kArgmax, bool kAdvance>
int end_step(const CftDecodeState& state, const CftEndStep& end, cudaStream_t stream) {
  end_step_kernel<kArgmax, kAdvance><<<blocks_of(state.rows, kEndStepWarps), 32 * kEndStepWarps, 0, stream>>>(
      state, end, static_cast<int>(cft_argmax_blocks(end.vocab)));
  return cudaGetLastError();
}

template <class T, bool kAdvance>
int argmax(const CftDecodeState* state, const CftEndStep* end, void* stream) {
  if (state->rows == 0) return cudaSuccess;
  if (end->vocab <= 0) return cudaErrorInvalidValue;
  const auto kernel = packs<T>(end->vocab, end->logits, nullptr) ? argmax_blocks_kernel<T, 16 / sizeof(T)>
                                                                 : argmax_blocks_kernel<T, 1>;
  const dim3 grid(static_cast<unsigned>(cft_argmax_blocks(end->vocab)), static_cast<unsigned>(state->rows));
  kernel<<<grid, kArgmaxThreads, kArgmaxShared, static_cast<cudaStream_t>(stream)>>>(*state, *end);
  if (const cudaError_t error = cudaGetLastError()) return error;
  return end_step<true, kAdvance>(*state, *end, static_cast<cudaStream_t>(stream));
}

}  // namespace
}  // namespace cft::kernels

using cft::kernels::Bf16;

int cft_refill_slots(const CftSlotRecord* records, int32_t count, const CftDecodeState* state, void* stream) {
  if (count == 0) return cudaSuccess;
  constexpr int kThreads = 128;
  cft::kernels::refill_slots_kernel<kThreads>
      <<<cft::kernels::blocks_of(count, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
          records, count, *state);
  return cudaGetLastError();
}

int cft_begin_step_float32(const CftDecodeState* state, const CftBeginStep* step, void* stream) {
  return cft::kernels::begin_step<float>(state, step, stream);
}

int cft_begin_step_bfloat16(const CftDecodeState* state, const CftBeginStep* step, void* stream) {
  return cft::kernels::begin_step<Bf16>(state, step, stream);
}

int cft_split_qkv_float32(const CftDecodeState* state, const CftLayerCache* cache, const CftSplitQkv* split,
                          void* stream) {
  return cft::kernels::split_qkv<float>(state, cache, split, stream);
}

int cft_split_qkv_bfloat16(const CftDecodeState* state, const CftLayerCache* cache, const CftSplitQkv* split,
                           void* stream) {
  return cft::kernels::split_qkv<Bf16>(state, cache, split, stream);
}

int cft_swiglu_float32(const void* gate_up, void* y, int64_t rows, int64_t width, void* stream) {
  return cft::kernels::swiglu<float>(gate_up, y, rows, width, stream);
}

int cft_swiglu_bfloat16(const void* gate_up, void* y, int64_t rows, int64_t width, void* stream) {
  return cft::kernels::swiglu<Bf16>(gate_up, y, rows, width, stream);
}

int cft_rms_norm_float32(const void* x, const void* weight, void* y, int64_t rows, int64_t width, float eps,
                         void* stream) {
  return cft::kernels::rms_norm<float, false>(x, weight, y, rows, width, eps, stream);
}

int cft_rms_norm_bfloat16(const void* x, const void* weight, void* y, int64_t rows, int64_t width, float eps,
                          void* stream) {
  return cft::kernels::rms_norm<Bf16, false>(x, weight, y, rows, width, eps, stream);
}

int cft_rms_norm_add_float32(const void* x, const void* weight, void* residual, int64_t rows, int64_t width,
                             float eps, void* stream) {
  return cft::kernels::rms_norm<float, true>(x, weight, residual, rows, width, eps, stream);
}

int cft_rms_norm_add_bfloat16(const void* x, const void* weight, void* residual, int64_t rows, int64_t width,
                              float eps, void* stream) {
  return cft::kernels::rms_norm<Bf16, true>(x, weight, residual, rows, width, eps, stream);
}

int64_t cft_argmax_blocks(int64_t vocab) {
  return (vocab + cft::kernels::kArgmaxElements - 1) / cft::kernels::kArgmaxElements;
}

int cft_argmax_float32(const CftDecodeState* state, const CftEndStep* end, void* stream) {
  return cft::kernels::argmax<float, false>(state, end, stream);
}

int cft_argmax_bfloat16(const CftDecodeState* state, const CftEndStep* end, void* stream) {
  return cft::kernels::argmax<Bf16, false>(state, end, stream);
}

int cft_advance(const CftDecodeState* state, const CftEndStep* end, void* stream) {
  if (state->rows == 0) return cudaSuccess;
  return cft::kernels::end_step<false, true>(*state, *end, static_cast<cudaStream_t>(stream));
}

int cft_argmax_advance_float32(const CftDecodeState* state, const CftEndStep* end, void* stream) {
  return cft::kernels::argmax<float, true>(state, end, stream);
}

int cft_argmax_advance_bfloat16(const CftDecodeState* state, const CftEndStep* end, void* stream) {
  return cft::kernels::argmax<Bf16, true>(state, end, stream);
}
