// How the kernels of train.h are launched; train.cu compiles it for a GPU, the tests for the emulator. In an
// unnamed namespace, since both may be linked into one program.
#pragma once
#include "kernels/train_adamw.cuh"
#include "kernels/train_loss.cuh"
#include "kernels/train_norm.cuh"

namespace cft::kernels {
namespace {

constexpr int kInvalid = 1;  // cudaErrorInvalidValue

template <class T>
constexpr int kWide = 16 / sizeof(T);

// Calls `run` with a value of the type that a dtype stands for.
template <class Run>
int with_type(CftDtype dtype, const Run& run) {
  if (dtype == CFT_FLOAT32) return run(float{});
  return dtype == CFT_BFLOAT16 ? run(Bf16{}) : kInvalid;
}

int64_t norm_parts(int64_t rows) { return rows < kNormParts ? rows : kNormParts; }

int64_t squares_parts(int64_t count) {
  const int64_t parts = (count + kSquaresPerBlock - 1) / kSquaresPerBlock;
  return parts < kSquaresParts ? parts : kSquaresParts;
}

int norm_threads(int64_t packs) {
  const int64_t warps = (packs + 31) / 32;
  return static_cast<int>(warps < 32 ? warps : 32) * 32;
}

template <class T, int N>
int launch_norm(const CftTrainNorm& work, void* stream) {
  const int64_t packs = work.width / N;
  const size_t shared = kNormScratch * sizeof(float);
  if (packs <= kNarrowPacks) {
    const CftGrid grid{blocks_for(work.rows, kNormWarps), 1, 1};
    CFT_LAUNCH((train_norm_kernel<T, N, true>), grid, 32 * kNormWarps, shared, stream, work);
  } else {
    const CftGrid grid{static_cast<unsigned>(work.rows), 1, 1};
    CFT_LAUNCH((train_norm_kernel<T, N, false>), grid, norm_threads(packs), shared, stream, work);
  }
  return CFT_LAUNCH_STATUS;
}

template <class T, int N>
int launch_norm_backward(const CftTrainNorm& work, void* stream) {
  const int64_t packs = work.width / N, parts = norm_parts(work.rows);
  const bool narrow = packs <= kNarrowPacks, wanted = work.dweight != nullptr;
  const size_t sums = wanted ? static_cast<size_t>(work.width) * (narrow ? kNormWarps : 1) : 0;
  const size_t shared = (kNormScratch + sums) * sizeof(float);
  const CftGrid grid{static_cast<unsigned>(parts), 1, 1};
  if (narrow)
    CFT_LAUNCH((train_norm_backward_kernel<T, N, true>), grid, 32 * kNormWarps, shared, stream, work);
  else
    CFT_LAUNCH((train_norm_backward_kernel<T, N, false>), grid, norm_threads(packs), shared, stream, work);
  if (const int error = CFT_LAUNCH_STATUS; error != 0 || !wanted) return error;
  constexpr int kThreads = kSumColumns * kSumSlices;
  const CftGrid columns{blocks_for(work.width, kSumColumns), 1, 1};
  CFT_LAUNCH((train_norm_sum_kernel<N>), columns, kThreads, kThreads * sizeof(float), stream, work.partial,
             work.dweight, parts, work.width);
  return CFT_LAUNCH_STATUS;
}

int norm(const CftTrainNorm* work, void* stream) {
  if (work->rows == 0 || work->width == 0) return 0;
  return with_type(work->dtype, [&](auto type) {
    using T = decltype(type);
    const bool wide = work->width % kWide<T> == 0 && aligned(16, work->x, work->weight, work->y);
    return wide ? launch_norm<T, kWide<T>>(*work, stream) : launch_norm<T, 1>(*work, stream);
  });
}

int norm_backward(const CftTrainNorm* work, void* stream) {
  if (work->rows == 0 || work->width == 0) return work->dweight == nullptr ? 0 : kInvalid;
  return with_type(work->dtype, [&](auto type) {
    using T = decltype(type);
    const bool wide = work->width % kWide<T> == 0 && aligned(16, work->x, work->weight, work->dy, work->dx);
    return wide ? launch_norm_backward<T, kWide<T>>(*work, stream)
                : launch_norm_backward<T, 1>(*work, stream);
  });
}

template <class T, int N, bool kBackward>
int launch_swiglu(const CftTrainSwiglu& work, void* stream) {
  const CftGrid grid{static_cast<unsigned>(work.rows), blocks_for(work.width / N, kRowThreads), 1};
  CFT_LAUNCH((train_swiglu_kernel<T, N, kBackward>), grid, kRowThreads, 0, stream, work);
  return CFT_LAUNCH_STATUS;
}

int swiglu(const CftTrainSwiglu* work, void* stream) {
  if (work->rows == 0 || work->width == 0) return 0;
  return with_type(work->dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int N = kWide<T>;
    const bool wide =
        work->width % N == 0 && work->stride % N == 0 && aligned(16, work->gate, work->up, work->act);
    return wide ? launch_swiglu<T, N, false>(*work, stream) : launch_swiglu<T, 1, false>(*work, stream);
  });
}

int swiglu_backward(const CftTrainSwiglu* work, void* stream) {
  if (work->rows == 0 || work->width == 0) return 0;
  return with_type(work->dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int N = kWide<T>;
    const bool wide = work->width % N == 0 && work->stride % N == 0 && work->d_stride % N == 0 &&
                      aligned(16, work->gate, work->up, work->d_act, work->d_gate, work->d_up);
    return wide ? launch_swiglu<T, N, true>(*work, stream) : launch_swiglu<T, 1, true>(*work, stream);
  });
}

int rope(const CftTrainRope* work, void* stream) {
  if (work->head_dim % 2 != 0) return kInvalid;
  if (work->rows == 0 || work->heads == 0) return 0;
  return with_type(work->dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int N = kWide<T>;
    const CftGrid grid{static_cast<unsigned>(work->rows), 1, 1};
    const bool wide = work->head_dim % (2 * N) == 0 && work->x_stride % N == 0 && work->y_stride % N == 0 &&
                      aligned(16, work->x, work->y);
    if (wide)
      CFT_LAUNCH((train_rope_kernel<T, N>), grid, kRopeThreads, 0, stream, *work);
    else
      CFT_LAUNCH((train_rope_kernel<T, 1>), grid, kRopeThreads, 0, stream, *work);
    return CFT_LAUNCH_STATUS;
  });
}

int dropout(const CftTrainDropout* work, void* stream) {
  if (work->rows == 0 || work->width == 0) return 0;
  const auto limit = static_cast<uint32_t>(static_cast<double>(work->rate) * 4294967296.0);
  const float scale = 1.0f / (1.0f - work->rate);
  return with_type(work->dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int N = kWide<T>;
    const bool wide = work->width % N == 0 && aligned(16, work->x, work->y);
    const CftGrid grid{static_cast<unsigned>(work->rows),
                       blocks_for(work->width / (wide ? N : 1), kRowThreads), 1};
    if (wide)
      CFT_LAUNCH((train_dropout_kernel<T, N>), grid, kRowThreads, 0, stream, *work, limit, scale);
    else
      CFT_LAUNCH((train_dropout_kernel<T, 1>), grid, kRowThreads, 0, stream, *work, limit, scale);
    return CFT_LAUNCH_STATUS;
  });
}

template <class T, class S>
int launch_loss(const CftTrainLoss& work, void* stream) {
  constexpr int N = kWide<T>;
  const CftGrid grid{static_cast<unsigned>(work.rows), 1, 1};
  const bool wide = work.vocab % N == 0 && aligned(16, work.logits, work.slopes);
  if (wide)
    CFT_LAUNCH((train_loss_kernel<T, S, N>), grid, kLossThreads, kLossShared, stream, work);
  else
    CFT_LAUNCH((train_loss_kernel<T, S, 1>), grid, kLossThreads, kLossShared, stream, work);
  return CFT_LAUNCH_STATUS;
}

int loss(const CftTrainLoss* work, void* stream) {
  if (work->vocab <= 0) return kInvalid;
  if (work->rows == 0) return 0;
  if (work->dtype == CFT_BFLOAT16)
    return work->slopes_dtype == CFT_BFLOAT16 ? launch_loss<Bf16, Bf16>(*work, stream) : kInvalid;
  if (work->slopes_dtype == CFT_FLOAT32) return launch_loss<float, float>(*work, stream);
  return work->slopes == work->logits ? kInvalid : launch_loss<float, Bf16>(*work, stream);
}

// Enough blocks to fill any GPU; each thread walks on from there.
constexpr int64_t kMostBlocks = 4096;

int adamw(const CftTrainAdamW* work, void* stream) {
  if (work->weight == nullptr && work->half_weight == nullptr) return kInvalid;
  if (work->count == 0) return 0;
  const bool wide =
      work->count % 4 == 0 && aligned(16, work->gradient, work->weight, work->half_weight, work->m, work->v);
  const unsigned blocks = blocks_for(work->count / (wide ? 4 : 1), kAdamWThreads);
  const CftGrid grid{blocks < kMostBlocks ? blocks : static_cast<unsigned>(kMostBlocks), 1, 1};
  if (wide)
    CFT_LAUNCH(train_adamw_kernel<4>, grid, kAdamWThreads, 0, stream, *work);
  else
    CFT_LAUNCH(train_adamw_kernel<1>, grid, kAdamWThreads, 0, stream, *work);
  return CFT_LAUNCH_STATUS;
}

int squares(const CftTrainSquares* work, void* stream) {
  if (work->count == 0) return 0;
  const CftGrid grid{static_cast<unsigned>(squares_parts(work->count)), 1, 1};
  constexpr size_t kShared = kSquaresThreads / 32 * sizeof(double);
  if (work->count % 4 == 0 && aligned(16, work->x))
    CFT_LAUNCH(train_squares_kernel<4>, grid, kSquaresThreads, kShared, stream, *work);
  else
    CFT_LAUNCH(train_squares_kernel<1>, grid, kSquaresThreads, kShared, stream, *work);
  return CFT_LAUNCH_STATUS;
}

int clip(const CftTrainClip* work, void* stream) {
  constexpr size_t kShared = kSquaresThreads / 32 * sizeof(double);
  CFT_LAUNCH(train_clip_kernel<kSquaresThreads>, (CftGrid{1, 1, 1}), kSquaresThreads, kShared, stream, *work);
  return CFT_LAUNCH_STATUS;
}

}  // namespace
}  // namespace cft::kernels
