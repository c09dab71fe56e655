// How much memory this process may still take.
#pragma once
#include <cstdint>
#include <string>

namespace cft {

// Bytes: what the system could give, and what the process's control groups (a container's limit) leave. What
// a group keeps of files counts as free, as it does for the system: it is dropped when memory is wanted.
// Without /proc a guess. root: where /proc and /sys are looked up (tests).
int64_t free_host_bytes(const std::string& root = "");

}  // namespace cft
