// Sums, maxima and scans over a warp and over a block, in a fixed order: the same bits on every run.
#pragma once
#include "lib/ptx.cuh"

// The sum over each run of `Lanes` lanes, a power of 2; the same bits in all of them.
template <int Lanes, class T> PTX T lanes_sum(T value) {
#pragma unroll
  for (int apart = Lanes / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(~0u, value, apart);
  return value;
}
template <class T> PTX T warp_sum(T value) { return lanes_sum<32>(value); }

// Likewise the largest; NaN only where all are.
template <int Lanes> PTX float lanes_max(float value) {
#pragma unroll
  for (int apart = Lanes / 2; apart > 0; apart /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, apart));
  return value;
}
template <int Lanes> PTX uint64_t lanes_max(uint64_t value) {
#pragma unroll
  for (int apart = Lanes / 2; apart > 0; apart /= 2) value = max(value, __shfl_xor_sync(~0u, value, apart));
  return value;
}

// All threads of a block of whole warps call it, and get the same bits.
template <class T> PTX T block_sum(T value) {
  STATIC_SHARED(T, parts, 32);
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  T total = parts[0];
  for (int warp = 1; warp < int(blockDim.x) / 32; warp++) total += parts[warp];
  __syncthreads();
  return total;
}

// The sum over the threads before this one, and over all of them.
struct Scan { int before, total; };
PTX Scan block_scan(int value) {
  STATIC_SHARED(int, ends, 32);
  int lane = threadIdx.x % 32, sum = value;
#pragma unroll
  for (int apart = 1; apart < 32; apart *= 2) {
    int left = __shfl_up_sync(~0u, sum, apart);
    if (lane >= apart) sum += left;
  }
  if (lane == 31) ends[threadIdx.x / 32] = sum;
  __syncthreads();
  Scan scan{sum - value, 0};
  for (int warp = 0; warp < int(blockDim.x) / 32; warp++) {
    if (warp < int(threadIdx.x) / 32) scan.before += ends[warp];
    scan.total += ends[warp];
  }
  __syncthreads();
  return scan;
}
