// Shares rows among threads.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace cft::cpu {

// f(begin, end) for stretches of `rows` rows of `width` values each; few values are not worth waking a
// thread.
template <class F>
void for_rows(int64_t rows, int64_t width, const F& f) {
  at::parallel_for(0, rows, std::max<int64_t>(1, 32'768 / std::max<int64_t>(1, width)), f);
}

}  // namespace cft::cpu
