#include "core/rollout/cpu/packed_model.h"

#include <ATen/Parallel.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/model/decoder.h"
#include "core/ops/cpu/bf16_tiles.h"

namespace cft::cpu {
namespace {

// Tables grow by blocks of this many positions, so that a position's angles never depend on how many were
// asked for (libtorch's vectors and their tails may differ in the last bit).
constexpr int64_t kAngleBlock = 512;

uint16_t high_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>(bits >> 16);
}

bool fits_bf16(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kBFloat16) return true;
  const at::Tensor flat = tensor.contiguous();
  const float* data = flat.const_data_ptr<float>();
  for (int64_t i = 0; i < flat.numel(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, data + i, sizeof bits);
    if ((bits & 0xffff) != 0) return false;
  }
  return true;
}

}  // namespace

void linear(const Kernels& kernels, const LinearTask& task) {
  if (task.weight->layout == WeightLayout::kBf16Tiles) {
    bf16_tile_linear(task, bf16_tile_multiply());
  } else {
    kernels.linear(task);
  }
}

void PackedModel::Free::operator()(void* p) const { std::free(p); }

float* PackedModel::allocate(int64_t count) {
  const size_t wanted = static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(float);
  const size_t alignment = wanted >= (size_t{4} << 20) ? size_t{2} << 20 : 64;
  const size_t bytes = (wanted + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, bytes);
  if (p == nullptr) throw std::bad_alloc();
  memory_.emplace_back(p);
#if defined(__linux__)
  // Weights are streamed from end to end: fewer, larger pages to look up.
  if (bytes >= (size_t{4} << 20)) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return static_cast<float*>(p);
}

// row_of(output) is the weight's row that gives it, or -1 for padding.
template <class Row>
PackedWeight PackedModel::pack_rows(int64_t out, int64_t in, const at::Tensor& weight, const at::Tensor& bias,
                                    const Row& row_of) {
  PackedWeight packed;
  packed.layout = layout_;
  packed.in = in;
  packed.out = out;
  packed.panel = panel_;
  const int64_t panels = packed.panels(), panel = panel_;
  const bool tiles = layout_ == WeightLayout::kBf16Tiles;
  const int64_t padded_in = tiles ? (in + 1) / 2 * 2 : in, count = panels * padded_in * panel;
  float* data = allocate(layout_ == WeightLayout::kFloat ? count : (count + 1) / 2);
  uint16_t* halves = reinterpret_cast<uint16_t*>(data);
  packed.data = data;
  const at::Tensor rows = weight.contiguous();
  const bool from_bf16 = rows.scalar_type() == at::kBFloat16;
  const float* wide = from_bf16 ? nullptr : rows.const_data_ptr<float>();
  const uint16_t* narrow =
      from_bf16 ? reinterpret_cast<const uint16_t*>(rows.const_data_ptr<at::BFloat16>()) : nullptr;
  at::parallel_for(0, panels, 1, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      for (int64_t j = 0; j < panel; ++j) {
        const int64_t column = p * panel + j, row = column < out ? row_of(column) : -1;
        for (int64_t k = 0; k < padded_in; ++k) {
          const int64_t to =
              tiles ? (p * padded_in + k / 2 * 2) * panel + j * 2 + k % 2 : (p * in + k) * panel + j;
          const bool inside = row >= 0 && k < in;
          if (layout_ == WeightLayout::kFloat) {
            data[to] = inside ? wide[row * in + k] : 0.0f;
          } else {
            halves[to] = !inside     ? uint16_t{0}
                         : from_bf16 ? narrow[row * in + k]
                                     : high_half(wide[row * in + k]);
          }
        }
      }
    }
  });
  if (bias.defined()) {
    const at::Tensor values = bias.to(at::kFloat).contiguous();
    float* padded = allocate(panels * panel);
    for (int64_t column = 0; column < panels * panel; ++column) {
      const int64_t row = column < out ? row_of(column) : -1;
      padded[column] = row < 0 ? 0.0f : values.const_data_ptr<float>()[row];
    }
    packed.bias = padded;
  }
  return packed;
}

PackedWeight PackedModel::pack(const at::Tensor& weight, const at::Tensor& bias) {
  return pack_rows(weight.size(0), weight.size(1), weight, bias, [](int64_t column) { return column; });
}

PackedWeight PackedModel::pack_gate_up(const at::Tensor& gate_up, const at::Tensor& bias) {
  const int64_t half = panel_ / 2, size = config_.intermediate_size;
  const int64_t groups = (size + half - 1) / half;
  return pack_rows(groups * 2 * half, gate_up.size(1), gate_up, bias, [=](int64_t column) {
    const int64_t lane = column % (2 * half), neuron = column / (2 * half) * half + lane % half;
    if (neuron >= size) return int64_t{-1};
    return lane < half ? neuron : size + neuron;
  });
}

PackedModel::PackedModel(const Model& model, const Kernels& kernels, bool tiles)
    : kernels_(kernels),
      config_(model.config()),
      embedding_(model.embedding()),
      half_dim_(model.config().head_dim / 2) {
  if (tiles && model.dtype() == at::kBFloat16) {
    layout_ = WeightLayout::kBf16Tiles;
    panel_ = kTilePanel;
  } else {
    // fp32 copies of bf16 weights lose nothing as bf16, take half the memory and give the same bits.
    const bool fits = std::all_of(
        model.parameters().begin(), model.parameters().end(),
        [](const auto& parameter) { return parameter.second.dim() != 2 || fits_bf16(parameter.second); });
    layout_ = fits ? WeightLayout::kBf16 : WeightLayout::kFloat;
    panel_ = kernels.panel;
  }
  auto copy = [&](const at::Tensor& tensor) -> const float* {
    if (!tensor.defined()) return nullptr;
    const at::Tensor values = tensor.to(at::kFloat).contiguous();
    float* data = allocate(values.numel());
    std::copy_n(values.const_data_ptr<float>(), values.numel(), data);
    return data;
  };
  for (const LayerWeights& w : model.layers()) {
    PackedLayer layer;
    layer.qkv = pack(w.qkv.weight, w.qkv.bias);
    layer.o = pack(w.o.weight, w.o.bias);
    layer.gate_up = pack_gate_up(w.gate_up.weight, w.gate_up.bias);
    layer.down = pack(w.down.weight, w.down.bias);
    layer.attention_norm = copy(w.attention_norm);
    layer.mlp_norm = copy(w.mlp_norm);
    layer.q_norm = copy(w.q_norm);
    layer.k_norm = copy(w.k_norm);
    layers_.push_back(layer);
  }
  head_ = pack(model.head().weight, model.head().bias);
  final_norm_ = copy(model.final_norm());
  angles_.resize(config_.ropes.size());
}

std::shared_ptr<const PackedModel> PackedModel::of(Model& model) {
  return model.cached<PackedModel>(
      [&] { return std::make_shared<const PackedModel>(model, cpu::kernels(), bf16_tiles_work()); });
}

int64_t PackedModel::bytes_for(const Model& model) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : model.parameters()) bytes += tensor.numel() * tensor.element_size();
  if (model.config().tie_word_embeddings) return bytes;
  return bytes - model.embedding().numel() * model.embedding().element_size();
}

void PackedModel::embed(int32_t token, float* out) const {
  const int64_t hidden = config_.hidden_size;
  if (embedding_.scalar_type() == at::kFloat) {
    std::copy_n(embedding_.const_data_ptr<float>() + token * hidden, hidden, out);
    return;
  }
  const at::BFloat16* row = embedding_.const_data_ptr<at::BFloat16>() + token * hidden;
  for (int64_t i = 0; i < hidden; ++i) out[i] = static_cast<float>(row[i]);
}

const float* PackedModel::angle(int64_t rope, int64_t position) const {
  return angles_[rope][position / kAngleBlock].data() + position % kAngleBlock * 2 * half_dim_;
}

void PackedModel::reach(int64_t position) const {
  for (size_t rope = 0; rope < angles_.size(); ++rope) {
    auto& blocks = angles_[rope];
    while (static_cast<int64_t>(blocks.size()) <= position / kAngleBlock) {
      const int64_t first = static_cast<int64_t>(blocks.size()) * kAngleBlock;
      const RopeTables tables = rope_tables(config_.ropes[rope], at::arange(first, first + kAngleBlock));
      const at::Tensor both =
          at::cat({tables.cos.narrow(1, 0, half_dim_), tables.sin.narrow(1, 0, half_dim_)}, 1).contiguous();
      const float* data = both.const_data_ptr<float>();
      blocks.emplace_back(data, data + both.numel());
    }
  }
}

}  // namespace cft::cpu
