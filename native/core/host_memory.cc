#include "core/host_memory.h"

#include <algorithm>
#include <fstream>
#include <sstream>

namespace cft {
namespace {

// The files of a version of control groups.
struct GroupFiles {
  const char *limit, *used, *inactive, *active;
};
constexpr GroupFiles kFirst{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
                            "total_active_file"};
constexpr GroupFiles kSecond{"memory.max", "memory.current", "inactive_file", "active_file"};

// The number that a file begins with; -1 where there is none ("max": no limit).
int64_t number_in(const std::string& path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;
}

// Of lines "name value".
int64_t entry_in(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  std::string word;
  int64_t value = 0;
  while (file >> word >> value) {
    if (word == name) return value;
  }
  return 0;
}

// What the group at base/path and those above it leave of `free`.
int64_t within_groups(int64_t free, const std::string& base, std::string path, const GroupFiles& files) {
  for (;;) {
    const std::string group = base + path + "/";
    const int64_t limit = number_in(group + files.limit), used = number_in(group + files.used);
    if (limit > 0 && used >= 0) {
      const std::string stat = group + "memory.stat";
      free = std::min(free, limit - used + entry_in(stat, files.inactive) + entry_in(stat, files.active));
    }
    if (path.empty()) return free;
    path.erase(path.rfind('/'));
  }
}

}  // namespace

int64_t free_host_bytes(const std::string& root) {
  int64_t free = int64_t{4} << 30;  // where nothing can be read
  std::ifstream info(root + "/proc/meminfo");
  for (std::string word; info >> word;) {
    if (word != "MemAvailable:") continue;
    info >> free;
    free *= 1024;
    break;
  }
  const std::string mount = root + "/sys/fs/cgroup";
  // A container may not see the names that its groups have outside: then its own group is the mount.
  free = within_groups(free, mount, "", kSecond);
  free = within_groups(free, mount + "/memory", "", kFirst);
  // Lines "number:controllers:/path"; the second version has no controllers.
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    std::istringstream fields(line);
    std::string number, controllers, path;
    std::getline(fields, number, ':');
    std::getline(fields, controllers, ':');
    std::getline(fields, path);
    if (path.empty() || path[0] != '/') continue;
    if (path == "/") path.clear();
    if (controllers.empty()) {
      free = within_groups(free, mount, path, kSecond);
      free = within_groups(free, mount + "/unified", path, kSecond);
    } else if ((',' + controllers + ',').find(",memory,") != std::string::npos) {
      free = within_groups(free, mount + "/memory", path, kFirst);
    }
  }
  return free;
}

}  // namespace cft
