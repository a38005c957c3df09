// One tile of a product in f32 by the matrix instructions of bf16: 64 x 64 sums over a depth, by a block of 256 threads.
//
// Each value is cut into bf16 parts, high + low, which hold 16 bits of its 24; sums are f32, of high * high + low * high + high * low: an
// error of some 2^-17 of each product, where bf16 alone would have 2^-9. What is `exact` has bf16 values and no low part; f16 has one, and is
// whole in the two. Parts have f32's range, which f16 has not: no gradient is too small for them.
// Operands are those of lib/tile.cuh; where they are `paired`, two neighbours in memory, which start at an even number, are read at once by
// `pair`, if the operand `has` the line of both. They pass through shared memory 32 deep at a time, as they lie in memory, two steps of it, so that a
// step's loads fly while the step before is multiplied. Each warp has 16 x 32 of the sums. The same bits on every run.
#pragma once
#include "lib/mma.cuh"
#include "lib/tile.cuh"

namespace tile_split {
constexpr int kDepth = 32;
constexpr int kPart = 5120;                      // bytes: 64 lines of 32, or 32 lines of 64, each 16 bytes longer than it must be
constexpr int kShared = 2 * 4 * kPart;           // bytes of shared memory: two steps of two operands of two parts

// Two neighbours in memory: number j of this thread's four. Those of a deep operand are neighbours in k, else in line.
template <class Operand> struct Pairs {
  static constexpr int kAcross = (Operand::deep ? kDepth : tile::kLines) / 2;
  static constexpr int kPitch = kAcross * 4 + 16;
  PTX static int down(int j) { return (int(threadIdx.x) + j * tile::kThreads) / kAcross; }
  PTX static int across(int j) { return (int(threadIdx.x) + j * tile::kThreads) % kAcross * 2; }
};

template <class Operand> PTX void load(const Operand& from, bool paired, int depth, int step, float (&held)[4][2]) {
#pragma unroll
  for (int j = 0; j < 4; j++) {
    int down = Pairs<Operand>::down(j), across = Pairs<Operand>::across(j);
    int line = Operand::deep ? down : across, k = step * kDepth + (Operand::deep ? across : down);
    int next_line = Operand::deep ? line : line + 1, next_k = Operand::deep ? k + 1 : k;
    if (paired && next_k < depth && from.has(next_line)) {
      from.pair(line, k, held[j]);
    } else {
      held[j][0] = k < depth ? from(line, k) : 0.0f;
      held[j][1] = next_k < depth ? from(next_line, next_k) : 0.0f;
    }
  }
}

template <class Operand, bool exact> PTX void keep(const float (&held)[4][2], unsigned char* shared) {
#pragma unroll
  for (int j = 0; j < 4; j++) {
    int at = Pairs<Operand>::down(j) * Pairs<Operand>::kPitch + Pairs<Operand>::across(j) * 2;
    uint32_t high = pack_bf16(held[j][0], held[j][1]);
    *reinterpret_cast<uint32_t*>(shared + at) = high;
    if constexpr (!exact) {
      float left[2] = {held[j][0] - __uint_as_float(high << 16), held[j][1] - __uint_as_float(high & 0xffff0000u)};
      *reinterpret_cast<uint32_t*>(shared + kPart + at) = pack_bf16(left[0], left[1]);
    }
  }
}

// The four 8 x 8 pieces of the 16 lines from `line` on, 16 deep from k on: lines first where `lines_first`, else depth first.
template <class Operand, bool lines_first> PTX void fragment(uint32_t (&r)[4], uint32_t part, int line, int k) {
  int lane = threadIdx.x % 32, near = lane / 8 % 2 * 8, far = lane / 16 * 8;
  line += lines_first ? near : far;
  k += lines_first ? far : near;
  if constexpr (Operand::deep) ldmatrix_x4(r, part + (line + lane % 8) * Pairs<Operand>::kPitch + k * 2);
  else ldmatrix_x4_trans(r, part + (k + lane % 8) * Pairs<Operand>::kPitch + line * 2);
}

PTX int a_line() { return int(threadIdx.x) / 32 % 4 * 16; }
PTX int b_line() { return int(threadIdx.x) / 128 * 32; }

// Sums over k in [0, depth) of a(line, k) * b(line, k). `shared` holds kShared bytes, 16-byte aligned.
template <class A, class B> PTX void multiply(const A& a, const B& b, int depth, void* shared, float (&sums)[4][4]) {
  float next_a[4][2], next_b[4][2];
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) sums[i][j] = 0.0f;
  int steps = (depth + kDepth - 1) / kDepth;
  bool a_paired = a.paired(), b_paired = b.paired();
  load(a, a_paired, depth, 0, next_a);
  load(b, b_paired, depth, 0, next_b);
  for (int step = 0; step < steps; step++) {
    unsigned char* stage = static_cast<unsigned char*>(shared) + step % 2 * (4 * kPart);
    keep<A, false>(next_a, stage);
    keep<B, B::exact>(next_b, stage + 2 * kPart);
    __syncthreads();                               // the other stage was last read before the barrier of the step before
    if (step + 1 < steps) {
      load(a, a_paired, depth, step + 1, next_a);
      load(b, b_paired, depth, step + 1, next_b);
    }
    uint32_t from = shared_u32(stage);
#pragma unroll 1                                   // twice as many addresses would cost more registers than there are
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t high[4], low[4], other[4];
      fragment<A, true>(high, from, a_line(), k);
      fragment<A, true>(low, from + kPart, a_line(), k);
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        fragment<B, false>(other, from + 2 * kPart, b_line() + j * 8, k);
#pragma unroll
        for (int i = 0; i < 2; i++) {
          mma_m16n8k16_bf16(sums[j + i], low, other[2 * i], other[2 * i + 1]);
          mma_m16n8k16_bf16(sums[j + i], high, other[2 * i], other[2 * i + 1]);
        }
        if constexpr (B::exact) continue;
        fragment<B, false>(other, from + 3 * kPart, b_line() + j * 8, k);
#pragma unroll
        for (int i = 0; i < 2; i++) mma_m16n8k16_bf16(sums[j + i], high, other[2 * i], other[2 * i + 1]);
      }
    }
  }
  __syncthreads();                                 // so that the next tile may write to shared memory
}

// Gives each of this thread's sums to `to(line of a, line of b, sum)`.
template <class To> PTX void each(const float (&sums)[4][4], To to) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) to(a_line() + lane / 4 + i / 2 * 8, b_line() + j * 8 + lane % 4 * 2 + i % 2, sums[j][i]);
}
}
