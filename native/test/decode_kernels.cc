// The decode step's kernels on a GPU, against doubles and against the same kernels under the emulator.
#ifdef CFT_CUDA
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include "kernels/elementwise.cuh"
#include "kernels/end_step.cuh"
#include "kernels/split_qkv.cuh"
#include "test/emulator/attention_case.h"

namespace {

using cft::kernels::Bf16;
using decode_test::Case;
using decode_test::kPoison;
using decode_test::Memory;
using decode_test::Slots;

bool no_gpu() {
  if (c10::cuda::device_count() > 0) return false;
  MESSAGE("no GPU: nothing compared");
  return true;
}

void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

// Copies of vectors on the GPU.
class Device {
 public:
  template <class T>
  T* put(const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    tensors_.push_back(
        at::empty({std::max<int64_t>(bytes, 1)}, at::TensorOptions().dtype(at::kByte).device(at::kCUDA)));
    if (bytes > 0) tensors_.back().copy_(at::from_blob(const_cast<T*>(values.data()), {bytes}, at::kByte));
    return static_cast<T*>(tensors_.back().data_ptr());
  }

  // The vector of that size which lies at `place`.
  template <class T>
  std::vector<T> get(const T* place, size_t count) {
    std::vector<T> values(count);
    for (const at::Tensor& tensor : tensors_)
      if (tensor.data_ptr() == place)
        at::from_blob(values.data(), {static_cast<int64_t>(count * sizeof(T))}, at::kByte).copy_(tensor);
    return values;
  }

  CftDecodeState state(Slots& slots) {
    CftDecodeState state = slots.state();
    state.slot_of_row = put(slots.slot_of_row);
    state.status = put(slots.status);
    state.token = put(slots.token);
    state.prefix = put(slots.prefix);
    state.suffix = put(slots.suffix);
    state.trunk_start = put(slots.trunk_start);
    state.budget = put(slots.budget);
    state.forced_count = put(slots.forced_count);
    state.forced_tokens = put(slots.forced_tokens);
    return state;
  }

 private:
  std::vector<at::Tensor> tensors_;
};

template <class T>
std::vector<T> on_gpu(const Case& c, Memory<T>& m) {
  const decode_test::Shape& s = c.shape;
  Device gpu;
  const CftDecodeState state = gpu.state(m.slots);
  const cft::kernels::TrunkTiles tiles = m.slots.tiles(cft_trunk_tile_rows(s.heads, s.kv_heads));
  const size_t rows = m.slots.slot_of_row.size();
  CftLayerCache cache;
  cache.arena_keys = gpu.put(m.arena_keys);
  cache.arena_values = gpu.put(m.arena_values);
  cache.trunk_keys = gpu.put(m.trunk_keys);
  cache.trunk_values = gpu.put(m.trunk_values);
  cache.trunk_positions = m.pool;
  cache.heads = s.heads;
  cache.kv_heads = s.kv_heads;
  cache.head_dim = s.dim;
  cache.window = s.window;
  CftAttention work;
  work.queries = gpu.put(m.queries);
  work.tiles = gpu.put(tiles.tiles);
  work.tile_count = gpu.put(std::vector<int32_t>{static_cast<int32_t>(tiles.tiles.size())});
  work.tile_rows = gpu.put(tiles.rows);
  work.most_tiles = static_cast<int32_t>(rows);
  work.chunk_positions = s.chunk;
  work.chunks = m.chunks;
  work.partial = gpu.put(std::vector<float>(rows * s.heads * m.chunks * s.dim, kPoison));
  work.partial_stats = gpu.put(std::vector<float>(rows * s.heads * m.chunks * 2, kPoison));
  T* out = gpu.put(decode_test::poisoned<T>(rows * s.heads * s.dim));
  work.out = out;
  const bool wide = sizeof(T) == 4;
  CHECK((wide ? cft_trunk_attention_float32 : cft_trunk_attention_bfloat16)(&state, &cache, &work,
                                                                            stream()) == 0);
  CHECK((wide ? cft_suffix_attention_float32 : cft_suffix_attention_bfloat16)(&state, &cache, &work,
                                                                              stream()) == 0);
  return gpu.get(out, rows * s.heads * s.dim);
}

template <class T>
void compare_attention(const decode_test::Shape& shape) {
  CAPTURE(shape.dim);
  CAPTURE(shape.window);
  CAPTURE(sizeof(T));
  const Case c = decode_test::mixed_case(shape);
  Memory<T> m(c, 11);
  const std::vector<T> out = on_gpu(c, m);
  CHECK(decode_test::worst_difference(c, m, out) < decode_test::kAttentionTolerance<T>);
}

// Rows of a step whose logits are fixed: what the end of the step makes of them.
struct EndCase {
  Slots slots{9, 8, 64};
  int64_t vocab = 20000;
  std::vector<Bf16> logits;

  EndCase() {
    std::mt19937 random(31);
    for (int32_t row = 0; row < 8; ++row) slots.slot_of_row[size_t(row)] = 7 - row;
    slots.status = {1, 1, 0, 1, 1, 1, 1, 1};
    slots.budget = {9, 1, 9, 9, 9, 9, 2, 9};
    logits = decode_test::random_values<Bf16>(random, size_t(9 * vocab));
  }

  CftEndStep end(Device& gpu) {
    CftEndStep end;
    const size_t blocks = 9 * size_t(cft_argmax_blocks(vocab));
    end.logits = gpu.put(logits);
    end.vocab = vocab;
    end.partial_values = gpu.put(std::vector<float>(blocks, kPoison));
    end.partial_indices = gpu.put(std::vector<int32_t>(blocks, -7));
    end.end_tokens = gpu.put(std::vector<int32_t>{5});
    end.end_token_count = 1;
    end.ring = gpu.put(std::vector<int32_t>(4 * 8, -7));
    end.ring_steps = 4;
    end.counters = gpu.put(std::vector<int32_t>{0, 0});
    return end;
  }
};

}  // namespace

TEST_CASE("CUDA: branch attention equals softmax in doubles") {
  if (no_gpu()) return;
  for (const decode_test::Shape& shape : {decode_test::Shape{4, 2, 64},
                                          {9, 3, 64, 30},
                                          {7, 1, 40},
                                          {3, 3, 8},
                                          {12, 2, 128},
                                          {12, 2, 128, 70},
                                          {3, 1, 72},
                                          {35, 1, 16},
                                          {2, 1, 136},
                                          {2, 1, 256}}) {
    compare_attention<float>(shape);
    compare_attention<Bf16>(shape);
  }
}

TEST_CASE("CUDA: split_qkv equals the emulator's") {
  if (no_gpu()) return;
  for (const int norm : {CFT_QK_NORM_NONE, CFT_QK_NORM_HEAD, CFT_QK_NORM_PROJECTION}) {
    const int heads = 6, kv_heads = 2, dim = 136, rows = 33, capacity = 5;
    const size_t width = (heads + 2 * kv_heads) * dim;
    std::mt19937 random(37);
    Slots slots(rows, rows, capacity);
    for (int32_t row = 0; row < rows; ++row) {
      slots.slot_of_row[size_t(row)] = row % 7 == 3 ? -1 : rows - 1 - row;
      slots.status[size_t(row)] = row % 5 > 0;
      slots.suffix[size_t(row)] = row % capacity;
    }
    const auto qkv = decode_test::random_values<float>(random, rows * width);
    const auto bias = decode_test::random_values<float>(random, width);
    const auto norms = decode_test::random_values<float>(random, heads * dim);
    const auto table = decode_test::random_values<float>(random, rows * dim);
    auto queries = decode_test::poisoned<float>(rows * heads * dim),
         arena = decode_test::poisoned<float>(rows * kv_heads * capacity * dim), values = arena;
    Device gpu;
    CftLayerCache cache;
    cache.heads = heads;
    cache.kv_heads = kv_heads;
    cache.head_dim = dim;
    CftSplitQkv split;
    split.norm = norm;
    split.eps = 1e-6f;
    CftLayerCache gpu_cache = cache;
    CftSplitQkv gpu_split = split;
    float* const found[] = {gpu.put(queries), gpu.put(arena), gpu.put(values)};
    gpu_split.queries = found[0];
    gpu_cache.arena_keys = found[1];
    gpu_cache.arena_values = found[2];
    gpu_split.qkv = gpu.put(qkv);
    gpu_split.bias = gpu.put(bias);
    gpu_split.q_norm = gpu_split.k_norm = gpu.put(norms);
    gpu_split.cos_sin = gpu.put(table);
    const CftDecodeState gpu_state = gpu.state(slots);
    CHECK(cft_split_qkv_float32(&gpu_state, &gpu_cache, &gpu_split, stream()) == 0);
    split.queries = queries.data();
    cache.arena_keys = arena.data();
    cache.arena_values = values.data();
    split.qkv = qkv.data();
    split.bias = bias.data();
    split.q_norm = split.k_norm = norms.data();
    split.cos_sin = table.data();
    const CftDecodeState state = slots.state();
    emulator::launch({rows}, {cft::kernels::kSplitQkvThreads}, cft::kernels::kSplitQkvShared,
                     emulator::Order::kForward,
                     [&] { cft::kernels::split_qkv_kernel<float>(state, cache, split); });
    const std::vector<float>* const expected[] = {&queries, &arena, &values};
    for (int i = 0; i < 3; ++i) {
      const at::Tensor a = at::tensor(gpu.get(found[i], expected[i]->size())), b = at::tensor(*expected[i]);
      CHECK(at::allclose(a, b, 1e-5, 1e-5, /*equal_nan=*/true));
    }
  }
}

TEST_CASE("CUDA: swiglu and norms equal libtorch") {
  if (no_gpu()) return;
  for (const int64_t width : {7, 1032, 8960}) {
    const at::Tensor x = at::randn({5, 2 * width}, at::kCUDA), weight = at::randn({2 * width}, at::kCUDA);
    const at::Tensor y = at::empty({5, width}, at::kCUDA), z = at::empty_like(x), sum = x.clone();
    CHECK(cft_swiglu_float32(x.data_ptr(), y.data_ptr(), 5, width, stream()) == 0);
    CHECK(cft_rms_norm_float32(x.data_ptr(), weight.data_ptr(), z.data_ptr(), 5, 2 * width, 1e-6f,
                               stream()) == 0);
    CHECK(cft_rms_norm_add_float32(x.data_ptr(), weight.data_ptr(), sum.data_ptr(), 5, 2 * width, 1e-6f,
                                   stream()) == 0);
    const at::Tensor normed = x * at::rsqrt(x.square().mean(-1, true) + 1e-6) * weight;
    CHECK(at::allclose(y, at::silu(x.narrow(1, 0, width)) * x.narrow(1, width, width), 1e-5, 1e-6));
    CHECK(at::allclose(z, normed, 1e-5, 1e-5));
    CHECK(at::allclose(sum, x + normed, 1e-5, 1e-5));
  }
}

TEST_CASE("CUDA: a captured end of a step, replayed, moves the slots on each time") {
  if (no_gpu()) return;
  const c10::cuda::CUDAStream side = c10::cuda::getStreamFromPool();
  const c10::cuda::CUDAStreamGuard guard(side);  // capture is refused on the default stream
  EndCase c;
  Device gpu;
  const CftEndStep end = c.end(gpu);
  const CftDecodeState state = gpu.state(c.slots);
  side.synchronize();
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  CHECK(cft_argmax_advance_bfloat16(&state, &end, stream()) == 0);
  graph.capture_end();
  for (int step = 0; step < 3; ++step) graph.replay();
  side.synchronize();
  std::vector<int32_t> ring(32, -7);
  for (int32_t row = 0; row < 8; ++row) {
    const auto slot = size_t(c.slots.slot_of_row[size_t(row)]);
    const auto first = c.logits.begin() + row * c.vocab;
    const auto best = std::max_element(first, first + c.vocab, [](Bf16 a, Bf16 b) {
      return cft::kernels::to_float(a) < cft::kernels::to_float(b);
    });
    for (int step = 0; step < std::min(3, c.slots.status[slot] * c.slots.budget[slot]); ++step)
      ring[size_t(step) * 8 + slot] = static_cast<int32_t>(best - first);
  }
  CHECK(gpu.get(end.ring, 32) == ring);
  CHECK(gpu.get(end.counters, 2) == std::vector<int32_t>{3, 0});
  CHECK(gpu.get(state.suffix, 8) == std::vector<int32_t>{3, 1, 0, 3, 3, 3, 2, 3});
  CHECK(gpu.get(state.status, 8) == std::vector<int32_t>{1, 0, 0, 1, 1, 1, 0, 1});
}
#endif
