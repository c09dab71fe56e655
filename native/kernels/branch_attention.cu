#include <cuda_runtime.h>

#include "kernels/branch_attention.cuh"

namespace cft::kernels {
namespace {

template <class Kernel>
cudaError_t allow_shared(Kernel kernel, int bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

template <class T, int kDim>
cudaError_t trunk(const CftDecodeState& state, const CftLayerCache& cache, const CftAttention& work,
                  cudaStream_t stream) {
  const auto kernel = trunk_attention_kernel<T, kDim>;
  constexpr int kThreads = 32 * kTrunkWarps, kShared = kTrunkShared<T, kDim>;
  if (const cudaError_t error = allow_shared(kernel, kShared)) return error;
  // As many blocks as run at once; they walk the work, whose amount stands on the device.
  int device = 0, processors = 0, per_processor = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  if (const cudaError_t error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device))
    return error;
  if (const cudaError_t error =
          cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, kThreads, kShared))
    return error;
  const int64_t items = static_cast<int64_t>(work.most_tiles) * cache.kv_heads * work.chunks;
  if (items == 0) return cudaSuccess;
  const int64_t blocks = smaller<int64_t>(items, static_cast<int64_t>(processors) * larger(per_processor, 1));
  kernel<<<static_cast<unsigned>(blocks), kThreads, kShared, stream>>>(state, cache, work);
  return cudaGetLastError();
}

template <class T, int kDim>
cudaError_t suffix(const CftDecodeState& state, const CftLayerCache& cache, const CftAttention& work,
                   cudaStream_t stream) {
  const auto kernel = suffix_attention_kernel<T, kDim>;
  constexpr int kShared = kSuffixShared<T, kDim>;
  if (const cudaError_t error = allow_shared(kernel, kShared)) return error;
  const int group = cache.heads / cache.kv_heads;
  const dim3 grid(static_cast<unsigned>(state.rows), static_cast<unsigned>(cache.kv_heads),
                  static_cast<unsigned>((group + kWarpQueries - 1) / kWarpQueries));
  kernel<<<grid, 32 * kSuffixWarps<T>, kShared, stream>>>(state, cache, work);
  return cudaGetLastError();
}

bool supported(const CftLayerCache& cache, const CftAttention& work) {
  return cft_trunk_tile_rows(cache.heads, cache.kv_heads) > 0 && cache.head_dim > 0 &&
         cache.head_dim % 8 == 0 && cache.head_dim <= 256 && work.chunk_positions > 0 &&
         work.chunk_positions % 64 == 0;
}

template <class T>
int trunk_any(const CftDecodeState* state, const CftLayerCache* cache, const CftAttention* work,
              void* stream) {
  if (!supported(*cache, *work)) return cudaErrorInvalidValue;
  if (state->rows == 0) return cudaSuccess;
  const auto run = cache->head_dim <= 64    ? trunk<T, 64>
                   : cache->head_dim <= 128 ? trunk<T, 128>
                                            : trunk<T, 256>;
  return run(*state, *cache, *work, static_cast<cudaStream_t>(stream));
}

template <class T>
int suffix_any(const CftDecodeState* state, const CftLayerCache* cache, const CftAttention* work,
               void* stream) {
  if (!supported(*cache, *work)) return cudaErrorInvalidValue;
  if (state->rows == 0) return cudaSuccess;
  const auto run = cache->head_dim <= 64    ? suffix<T, 64>
                   : cache->head_dim <= 128 ? suffix<T, 128>
                                            : suffix<T, 256>;
  return run(*state, *cache, *work, static_cast<cudaStream_t>(stream));
}

}  // namespace
}  // namespace cft::kernels

int32_t cft_trunk_tile_rows(int32_t heads, int32_t kv_heads) {
  if (kv_heads <= 0 || heads % kv_heads != 0) return 0;
  return cft::kernels::kTrunkQueries / (heads / kv_heads);
}

int cft_trunk_attention_float32(const CftDecodeState* state, const CftLayerCache* cache,
                                const CftAttention* attention, void* stream) {
  return cft::kernels::trunk_any<float>(state, cache, attention, stream);
}

int cft_trunk_attention_bfloat16(const CftDecodeState* state, const CftLayerCache* cache,
                                 const CftAttention* attention, void* stream) {
  return cft::kernels::trunk_any<cft::kernels::Bf16>(state, cache, attention, stream);
}

int cft_suffix_attention_float32(const CftDecodeState* state, const CftLayerCache* cache,
                                 const CftAttention* attention, void* stream) {
  return cft::kernels::suffix_any<float>(state, cache, attention, stream);
}

int cft_suffix_attention_bfloat16(const CftDecodeState* state, const CftLayerCache* cache,
                                  const CftAttention* attention, void* stream) {
  return cft::kernels::suffix_any<cft::kernels::Bf16>(state, cache, attention, stream);
}
