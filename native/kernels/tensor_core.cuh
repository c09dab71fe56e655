// The few instructions behind which tensor cores and asynchronous copies stand, each a function with a twin
// of plain C++ for the emulator. The twins keep PTX's layout of fragments in registers, so that the code
// around them is the same on both sides and its indices are tested.
//
// Fragments: lane = 4 g + t. Of a (16 rows, 16 columns) lane holds, as pairs of neighbouring columns, rows
// g, g + 8 at columns 2t, then rows g, g + 8 at columns 2t + 8. Of b (16 rows, 8 columns) it holds, as pairs
// of neighbouring rows, rows 2t and 2t + 8 of column g. Of d (16 rows, 8 columns) it holds row g, then row
// g + 8, at columns 2t, 2t + 1.
#pragma once
#include "kernels/device.cuh"

namespace cft::kernels {

// d += a b for the calling warp; a and b bf16, d fp32.
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  struct Registers {
    uint32_t a[4], b[2];
  };
  const Registers own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const uint64_t* all = emulator::warp_values(reinterpret_cast<uint64_t>(&own));
  const auto half = [](uint32_t pair, int which) {
    return to_float(Bf16{static_cast<uint16_t>(which == 0 ? pair : pair >> 16)});
  };
  const int g = static_cast<int>(emulator::lane()) / 4, t = static_cast<int>(emulator::lane()) % 4;
  for (int i = 0; i < 4; ++i) {
    const int upper = i / 2, column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int holder = k % 8 / 2, late = k / 8;
      const auto& left = *reinterpret_cast<const Registers*>(all[4 * g + holder]);
      const auto& right = *reinterpret_cast<const Registers*>(all[4 * column + holder]);
      d[i] += half(left.a[upper + 2 * late], k % 2) * half(right.b[late], k % 2);
    }
  }
  emulator::sync_warp();  // `own` must outlive the others' reads
#endif
}

// Four 8 x 8 matrices of bf16 from shared memory: lane 8 m + i names row i of matrix m (16 bytes, aligned).
// The lane receives of each its row g at columns 2t, 2t + 1; of the transposed matrix where kTransposed.
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], const Bf16* row) {
#ifdef __CUDACC__
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  }
#else
  const uint64_t* all = emulator::warp_values(reinterpret_cast<uint64_t>(row));
  const int g = static_cast<int>(emulator::lane()) / 4, t = static_cast<int>(emulator::lane()) % 4;
  for (int m = 0; m < 4; ++m) {
    const auto at = [&](int i, int j) {
      return uint32_t{reinterpret_cast<const Bf16*>(all[8 * m + i])[j].bits};
    };
    out[m] = kTransposed ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
  }
#endif
}

// 16 bytes from global to shared memory, both aligned; zeros, and no read, unless `valid`. They are there
// after wait_copies and a barrier.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
#ifdef __CUDACC__
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  emulator::copy_later(shared, valid ? global : nullptr, 16);
#endif
}

// Closes a group of copies of the calling thread.
__device__ __forceinline__ void commit_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulator::commit_copies();
#endif
}

// Waits for the calling thread's groups but the latest kPending.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#else
  emulator::wait_copies(kPending);
#endif
}

}  // namespace cft::kernels
