// What is left to the process, by files as the system has them.
#include "core/host_memory.h"

#include <doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace {

constexpr int64_t kMegabyte = int64_t{1} << 20;

class Root {
 public:
  Root()
      : path_((std::filesystem::temp_directory_path() / ("cft-memory-" + std::to_string(::getpid())))
                  .string()) {
    write("/proc/meminfo", "MemTotal: 900000 kB\nMemFree: 1 kB\nMemAvailable: 512000 kB\n");
  }
  ~Root() { std::filesystem::remove_all(path_); }

  void write(const std::string& name, const std::string& text) const {
    const std::filesystem::path file(path_ + name);
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  int64_t megabytes() const { return cft::free_host_bytes(path_) / kMegabyte; }

 private:
  const std::string path_;
};

std::string megabytes(int64_t count) { return std::to_string(count * kMegabyte) + "\n"; }

std::string cached(const std::string& prefix, int64_t inactive, int64_t active) {
  return "anon 5\n" + prefix + "inactive_file " + megabytes(inactive) + prefix + "active_file " +
         megabytes(active) + "slab 7\n";
}

}  // namespace

TEST_CASE("host memory: what is available, where no group has a limit") {
  const Root root;
  CHECK(root.megabytes() == 500);
  root.write("/proc/self/cgroup", "0::/\n");
  root.write("/sys/fs/cgroup/memory.max", "max\n");
  root.write("/sys/fs/cgroup/memory.current", megabytes(450));
  CHECK(root.megabytes() == 500);
  CHECK(cft::free_host_bytes("/nowhere") == int64_t{4} << 30);
  CHECK(cft::free_host_bytes() > 0);
}

TEST_CASE("host memory: a container's limit; files that it has read count as free") {
  const Root root;
  root.write("/proc/self/cgroup", "0::/\n");
  root.write("/sys/fs/cgroup/memory.max", megabytes(300));
  root.write("/sys/fs/cgroup/memory.current", megabytes(290));
  CHECK(root.megabytes() == 10);
  root.write("/sys/fs/cgroup/memory.stat", cached("", 100, 50));
  CHECK(root.megabytes() == 160);
}

TEST_CASE("host memory: the limit of a group or of one above it") {
  const Root root;
  root.write("/proc/self/cgroup", "0::/user.slice/run-1.scope\n");
  const std::string above = "/sys/fs/cgroup/user.slice", own = above + "/run-1.scope";
  root.write(own + "/memory.max", "max\n");
  root.write(own + "/memory.current", megabytes(20));
  root.write(above + "/memory.max", megabytes(100));
  root.write(above + "/memory.current", megabytes(60));
  CHECK(root.megabytes() == 40);
  root.write(own + "/memory.max", megabytes(30));
  CHECK(root.megabytes() == 10);
}

TEST_CASE("host memory: groups of the first version") {
  const Root root;
  root.write("/proc/self/cgroup", "4:cpu,memory:/job/a\n1:cpuset:/b\n0::/\n");
  const std::string mount = "/sys/fs/cgroup/memory";
  root.write(mount + "/memory.limit_in_bytes", "9223372036854771712\n");
  root.write(mount + "/memory.usage_in_bytes", megabytes(700));
  CHECK(root.megabytes() == 500);
  root.write(mount + "/job/a/memory.limit_in_bytes", megabytes(64));
  root.write(mount + "/job/a/memory.usage_in_bytes", megabytes(60));
  root.write(mount + "/job/a/memory.stat", "inactive_file 1\n" + cached("total_", 8, 4));
  CHECK(root.megabytes() == 16);
}
