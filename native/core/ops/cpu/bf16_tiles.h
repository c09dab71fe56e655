// Products of bf16 weights with activations rounded to bf16, summed in fp32: where the CPU has units for it
// (AMX), through oneDNN's tile kernels as libtorch exports them.
//
// A tile is at most kTileRows rows by kTilePanel outputs over the whole inner dimension, so that a row's
// result does not depend on the number of rows (with AMX emulated: no difference at any number and offset of
// rows, decision 0006).
#pragma once
#include <cstdint>

#include "core/ops/cpu/kernels.h"

namespace cft::cpu {

constexpr int64_t kTileRows = 32;
constexpr int64_t kTilePanel = 64;

// c (rows, kTilePanel) = x (rows, in) * w ([in / 2][kTilePanel][2]); bf16 as uint16_t, in even.
using TileMultiply = void (*)(int64_t rows, int64_t in, const uint16_t* x, const uint16_t* w, float* c);

// The plain loop: what the units compute but for the order of the sums. Reference, and check.
void bf16_tile_multiply_reference(int64_t rows, int64_t in, const uint16_t* x, const uint16_t* w, float* c);
// oneDNN's; throws where this CPU has none.
TileMultiply bf16_tile_multiply();
// Tried once against the reference: false where they are missing or do not agree.
bool bf16_tiles_work();
// Each thread, after its last product: the units' state goes back to the system.
void bf16_tiles_release();

// As Kernels::linear for weights of layout kBf16Tiles.
void bf16_tile_linear(const LinearTask& task, TileMultiply multiply);

}  // namespace cft::cpu
