// A product with one operand resident in shared memory: 16 to 128 lines of f32 in two parts of bf16 (as in lib/tile_split.cuh) over their whole
// depth, times a row-major matrix [depth, columns] of bf16 or f16 that passes by, 16 deep and 256 columns at a time. A block of 256 threads.
#pragma once
#include "lib/tile_wide.cuh"

namespace tile_resident {
// The resident parts, each [lines, depth] whose 16 bytes are in turned places; behind them the steps of what passes by.
struct Resident {
  static constexpr int kBytes = 72 << 10, kStages = 3, kColumns = 256, kStage = 16 * kColumns * 2;
  int depth;   // a multiple of 64: the last are 0
  int lines;
  PTX int part() const { return lines * depth * 2; }
  PTX int at(int line, int k) const { return line * depth * 2 + ((k / 8 ^ (line & 7)) << 4) + k % 8 * 2; }
  PTX void set(unsigned char* shared, int line, int k, float value) const {
    bf16 high = to_bf16(value);
    *reinterpret_cast<bf16*>(shared + at(line, k)) = high;
    *reinterpret_cast<bf16*>(shared + part() + at(line, k)) = to_bf16(value - to_float(high));
  }
  PTX static uint32_t column(uint32_t stage, int k, int column) { return stage + k * kColumns * 2 + ((column / 8 ^ (k & 7)) << 4); }
};
static_assert(Resident::kBytes + Resident::kStages * Resident::kStage == 96 << 10, "shared memory");

// Parts of the two values in a word: that of bf16 is whole in the first.
PTX void split(uint32_t word, uint32_t& high, uint32_t&, bf16) { high = word; }
PTX void split(uint32_t word, uint32_t& high, uint32_t& low, f16) {
  float values[2];
  unpack(word, values, f16{});
  high = pack_bf16(values[0], values[1]);
  low = pack_bf16(values[0] - __uint_as_float(high << 16), values[1] - __uint_as_float(high & 0xffff0000u));
}

// sums = a b, of 32 * `down` lines, of which those past the last repeat it, and the 256 columns from `start` on; two warps share the lines,
// four the columns, in turn. b's lines are the depth.
template <class T>
PTX void multiply(const Resident& resident, const tile::Rows<T>& b, int columns, int down, int start, tile_wide::Sums& sums) {
  DYNAMIC_SHARED(smem);
  using tile_wide::Sums;
  bool wide = tile_mma::is_wide(b);
  int lane = threadIdx.x % 32, steps = resident.depth / 16;
  uint32_t a = shared_u32(smem), stages = a + Resident::kBytes;
  auto issue = [&](int step) {
    uint32_t stage = stages + step % Resident::kStages * Resident::kStage;
    for (int i = threadIdx.x; step < steps && i < 16 * Resident::kColumns / 8; i += tile::kThreads) {
      int k = i / (Resident::kColumns / 8), d = i % (Resident::kColumns / 8) * 8;
      tile_mma::load(b, wide, columns, step * 16 + k, start + d, Resident::column(stage, k, d));
    }
    cp_async_commit();
  };
#pragma unroll
  for (int i = 0; i < 128; i++) sums.of[i / 32][i / 8 % 4][i / 4 % 2][i % 4] = 0.0f;
  for (int step = 0; step < Resident::kStages - 1; step++) issue(step);
  for (int step = 0; step < steps; step++) {
    cp_async_wait<Resident::kStages - 2>();
    __syncthreads();                     // the step has landed for all, and the one before is done with
    issue(step + Resident::kStages - 1);
    uint32_t stage = stages + step % Resident::kStages * Resident::kStage;
    uint32_t u[2][4][4], v[4];
#pragma unroll
    for (int part = 0; part < 2; part++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (i < down) {
          int line = min(Sums::row(i) + lane % 16, resident.lines - 1);
          ldmatrix_x4(u[part][i], a + part * resident.part() + resident.at(line, step * 16 + lane / 16 * 8));
        }
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (start + j * 64 >= columns) continue;
      ldmatrix_x4_trans(v, Resident::column(stage, lane % 16, Sums::column(j) + lane / 16 * 8));
#pragma unroll
      for (int half = 0; half < 2; half++) {
        uint32_t high[2], low[2];
        split(v[2 * half], high[0], low[0], T{});
        split(v[2 * half + 1], high[1], low[1], T{});
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (i >= down) continue;
          mma_m16n8k16_bf16(sums.of[i][j][half], u[1][i], high[0], high[1]);
          mma_m16n8k16_bf16(sums.of[i][j][half], u[0][i], high[0], high[1]);
          if constexpr (!is_bf16<T>) mma_m16n8k16_bf16(sums.of[i][j][half], u[0][i], low[0], low[1]);
        }
      }
    }
  }
  cp_async_wait<0>();
  __syncthreads();                       // the steps' room is free again
}
}
