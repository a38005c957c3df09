// One tile of a product in f32: 64 x 64 sums over a depth, by a block of 256 threads with 4 x 4 sums each.
//
// Operands pass through shared memory 16 deep at a time, two steps of it, so that a step's loads fly while the step before is multiplied.
// An operand is a struct that tells where element (line, k) lies, `at`; how many lines there are from the first on, `count`, behind which
// all is 0; and what elements are `mapped` to before they are multiplied, 0 to 0. `static constexpr bool deep`: whether consecutive k lie
// side by side in memory, else consecutive lines do; `exact`: whether all values are those of bf16, where that is asked for. Elements are held
// as they come until the step before is multiplied, for whatever is made of them waits for them. Sums run over k in order: the same bits on
// every run.
#pragma once
#include "lib/activation.cuh"
#include "lib/vector.cuh"

namespace tile {
constexpr int kLines = 64, kDepth = 16, kThreads = 256;
constexpr int kPitch = kLines + 4;                 // keeps rows 16-byte aligned, and columns on different banks
constexpr int kShared = 4 * kDepth * kPitch;       // floats of shared memory

// Sums over the depth of lines of an operand that is not deep, of what its threads hold by the way: each of `Each` neighbouring lines, over
// every so manieth k.
template <int Each> struct LineSums {
  static constexpr int kAcross = kLines / Each, kShares = kThreads / kAcross;
  float of[Each] = {};
  PTX void add(const float (&values)[Each]) {
#pragma unroll
    for (int i = 0; i < Each; i++) of[i] += values[i];
  }
  // That of line threadIdx.x, the threads' shares in order. `shared` holds kShares * kLines floats, and is free again then.
  PTX float total(float* shared) const {
    int share = int(threadIdx.x) / kAcross, line = int(threadIdx.x) % kAcross * Each;
    float whole = 0.0f;
#pragma unroll
    for (int i = 0; i < Each; i++) shared[share * kLines + line + i] = of[i];
    __syncthreads();
    for (int s = 0; threadIdx.x < kLines && s < kShares; s++) whole += shared[s * kLines + int(threadIdx.x)];
    __syncthreads();
    return whole;
  }
};

template <class Operand> PTX void load(const Operand& from, int depth, int step, typename Operand::Element (&held)[4]) {
  int t = threadIdx.x;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    int line = Operand::deep ? t / kDepth + j * (kThreads / kDepth) : t % kLines;
    int k = step * kDepth + (Operand::deep ? t % kDepth : t / kLines + j * (kThreads / kLines));
    held[j] = {};
    if (k < depth && line < from.count()) held[j] = *from.at(line, k);
  }
}

template <class Operand> PTX void keep(const Operand& from, const typename Operand::Element (&held)[4], float* shared, LineSums<1>& lines) {
  int t = threadIdx.x;
  float4 v = from.mapped(make_float4(to_float(held[0]), to_float(held[1]), to_float(held[2]), to_float(held[3])));
  const float values[4][1] = {{v.x}, {v.y}, {v.z}, {v.w}};
#pragma unroll
  for (int j = 0; j < 4; j++) {
    int line = Operand::deep ? t / kDepth + j * (kThreads / kDepth) : t % kLines;
    int k = Operand::deep ? t % kDepth : t / kLines + j * (kThreads / kLines);
    shared[k * kPitch + line] = values[j][0];
    lines.add(values[j]);
  }
}

// The first of the four lines of `a`, and of `b`, that this thread sums.
PTX int a_line() { return int(threadIdx.x) / 16 * 4; }
PTX int b_line() { return int(threadIdx.x) % 16 * 4; }

// sums[i][j] = sum over k in [0, depth) of a(a_line() + i, k) * b(b_line() + j, k), and a's lines' sums on top of `lines`. `shared` holds
// kShared floats, 16-byte aligned.
template <class A, class B> PTX void multiply(const A& a, const B& b, int depth, float* shared, float (&sums)[4][4], LineSums<1>& lines) {
  typename A::Element next_a[4];
  typename B::Element next_b[4];
  LineSums<1> of_b;                                // which nobody asks for
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) sums[i][j] = 0.0f;
  int steps = (depth + kDepth - 1) / kDepth;
  load(a, depth, 0, next_a);
  load(b, depth, 0, next_b);
  for (int step = 0; step < steps; step++) {
    float* half = shared + step % 2 * (2 * kDepth * kPitch);
    keep(a, next_a, half, lines);
    keep(b, next_b, half + kDepth * kPitch, of_b);
    __syncthreads();                               // the other half was last read before the barrier of the step before
    if (step + 1 < steps) {
      load(a, depth, step + 1, next_a);
      load(b, depth, step + 1, next_b);
    }
#pragma unroll
    for (int k = 0; k < kDepth; k++) {
      float4 u = *reinterpret_cast<const float4*>(half + k * kPitch + a_line());
      float4 v = *reinterpret_cast<const float4*>(half + (kDepth + k) * kPitch + b_line());
      const float left[4] = {u.x, u.y, u.z, u.w}, right[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[i][j] += left[i] * right[j];
    }
  }
  __syncthreads();                                 // so that the next tile may write to shared memory
}

template <class A, class B> PTX void multiply(const A& a, const B& b, int depth, float* shared, float (&sums)[4][4]) {
  LineSums<1> lines;
  multiply(a, b, depth, shared, sums, lines);
}

// Gives each of this thread's sums to `to(line of a, line of b, sum)`.
template <class Sum, class To> PTX void each(Sum (&sums)[4][4], To to) {
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) to(a_line() + i, b_line() + j, sums[i][j]);
}

// Values of a row-major matrix [lines, depth] of T, from line `first` on; lines end at `lines`.
template <class T> struct Rows {
  using Element = T;
  static constexpr bool deep = true;
  const T* values;
  int64_t stride, first;
  int lines;
  PTX const T* at(int line, int k) const { return values + (first + line) * stride + k; }
  PTX int count() const { return int(lines - first); }
  PTX float4 mapped(float4 elements) const { return elements; }
  PTX bool paired(int depth) const { return depth % 2 == 0 && stride % 2 == 0 && aligned_pair(values); }
};

// Values of a row-major matrix [depth, lines] of T.
template <class T> struct Columns {
  using Element = T;
  static constexpr bool deep = false, exact = is_bf16<T>;
  const T* values;
  int64_t stride, first;
  int lines;
  PTX const T* at(int line, int k) const { return values + k * stride + first + line; }
  PTX int count() const { return int(lines - first); }
  PTX float4 mapped(float4 elements) const { return elements; }
  PTX bool paired(int) const { return lines % 2 == 0 && first % 2 == 0 && stride % 2 == 0 && aligned_pair(values); }
};

// An operand of values before an activation.
template <class Operand> struct Activated : Operand {
  static constexpr bool exact = false;
  int activation;
  PTX float4 mapped(float4 elements) const { return FourOfAny<false>{activation}(elements); }
};
}
