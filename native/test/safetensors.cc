// Reading files larger than one wants to hold twice.
#include "core/io/safetensors.h"

#include <doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

using namespace cft;

namespace {

// Megabytes of mapped files that lie in this process's memory; -1 where the system does not say.
double resident_file_megabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("RssFile:", 0) == 0) return std::stod(line.substr(8)) / 1024;
  }
  return -1;
}

}  // namespace

TEST_CASE("what was read of a file does not stay in memory as the file's") {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("cft-reader-" + std::to_string(::getpid()))).string();
  const at::Tensor values = at::arange(4 << 20, at::kFloat);  // 16 MB
  write_safetensors(path, {{"a", values}, {"b", values + 1}, {"c", values + 2}});
  const uint64_t header = std::filesystem::file_size(path) - 3 * values.nbytes();
  TensorReader reader;
  const double before = resident_file_megabytes();
  for (const int64_t i : {0, 1, 2, 0}) {
    const TensorEntry entry{"t", path, at::kFloat, {4 << 20}, header + i * values.nbytes(), values.nbytes()};
    CHECK(at::equal(reader.read(entry, at::kFloat, at::kCPU), values + i));
  }
  if (before >= 0) CHECK(resident_file_megabytes() - before < 8);
  std::filesystem::remove(path);
}
