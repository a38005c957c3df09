#pragma once
#include "experts/block.cuh"

// Column sums of an MN-major operand, taken from shared memory beside the product: biases' gradients. Each thread sums the one or two
// columns of 4 bytes over every so manieth row; the threads' shares are added in order.
namespace experts {
constexpr int kSummed = 128, kSumsBytes = 4 * kSummed * 4;     // columns

template <class T> struct ColumnSums {
  static constexpr int kEach = 4 / sizeof(T), kAcross = kSummed / kEach, kShares = kThreads / kAcross;
  float sum[kEach] = {};

  // Rows from k on of the step at `tile`, each times weight[row] where there are weights. Rows from `rows` on are zeros.
  PTX void add(const unsigned char* tile, const float* weight, int k, int rows) {
    const int word = threadIdx.x % kAcross, share = threadIdx.x / kAcross;
#pragma unroll 4
    for (int r = share; r < kStep<T>; r += kShares) {
      const float factor = weight && k + r < rows ? weight[k + r] : 1.0f;
      float value[kEach];
      unpack(*reinterpret_cast<const uint32_t*>(tile + swizzle_chunk(word / 32 * kStep<T> + r, word / 4 % 8) + word % 4 * 4), value, T{});
#pragma unroll
      for (int e = 0; e < kEach; e++) sum[e] += factor * value[e];
    }
  }
  PTX void put(float* shares) const {
    const int word = threadIdx.x % kAcross, share = threadIdx.x / kAcross;
#pragma unroll
    for (int e = 0; e < kEach; e++) shares[share * kSummed + word * kEach + e] = sum[e];
  }
  // Of column threadIdx.x.
  PTX float total(const float* shares) const {
    float whole = 0;
    for (int share = 0; share < kShares; share++) whole += shares[share * kSummed + threadIdx.x];
    return whole;
  }
};
}
