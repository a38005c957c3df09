#pragma once
#include "experts/load.cuh"

// Column sums of an MN-major operand, taken from shared memory beside the product: biases' gradients. Each thread sums one chunk of
// columns over every so manieth row; the threads' shares are added in order.
namespace experts {
constexpr int SumsBytes = 16 * Tile * 4;

PTX void unpack(uint4 v, float (&to)[4], float) {
  to[0] = __uint_as_float(v.x), to[1] = __uint_as_float(v.y), to[2] = __uint_as_float(v.z), to[3] = __uint_as_float(v.w);
}
template <class T> PTX void unpack(uint4 v, float (&to)[8], T) {
  const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int e = 0; e < 8; e++) to[e] = to_float(T{uint16_t(word[e / 2] >> (e % 2 * 16))});
}

template <class T> struct ColumnSums {
  static constexpr int Chunks = Tile / Chunk<T>, Shares = Threads / Chunks;
  float sum[Chunk<T>] = {};

  // Rows from k on of the step at `tile`, each times weight[row] where there are weights. Rows from `rows` on are zeros.
  PTX void add(uint32_t tile, const float* weight, int k, int rows) {
    const int chunk = threadIdx.x % Chunks, share = threadIdx.x / Chunks;
#pragma unroll
    for (int i = 0; i < Step<T> / Shares; i++) {
      const int r = i * Shares + share;
      const float factor = weight && k + r < rows ? weight[k + r] : 1.0f;
      float value[Chunk<T>];
      unpack(ld_shared_16(tile + swizzle_chunk(chunk / 8 * Step<T> + r, chunk % 8)), value, T{});
#pragma unroll
      for (int e = 0; e < Chunk<T>; e++) sum[e] += factor * value[e];
    }
  }
  PTX void put(float* shares) const {
    const int chunk = threadIdx.x % Chunks, share = threadIdx.x / Chunks;
#pragma unroll
    for (int e = 0; e < Chunk<T>; e++) shares[share * Tile + chunk * Chunk<T> + e] = sum[e];
  }
  // Of column threadIdx.x.
  PTX float total(const float* shares) const {
    float whole = 0;
    for (int share = 0; share < Shares; share++) whole += shares[share * Tile + threadIdx.x];
    return whole;
  }
};
}
