// A wide tile of a product of two row-major matrices of bf16 or f16, by mma.sync: up to 128 x 256 sums in f32 over a depth, by a block of
// 256 threads, of which each keeps up to 128.
//
// Both operands are tile::Rows, as in lib/tile_mma.cuh; three steps of 32 in depth are on their way while a fourth is multiplied. How much of
// the tile there is, is told at run time, the same in all warps: what there is not is neither loaded nor multiplied.
#pragma once
#include "lib/tile_mma.cuh"

namespace tile_wide {
constexpr int kDepth = 32, kStages = 4, kRows = 128, kColumns = 256;
constexpr int kLine = kDepth * 2;   // bytes of a line of a stage; its four 16 bytes change places from one pair of lines to the next
constexpr int kShared = kStages * (kRows + kColumns) * kLine;   // bytes of dynamic shared memory: 96 KiB

PTX uint32_t place(uint32_t stage, int line, int across) { return stage + line * kLine + ((across ^ (line / 2 % 4)) << 4); }

// A warp's sums: 16-row tiles i of 4, and 16-column ones j of 4, in two halves. Two warps share the rows, four the columns, in turn.
struct Sums {
  float of[4][4][2][4];
  PTX static int row(int i) { return (i * 2 + int(threadIdx.x) / 32 % 2) * 16; }
  PTX static int column(int j) { return (j * 4 + int(threadIdx.x) / 64) * 16; }

  // Writes 32 * `down` rows to a row-major matrix of so many columns, of which `first` and `start` are the tile's first; rows end at `end`.
  template <class Out> PTX void write(Out* to, int64_t first, int64_t end, int start, int columns, int down) const {
    bool paired = columns % 2 == 0 && aligned_pair(to);
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (i >= down) continue;
#pragma unroll
      for (int v = 0; v < 32; v += 2) {
        int64_t own_row = first + row(i) + lane / 4 + v / 2 % 2 * 8;
        int own_column = start + column(v / 8) + v / 4 % 2 * 8 + lane % 4 * 2, left = own_row < end ? columns - own_column : 0;
        const float* sum = of[i][v / 8][v / 4 % 2] + v % 4;
        Out* at = to + own_row * columns + own_column;
        if (paired && left > 0) {
          store_pair(at, sum[0], sum[1]);
        } else {
          if (left > 0) at[0] = narrow<Out>(sum[0]);
          if (left > 1) at[1] = narrow<Out>(sum[1]);
        }
      }
    }
  }
};

// The sums of 32 * `down` lines of a and 64 * `across` of b, over the whole depth in order.
template <class T> PTX void multiply(const tile::Rows<T>& a, const tile::Rows<T>& b, int depth, int down, int across, Sums& sums) {
  DYNAMIC_SHARED(smem);
  int lane = threadIdx.x % 32, steps = (depth + kDepth - 1) / kDepth, a_lines = down * 32, lines = a_lines + across * 64;
  bool a_wide = tile_mma::is_wide(a), b_wide = tile_mma::is_wide(b);
  uint32_t base = shared_u32(smem);
  auto issue = [&](int step) {
    uint32_t stage = base + step % kStages * (lines * kLine);
    for (int i = threadIdx.x; step < steps && i < lines * 4; i += tile::kThreads) {
      int line = i / 4, k = step * kDepth + i % 4 * 8;
      if (line < a_lines) tile_mma::load(a, a_wide, depth, line, k, place(stage, line, i % 4));
      else tile_mma::load(b, b_wide, depth, line - a_lines, k, place(stage, line, i % 4));
    }
    cp_async_commit();
  };
#pragma unroll
  for (int i = 0; i < 128; i++) sums.of[i / 32][i / 8 % 4][i / 4 % 2][i % 4] = 0.0f;
  for (int step = 0; step < kStages - 1; step++) issue(step);
  for (int step = 0; step < steps; step++) {
    cp_async_wait<kStages - 2>();
    __syncthreads();                     // the step has landed for all, and the one before is done with
    issue(step + kStages - 1);
    uint32_t stage = base + step % kStages * (lines * kLine);
#pragma unroll
    for (int k = 0; k < kDepth / 8; k += 2) {
      uint32_t u[4][4], v[4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (i < down) ldmatrix_x4(u[i], place(stage, Sums::row(i) + lane % 16, k + lane / 16));
#pragma unroll
      for (int j = 0; j < 4; j++) {
        if (j >= across) continue;
        ldmatrix_x4(v, place(stage, a_lines + Sums::column(j) + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < 4; i++) {
          if (i >= down) continue;
          mma_m16n8k16(sums.of[i][j][0], u[i], v[0], v[1], T{});
          mma_m16n8k16(sums.of[i][j][1], u[i], v[2], v[3], T{});
        }
      }
    }
  }
  cp_async_wait<0>();
  __syncthreads();                       // shared memory is free again
}
}
