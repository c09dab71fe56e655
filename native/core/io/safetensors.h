// Reading tensors from memory-mapped safetensors files and writing such files. Headers are parsed and checked
// in TypeScript (lib/model/safetensors.ts); this side gets tables of entries and still refuses what lies
// outside a file.
#pragma once
#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cft {

// One tensor inside a file.
struct TensorEntry {
  std::string name;
  std::string file;
  at::ScalarType dtype = at::kFloat;  // kFloat, kHalf or kBFloat16
  std::vector<int64_t> shape;
  uint64_t offset = 0;  // from the start of the file, in bytes
  uint64_t byte_length = 0;
};

// A read-only mapping of one file; unmapped when the last tensor on it is gone.
class MappedFile {
 public:
  // Throws Error ERR_CFT_IO where the file cannot be opened or mapped.
  static std::shared_ptr<MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  const uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }
  // The pages between may leave this process's memory; they come back from the file where they are read
  // again.
  void forget(uint64_t offset, uint64_t length) const;

 private:
  MappedFile(std::string path, const uint8_t* data, uint64_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  const uint8_t* data_;
  uint64_t size_;
};

// Opens each file once.
class TensorReader {
 public:
  // A fresh tensor (shape of the entry) on `device` in `dtype`, copied out of the file.
  // Throws Error ERR_CFT_BAD_WEIGHTS where the entry lies outside its file, disagrees with its shape, or,
  // with `finite`, holds NaN or infinity.
  at::Tensor read(const TensorEntry& entry, at::ScalarType dtype, at::Device device, bool finite = true);

 private:
  std::unordered_map<std::string, std::shared_ptr<MappedFile>> files_;
};

// Writes tensors (any device; fp32, fp16, bf16, int64) with their names and string metadata into one
// safetensors file: temporary file beside it, fsync, rename. Returns the file's size in bytes. Throws Error
// ERR_CFT_IO.
uint64_t write_safetensors(const std::string& path,
                           const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                           const std::vector<std::pair<std::string, std::string>>& metadata = {});

}  // namespace cft
