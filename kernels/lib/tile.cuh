// One tile of a product in f32: 64 x 64 sums over a depth, by a block of 256 threads with 4 x 4 sums each.
//
// Operands pass through shared memory 16 deep at a time, two steps of it, so that a step's loads fly while the step before is multiplied.
// An operand is a struct with `float operator()(int line, int k) const`, which gives 0 outside, and `static constexpr bool deep`:
// whether consecutive k lie side by side in memory, else consecutive lines do; `exact`: whether all values are those of bf16, where that is
// asked for. Sums run over k in order: the same bits on every run.
#pragma once
#include "lib/vector.cuh"

namespace tile {
constexpr int kLines = 64, kDepth = 16, kThreads = 256;
constexpr int kPitch = kLines + 4;                 // keeps rows 16-byte aligned, and columns on different banks
constexpr int kShared = 4 * kDepth * kPitch;       // floats of shared memory

template <class Operand> PTX void load(const Operand& from, int depth, int step, float (&held)[4]) {
  int t = threadIdx.x;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    int line = Operand::deep ? t / kDepth + j * (kThreads / kDepth) : t % kLines;
    int k = step * kDepth + (Operand::deep ? t % kDepth : t / kLines + j * (kThreads / kLines));
    held[j] = k < depth ? from(line, k) : 0.0f;
  }
}

template <class Operand> PTX void keep(const float (&held)[4], float* shared) {
  int t = threadIdx.x;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    int line = Operand::deep ? t / kDepth + j * (kThreads / kDepth) : t % kLines;
    int k = Operand::deep ? t % kDepth : t / kLines + j * (kThreads / kLines);
    shared[k * kPitch + line] = held[j];
  }
}

// The first of the four lines of `a`, and of `b`, that this thread sums.
PTX int a_line() { return int(threadIdx.x) / 16 * 4; }
PTX int b_line() { return int(threadIdx.x) % 16 * 4; }

// sums[i][j] = sum over k in [0, depth) of a(a_line() + i, k) * b(b_line() + j, k). `shared` holds kShared floats, 16-byte aligned.
template <class A, class B> PTX void multiply(const A& a, const B& b, int depth, float* shared, float (&sums)[4][4]) {
  float next_a[4], next_b[4];
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) sums[i][j] = 0.0f;
  int steps = (depth + kDepth - 1) / kDepth;
  load(a, depth, 0, next_a);
  load(b, depth, 0, next_b);
  for (int step = 0; step < steps; step++) {
    float* half = shared + step % 2 * (2 * kDepth * kPitch);
    keep<A>(next_a, half);
    keep<B>(next_b, half + kDepth * kPitch);
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

// Gives each of this thread's sums to `to(line of a, line of b, sum)`.
template <class To> PTX void each(const float (&sums)[4][4], To to) {
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) to(a_line() + i, b_line() + j, sums[i][j]);
}

// Values of a row-major matrix [lines, depth] of T, from line `first` on; lines end at `lines`.
template <class T> struct Rows {
  static constexpr bool deep = true;
  const T* values;
  int64_t stride, first;
  int lines;
  PTX float operator()(int line, int k) const {
    return first + line < lines ? to_float(values[(first + line) * stride + k]) : 0.0f;
  }
  PTX bool paired() const { return stride % 2 == 0 && aligned_pair(values); }
  PTX bool has(int line) const { return first + line < lines; }
  PTX void pair(int line, int k, float (&to)[2]) const { load_pair(values + (first + line) * stride + k, to); }
};

// Values of a row-major matrix [depth, lines] of T.
template <class T> struct Columns {
  static constexpr bool deep = false, exact = is_bf16<T>;
  const T* values;
  int64_t stride, first;
  int lines;
  PTX float operator()(int line, int k) const {
    return first + line < lines ? to_float(values[k * stride + first + line]) : 0.0f;
  }
  PTX bool paired() const { return stride % 2 == 0 && first % 2 == 0 && aligned_pair(values); }
  PTX bool has(int line) const { return first + line < lines; }
  PTX void pair(int line, int k, float (&to)[2]) const { load_pair(values + k * stride + first + line, to); }
};
}
