// Seeds of everything that is drawn by counter.
#pragma once
#include <cstdint>

namespace cft {

// One round of splitmix64 (Steele et al. 2014): neighbouring keys give unrelated seeds.
inline uint64_t mix_seed(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace cft
