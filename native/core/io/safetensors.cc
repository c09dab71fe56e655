#include "core/io/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/errors.h"

namespace cft {
namespace {

std::string system_message(const std::string& what, const std::string& path) {
  return what + " " + path + ": " + std::strerror(errno);
}

uint64_t element_count(const std::vector<int64_t>& shape) {
  uint64_t count = 1;
  for (int64_t size : shape) count *= static_cast<uint64_t>(size);
  return count;
}

const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "F32";
    case at::kHalf:
      return "F16";
    case at::kBFloat16:
      return "BF16";
    case at::kLong:
      return "I64";
    default:
      throw Error("ERR_CFT_INTERNAL", "safetensors: no name for this dtype");
  }
}

void append_json_string(std::string& out, const std::string& text) {
  out += '"';
  for (char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "\\u%04x", c);
      out += buffer;
    } else {
      out += c;
    }
  }
  out += '"';
}

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;
using Metadata = std::vector<std::pair<std::string, std::string>>;

std::string make_header(const NamedTensors& tensors, const Metadata& metadata) {
  std::string json = "{\"__metadata__\":{\"format\":\"pt\"";
  for (const auto& [key, value] : metadata) {
    json += ',';
    append_json_string(json, key);
    json += ':';
    append_json_string(json, value);
  }
  json += '}';
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    json += ',';
    append_json_string(json, name);
    json += ":{\"dtype\":\"" + std::string(dtype_name(tensor.scalar_type())) + "\",\"shape\":[";
    for (int64_t i = 0; i < tensor.dim(); ++i) json += (i ? "," : "") + std::to_string(tensor.size(i));
    const uint64_t end = offset + tensor.nbytes();
    json += "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]}";
    offset = end;
  }
  json += '}';
  while ((8 + json.size()) % 8 != 0) json += ' ';  // the format pads so that tensors are aligned
  return json;
}

// A file being written; removed again unless committed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& final_path)
      : final_path_(final_path), path_(final_path + "." + std::to_string(::getpid()) + ".tmp") {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor_ < 0) throw Error("ERR_CFT_IO", system_message("cannot create", path_));
  }
  ~TemporaryFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!committed_) ::unlink(path_.c_str());
  }
  void write(const void* data, uint64_t size) {
    const char* cursor = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t written = ::write(descriptor_, cursor, std::min<uint64_t>(size, 1u << 30));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) throw Error("ERR_CFT_IO", system_message("cannot write", final_path_));
      cursor += written;
      size -= static_cast<uint64_t>(written);
    }
  }
  void commit() {
    if (::fsync(descriptor_) != 0) throw Error("ERR_CFT_IO", system_message("cannot sync", final_path_));
    const int status = ::close(descriptor_);
    descriptor_ = -1;
    if (status != 0 || ::rename(path_.c_str(), final_path_.c_str()) != 0) {
      throw Error("ERR_CFT_IO", system_message("cannot replace", final_path_));
    }
    committed_ = true;
  }

 private:
  std::string final_path_, path_;
  int descriptor_ = -1;
  bool committed_ = false;
};

}  // namespace

std::shared_ptr<MappedFile> MappedFile::open(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw Error("ERR_CFT_IO", system_message("cannot open", path));
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || status.st_size <= 0) {
    ::close(descriptor);
    throw Error("ERR_CFT_BAD_WEIGHTS",
                path + ": expected a safetensors file, found an empty or unreadable one");
  }
  const uint64_t size = static_cast<uint64_t>(status.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  ::close(descriptor);
  if (data == MAP_FAILED) throw Error("ERR_CFT_IO", system_message("cannot map", path));
  return std::shared_ptr<MappedFile>(new MappedFile(path, static_cast<const uint8_t*>(data), size));
}

void MappedFile::forget(uint64_t offset, uint64_t length) const {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t first = offset / page * page;
  ::madvise(const_cast<uint8_t*>(data_) + first, offset - first + length, MADV_DONTNEED);
}

MappedFile::~MappedFile() { ::munmap(const_cast<uint8_t*>(data_), size_); }

at::Tensor TensorReader::read(const TensorEntry& entry, at::ScalarType dtype, at::Device device,
                              bool finite) {
  auto& file = files_[entry.file];
  if (!file) file = MappedFile::open(entry.file);
  const std::string where = entry.file + ": tensor " + entry.name;
  const uint64_t expected = element_count(entry.shape) * at::elementSize(entry.dtype);
  if (entry.byte_length != expected) {
    throw Error("ERR_CFT_BAD_WEIGHTS", where + ": expected " + std::to_string(expected) +
                                           " bytes for its shape, found " +
                                           std::to_string(entry.byte_length));
  }
  if (entry.offset > file->size() || entry.byte_length > file->size() - entry.offset) {
    throw Error("ERR_CFT_BAD_WEIGHTS", where + ": its bytes end past the end of the file (" +
                                           std::to_string(file->size()) + " bytes)");
  }
  // The mapping may be unaligned for the dtype (other writers do not pad), so bytes are copied, not
  // reinterpreted.
  at::Tensor raw = at::empty(entry.shape, at::TensorOptions().dtype(entry.dtype));
  std::memcpy(raw.data_ptr(), file->data() + entry.offset, entry.byte_length);
  // Else a file of gigabytes would lie in memory twice until the last tensor is read.
  file->forget(entry.offset, entry.byte_length);
  if (finite && raw.numel() > 0 && !at::isfinite(raw).all().item<bool>()) {
    throw Error("ERR_CFT_BAD_WEIGHTS", where + ": expected finite numbers, found NaN or infinity");
  }
  return raw.to(device, dtype);
}

uint64_t write_safetensors(const std::string& path, const NamedTensors& tensors, const Metadata& metadata) {
  const std::string header = make_header(tensors, metadata);
  TemporaryFile file(path);
  const uint64_t header_size = header.size();  // little-endian on every platform we build for
  file.write(&header_size, sizeof header_size);
  file.write(header.data(), header.size());
  uint64_t total = sizeof header_size + header.size();
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor bytes = tensor.detach().to(at::kCPU).contiguous();
    file.write(bytes.data_ptr(), bytes.nbytes());
    total += bytes.nbytes();
  }
  file.commit();
  return total;
}

}  // namespace cft
