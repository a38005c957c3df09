// One tile of a product in f32 by the matrix instructions of bf16: 64 x 64 or 64 x 128 sums over a depth, by a block of 256 threads.
//
// Each value is cut into bf16 parts, high + low, which hold 16 bits of its 24; sums are f32, of high * high + low * high + high * low: an
// error of some 2^-17 of each product, where bf16 alone would have 2^-9. What is `exact` has bf16 values and no low part; f16 has one, and is
// whole in the two. Parts have f32's range, which f16 has not: no gradient is too small for them.
// Operands are those of lib/tile.cuh; where they are `paired`, two neighbours in memory, which start at an even number, are read at once.
// They pass through shared memory 32 deep at a time, as they lie in memory, two steps of it, so that a step's loads fly while the step before
// is multiplied: they are held as they come, for whatever is made of them waits for them. Each warp has 16 lines of a and half of b's, of
// which there are 16 for each of a thread's N times 4 sums. The same bits on every run.
#pragma once
#include "lib/mma.cuh"
#include "lib/tile.cuh"

namespace tile_split {
constexpr int kDepth = 32;
// Bytes of shared memory with so many lines of b: two steps of two operands of two parts, each of 16 bytes more a line than it must have.
constexpr int shared_bytes(int lines) { return 2 * 2 * (tile::kLines + lines) * (kDepth * 2 + 16); }

// A thread's share of a step of so many lines of an operand: kEach times two neighbours in memory, which are so in k where it is deep, else in
// line. They lie kJump apart in the other of the two.
template <class Operand, int Lines> struct Pairs {
  static constexpr int kEach = Lines * kDepth / 2 / tile::kThreads;
  static constexpr int kAcross = (Operand::deep ? kDepth : Lines) / 2, kJump = tile::kThreads / kAcross;
  static constexpr int kPitch = kAcross * 4 + 16, kPart = (Operand::deep ? Lines : kDepth) * kPitch;   // bytes
  using Held = Pair<typename Operand::Element>[kEach];
  PTX static int across() { return int(threadIdx.x) % kAcross * 2; }
  PTX static int down(int j) { return int(threadIdx.x) / kAcross + j * kJump; }
};

// Loads of one step after the other, of `left` in depth that are still to come.
template <class Own, bool paired, class Operand> struct Loader {
  using Element = typename Operand::Element;
  const Element* at;
  int64_t jump;
  int lines, left;

  PTX Loader(const Operand& from, int depth)
      : at(Operand::deep ? from.at(Own::down(0), Own::across()) : from.at(Own::across(), Own::down(0))),
        jump(Own::kJump * from.stride), lines(from.count()), left(depth) {}
  // 0 outside.
  PTX void load(typename Own::Held& held) {
    const Element* own = at;
    int most_across = Operand::deep ? left : lines, most_down = Operand::deep ? lines : left;
#pragma unroll
    for (int j = 0; j < Own::kEach; j++, own += jump) {
      bool has = Own::down(j) < most_down && Own::across() < most_across;
      if constexpr (paired) {
        held[j] = {};
        if (has) held[j] = load_pair(own);
      } else {
        Element two[2] = {};
        if (has) two[0] = own[0];
        if (has && Own::across() + 1 < most_across) two[1] = own[1];
        held[j] = pair_of(two[0], two[1]);
      }
    }
    at = Operand::deep ? at + kDepth : own;
    left -= kDepth;
  }
};

template <class Own, bool exact, class Operand>
PTX void keep(const Operand& from, const typename Own::Held& held, unsigned char* shared, tile::LineSums<2>& lines) {
  auto place = [&](int j) { return reinterpret_cast<uint32_t*>(shared + Own::down(j) * Own::kPitch + Own::across() * 2); };
#pragma unroll
  for (int j = 0; j < Own::kEach; j += 2) {
    if constexpr (exact) {
      *place(j) = held[j];
      *place(j + 1) = held[j + 1];
    } else {
      float raw[4];
      unpack(held[j], raw, typename Operand::Element{});
      unpack(held[j + 1], raw + 2, typename Operand::Element{});
      float4 v = from.mapped(make_float4(raw[0], raw[1], raw[2], raw[3]));
      const float values[2][2] = {{v.x, v.y}, {v.z, v.w}};
#pragma unroll
      for (int i = 0; i < 2; i++) {
        uint32_t high = pack_bf16(values[i][0], values[i][1]);
        *place(j + i) = high;
        place(j + i)[Own::kPart / 4] = pack_bf16(values[i][0] - __uint_as_float(high << 16), values[i][1] - __uint_as_float(high & 0xffff0000u));
        lines.add(values[i]);
      }
    }
  }
}

// The four 8 x 8 pieces of the 16 lines from `line` on, 16 deep from k on: lines first where `lines_first`, else depth first.
template <class Own, class Operand, bool lines_first> PTX void fragment(uint32_t (&r)[4], uint32_t part, int line, int k) {
  int lane = threadIdx.x % 32, near = lane / 8 % 2 * 8, far = lane / 16 * 8;
  line += lines_first ? near : far;
  k += lines_first ? far : near;
  if constexpr (Operand::deep) ldmatrix_x4(r, part + (line + lane % 8) * Own::kPitch + k * 2);
  else ldmatrix_x4_trans(r, part + (k + lane % 8) * Own::kPitch + line * 2);
}

PTX int a_line() { return int(threadIdx.x) / 32 % 4 * 16; }
template <int N> PTX int b_line() { return int(threadIdx.x) / 128 * (8 * N); }

// Adds the products of the step at `from_a`.
template <class A, class B, int N> PTX void add_products(uint32_t from_a, float (&sums)[N][4]) {
  using OfA = Pairs<A, tile::kLines>;
  using OfB = Pairs<B, 16 * N>;
  uint32_t from_b = from_a + 2 * OfA::kPart;
#pragma unroll 1                                   // twice as many addresses would cost more registers than there are
  for (int k = 0; k < kDepth; k += 16) {
    uint32_t high[4], low[4], other[4];
    fragment<OfA, A, true>(high, from_a, a_line(), k);
    fragment<OfA, A, true>(low, from_a + OfA::kPart, a_line(), k);
#pragma unroll
    for (int j = 0; j < N; j += 2) {
      fragment<OfB, B, false>(other, from_b, b_line<N>() + j * 8, k);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        mma_m16n8k16_bf16(sums[j + i], low, other[2 * i], other[2 * i + 1]);
        mma_m16n8k16_bf16(sums[j + i], high, other[2 * i], other[2 * i + 1]);
      }
      if constexpr (B::exact) continue;
      fragment<OfB, B, false>(other, from_b + OfB::kPart, b_line<N>() + j * 8, k);
#pragma unroll
      for (int i = 0; i < 2; i++) mma_m16n8k16_bf16(sums[j + i], high, other[2 * i], other[2 * i + 1]);
    }
  }
}

template <bool paired, class A, class B, int N>
PTX void add_all(const A& a, const B& b, int depth, void* shared, float (&sums)[N][4], tile::LineSums<2>& lines) {
  using OfA = Pairs<A, tile::kLines>;
  using OfB = Pairs<B, 16 * N>;
  typename OfA::Held next_a;
  typename OfB::Held next_b;
  tile::LineSums<2> of_b;                          // which nobody asks for
  int steps = (depth + kDepth - 1) / kDepth;
  Loader<OfA, paired, A> load_a(a, depth);
  Loader<OfB, paired, B> load_b(b, depth);
  auto stage = [&](int step) { return static_cast<unsigned char*>(shared) + step % 2 * (shared_bytes(16 * N) / 2); };
  for (int step = 0;; step++) {
    load_a.load(next_a);                           // past the last nothing
    load_b.load(next_b);
    if (step > 0) add_products<A, B>(shared_u32(stage(step - 1)), sums);
    if (step == steps) break;
    keep<OfA, false>(a, next_a, stage(step), lines);
    keep<OfB, B::exact>(b, next_b, stage(step) + 2 * OfA::kPart, of_b);
    __syncthreads();                               // the other stage was last read before the barrier of the step before
  }
  __syncthreads();                                 // so that the next tile may write to shared memory
}

// Sums over k in [0, depth) of a(line, k) * b(line, k), and where a is not deep its lines' sums, of whole values, on top of `lines`. `shared`
// holds shared_bytes(16 * N), 16-byte aligned.
template <class A, class B, int N>
PTX void multiply(const A& a, const B& b, int depth, void* shared, float (&sums)[N][4], tile::LineSums<2>& lines) {
#pragma unroll
  for (int i = 0; i < N; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) sums[i][j] = 0.0f;
  if (a.paired(depth) && b.paired(depth)) add_all<true>(a, b, depth, shared, sums, lines);
  else add_all<false>(a, b, depth, shared, sums, lines);
}

template <class A, class B, int N> PTX void multiply(const A& a, const B& b, int depth, void* shared, float (&sums)[N][4]) {
  tile::LineSums<2> lines;
  multiply(a, b, depth, shared, sums, lines);
}

// Gives each of this thread's sums to `to(line of a, line of b, sum)`.
template <class Sum, int N, class To> PTX void each(Sum (&sums)[N][4], To to) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < N; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) to(a_line() + lane / 4 + i / 2 * 8, b_line<N>() + j * 8 + lane % 4 * 2 + i % 2, sums[j][i]);
}
}
