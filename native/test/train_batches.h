// Random batches, saved files and comparisons for the trainer's tests.
#pragma once
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include "core/io/safetensors.h"
#include "core/train/batch.h"

namespace cft_test {

// Sequences of the given lengths with random tokens; about a third of the positions are selected, the next
// token being the target (a random one after the last), every weight 1 / count.
inline cft::TrainBatch make_batch(const std::vector<int64_t>& lengths, uint64_t seed, int64_t vocab = 67) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  cft::TrainBatch batch;
  batch.sequence_starts = {0};
  for (const int64_t length : lengths) batch.sequence_starts.push_back(batch.sequence_starts.back() + length);
  const int64_t total = batch.sequence_starts.back();
  const at::Tensor ids = at::randint(vocab, {total + 1}, generator, at::TensorOptions(at::kInt));
  const at::Tensor chosen = at::rand({total}, generator, at::TensorOptions(at::kFloat));
  batch.token_ids.assign(ids.const_data_ptr<int32_t>(), ids.const_data_ptr<int32_t>() + total);
  for (int64_t i = 0; i < total; ++i) {
    if (chosen[i].item<float>() > 0.35f) continue;
    batch.selected.push_back(i);
    batch.targets.push_back(ids[i + 1].item<int64_t>());
  }
  batch.weights.assign(batch.selected.size(), 1.0f / static_cast<float>(batch.selected.size()));
  return batch;
}

// A part of a batch: sequences [first, last), weights as they are.
inline cft::TrainBatch slice(const cft::TrainBatch& batch, size_t first, size_t last) {
  cft::TrainBatch part;
  const int64_t begin = batch.sequence_starts[first], end = batch.sequence_starts[last];
  part.token_ids.assign(batch.token_ids.begin() + begin, batch.token_ids.begin() + end);
  for (size_t s = first; s <= last; ++s) part.sequence_starts.push_back(batch.sequence_starts[s] - begin);
  for (size_t i = 0; i < batch.selected.size(); ++i) {
    if (batch.selected[i] < begin || batch.selected[i] >= end) continue;
    part.selected.push_back(batch.selected[i] - begin);
    part.targets.push_back(batch.targets[i]);
    part.weights.push_back(batch.weights[i]);
  }
  return part;
}

// A path that is removed with it.
struct TemporaryPath {
  explicit TemporaryPath(const std::string& name)
      : path((std::filesystem::temp_directory_path() / ("cft-" + std::to_string(::getpid()) + "-" + name))
                 .string()) {}
  ~TemporaryPath() { std::filesystem::remove(path); }
  std::string path;
};

// The table of a file that write_safetensors wrote.
inline std::vector<cft::TensorEntry> read_entries(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  uint64_t size = 0;
  file.read(reinterpret_cast<char*>(&size), sizeof size);
  std::string header(size, ' ');
  file.read(header.data(), static_cast<std::streamsize>(size));
  static const std::regex pattern(
      R"re("([^"]+)":\{"dtype":"(\w+)","shape":\[([\d,]*)\],"data_offsets":\[(\d+),(\d+)\]\})re");
  std::vector<cft::TensorEntry> entries;
  for (std::sregex_iterator match(header.begin(), header.end(), pattern), end; match != end; ++match) {
    cft::TensorEntry entry;
    entry.name = (*match)[1];
    entry.file = path;
    entry.dtype = (*match)[2] == "BF16" ? at::kBFloat16 : at::kFloat;
    const std::string shape = (*match)[3];
    static const std::regex number(R"(\d+)");
    for (std::sregex_iterator n(shape.begin(), shape.end(), number); n != end; ++n) {
      entry.shape.push_back(std::stoll(n->str()));
    }
    const uint64_t first = std::stoull((*match)[4]), last = std::stoull((*match)[5]);
    entry.offset = sizeof size + header.size() + first;
    entry.byte_length = last - first;
    entries.push_back(entry);
  }
  return entries;
}

// True where every bit agrees.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         std::memcmp(a.contiguous().data_ptr(), b.contiguous().data_ptr(), a.nbytes()) == 0;
}

// Largest difference, relative to the largest value of `expected`.
inline double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  const double scale = expected.abs().max().item<double>();
  return (found - expected).abs().max().item<double>() / (scale > 0 ? scale : 1);
}

}  // namespace cft_test
