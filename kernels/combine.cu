// combine: out[row] = sum over k of weight[pair] * pairs[pair] + the shared expert's pair + plus - minus, each row written once.
//
// pairs [P, D] T, row_pairs [N, K] -> out [N, D] T. Sums are f32, in this order, and are rounded once.
// A warp takes a row: 16 bytes a lane at a time where widths and pointers allow it, else element by element.
// Grid: any. No shared memory. A row's bits depend on that row alone. Launched by src/gpu/combine.rs, forward and backward.
#include "args/combine.cuh"
#include "lib/vector.cuh"

namespace combine {
template <class T, int n> PTX void read(const T* from, float (&to)[n]) {
  if constexpr (n == 1) to[0] = to_float(*from);
  else load_16(from, to);
}

template <class T, int n> PTX void add_pair(const Combine& p, int pair, int d, float (&sum)[n]) {
  if (pair < 0) return;
  float values[n], weight = p.weight ? p.weight[pair] : 1.0f;
  read(static_cast<const T*>(p.pairs) + int64_t(pair) * p.width + d, values);
#pragma unroll
  for (int i = 0; i < n; i++) sum[i] += weight * values[i];
}

template <class T, int n> PTX void row(const Combine& p, int64_t row) {
  bool minus = p.minus && (!p.needed || p.needed[row]);
  for (int64_t d = threadIdx.x % 32 * n; d < p.width; d += 32 * n) {
    float sum[n], other[n];
#pragma unroll
    for (int i = 0; i < n; i++) sum[i] = 0.0f;
    for (int k = 0; k < p.top_k; k++) add_pair<T>(p, p.row_pairs[row * p.top_k + k], int(d), sum);
    if (p.shared_pairs) add_pair<T>(p, p.shared_pairs[row], int(d), sum);
    if (p.plus) {
      const float* plus = p.plus + row * p.width + d;
#pragma unroll
      for (int i = 0; i < n; i++) sum[i] += plus[i];
    }
    if (minus) {
      read(static_cast<const T*>(p.minus) + row * p.minus_stride + d, other);
#pragma unroll
      for (int i = 0; i < n; i++) sum[i] -= other[i];
    }
    T* out = static_cast<T*>(p.out) + row * p.out_stride + d;
    if constexpr (n == 1) *out = narrow<T>(sum[0]);
    else store_16(out, sum);
  }
}

template <class T> PTX void rows(const Combine& p) {
  constexpr int n = kLanes<T>;
  bool wide = p.width % n == 0 && p.out_stride % n == 0 && aligned_16(p.pairs) && aligned_16(p.out) &&
              (!p.minus || (p.minus_stride % n == 0 && aligned_16(p.minus)));
  int64_t step = int64_t(gridDim.x) * (blockDim.x / 32);
  for (int64_t at = int64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32; at < p.rows; at += step)
    if (wide) row<T, n>(p, at);
    else row<T, 1>(p, at);
}
}

KERNEL(combine_f32, Combine, 256, 4, combine::rows<float>(p))
KERNEL(combine_bf16, Combine, 256, 4, combine::rows<bf16>(p))
KERNEL(combine_f16, Combine, 256, 4, combine::rows<f16>(p))
