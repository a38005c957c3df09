// combine: out[row] = sum over k of weight[pair] * pairs[pair] + the shared expert's pair + plus - minus, each row written once.
//
// pairs [P, D] T, row_pairs [N, K] -> out [N, D] T. Sums are f32, in this order, and are rounded once.
// A warp takes a row: 16 bytes a lane at a time where widths and pointers allow it, else element by element. What four pairs, plus and
// minus give is asked for before any of it is added: at 24 warps a multiprocessor more bytes are on their way than memory needs to be busy.
// Grid: any. No shared memory. A row's bits depend on that row alone. Launched by src/gpu/combine.rs, forward and backward.
#include "args/combine.cuh"
#include "lib/vector.cuh"

namespace combine {
constexpr int kAtOnce = 4;   // pairs of a row whose loads fly together

// n values as they lie in memory.
template <class T, int n> struct Held {
  uint4 words[n / kLanes<T>];
  PTX void load(const T* from) {
#pragma unroll
    for (int i = 0; i < n / kLanes<T>; i++) words[i] = reinterpret_cast<const uint4*>(from)[i];
  }
  template <class To> PTX void each(To to) const {
#pragma unroll
    for (int i = 0; i < n / kLanes<T>; i++) {
      float values[kLanes<T>];
      unpack_16<T>(words[i], values);
#pragma unroll
      for (int j = 0; j < kLanes<T>; j++) to(i * kLanes<T> + j, values[j]);
    }
  }
};
template <class T> struct Held<T, 1> {
  T value;
  PTX void load(const T* from) { value = *from; }
  template <class To> PTX void each(To to) const { to(0, to_float(value)); }
};

// The pair of a row's choice, the shared expert's behind all others; -1: none.
PTX int pair_of(const Combine& p, int64_t row, int choice) {
  if (choice < p.top_k) return p.row_pairs[row * p.top_k + choice];
  return choice == p.top_k && p.shared_pairs ? p.shared_pairs[row] : -1;
}

// Adds pairs to `sum` in their order, a few at a time.
template <class T, int n> PTX void add_pairs(const Combine& p, int64_t row, int64_t d, float (&sum)[n]) {
  for (int first = 0; first <= p.top_k; first += kAtOnce) {
    int pair[kAtOnce];
    float weight[kAtOnce];
    Held<T, n> held[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) pair[k] = pair_of(p, row, first + k);
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) {
      if (pair[k] < 0) continue;
      weight[k] = p.weight ? p.weight[pair[k]] : 1.0f;
      held[k].load(static_cast<const T*>(p.pairs) + int64_t(pair[k]) * p.width + d);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; k++)
      if (pair[k] >= 0) held[k].each([&](int i, float value) { sum[i] += weight[k] * value; });
  }
}

template <class T, int n> PTX void row(const Combine& p, int64_t row) {
  bool minus = p.minus && (!p.needed || p.needed[row]);
  for (int64_t d = threadIdx.x % 32 * n; d < p.width; d += 32 * n) {
    float sum[n];
    Held<T, n> plus, other;
    if (p.plus) plus.load(static_cast<const T*>(p.plus) + row * p.width + d);
    if (minus) other.load(static_cast<const T*>(p.minus) + row * p.minus_stride + d);
#pragma unroll
    for (int i = 0; i < n; i++) sum[i] = 0.0f;
    add_pairs<T>(p, row, d, sum);
    if (p.plus) plus.each([&](int i, float value) { sum[i] += value; });
    if (minus) other.each([&](int i, float value) { sum[i] -= value; });
    T* out = static_cast<T*>(p.out) + row * p.out_stride + d;
    if constexpr (n == 1) *out = narrow<T>(sum[0]);
    else store_16(out, sum);
  }
}

template <class T> PTX void rows(const Combine& p) {
  constexpr int n = kLanes<T>;
  bool wide = p.width % n == 0 && p.out_stride % n == 0 && aligned_16(p.pairs) && aligned_16(p.out) && aligned_16(p.plus) &&
              (!p.minus || (p.minus_stride % n == 0 && aligned_16(p.minus)));
  int64_t step = int64_t(gridDim.x) * (blockDim.x / 32);
  for (int64_t at = int64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32; at < p.rows; at += step)
    if (wide) row<T, n>(p, at);
    else row<T, 1>(p, at);
}
}

KERNEL(combine_f32, Combine, 256, 3, combine::rows<float>(p))
KERNEL(combine_bf16, Combine, 256, 3, combine::rows<bf16>(p))
KERNEL(combine_f16, Combine, 256, 3, combine::rows<f16>(p))
