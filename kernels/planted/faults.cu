// Programs of one block of 128 threads that write out[i] = i, each once right and once with a fault.
#include "planted/args.cuh"

namespace faults {
// A barrier between writing shared memory and reading what others wrote. Threads that run in order can hide its absence.
template <bool Right> PTX void barrier(const Planted& p) {
  STATIC_SHARED(int, x, 128);
  int t = threadIdx.x, other = (t + 127) % 128;
  x[t] = t;
  if (Right) __syncthreads();
  p.out[other] = x[other];
}
// The second barrier of a loop, before shared memory is written again.
template <bool Right> PTX void reuse(const Planted& p) {
  STATIC_SHARED(int, x, 128);
  int t = threadIdx.x, other = (t + 33) % 128, sum = 0;
  for (int i = 0; i < 4; i++) {
    x[t] = i * 1000 + t;
    __syncthreads();
    sum += x[other];
    if (Right) __syncthreads();
  }
  p.out[t] = sum - 6000 - 4 * other + t;
}
// The same within a warp.
template <bool Right> PTX void syncwarp(const Planted& p) {
  STATIC_SHARED(int, x, 128);
  int t = threadIdx.x, other = t ^ 1;
  x[t] = t;
  if (Right) __syncwarp();
  p.out[other] = x[other];
}
// Before ldmatrix, whose lanes read rows that other lanes wrote.
template <bool Right> PTX void ldmatrix_after_write(const Planted& p) {
  DYNAMIC_SHARED(smem);
  unsigned t = threadIdx.x, lane = t % 32, first = t / 32 * 32;
  uint32_t rows = shared_u32(smem) + first * 16, r[4];
  unsigned w = t * 4;
  st_shared_16(rows + lane * 16, make_uint4(w, w + 1, w + 2, w + 3));
  if (Right) __syncwarp();
  ldmatrix_x4(r, rows + (lane + 8) % 32 * 16);
  for (unsigned m = 0; m < 4; m++) {
    unsigned i = (first + (8 * m + lane / 4 + 8) % 32) * 4 + lane % 4;
    if (i < 128) p.out[i] = int(r[m]);
  }
}
// After stmatrix, whose rows other lanes read.
template <bool Right> PTX void stmatrix_before_read(const Planted& p) {
  DYNAMIC_SHARED(smem);
  unsigned t = threadIdx.x, lane = t % 32, first = t / 32 * 32;
  uint32_t rows = shared_u32(smem) + first * 16, w = first * 4 + lane;
  stmatrix_x4(rows + lane * 16, w, w + 32, w + 64, w + 96);    // lane number l: word l of matrix m is 32 m + l
  if (Right) __syncwarp();
  uint4 v = ld_shared_16(rows + (lane + 8) % 32 * 16);
  const uint32_t got[4] = {v.x, v.y, v.z, v.w};
  for (unsigned e = 0; e < 4; e++) {
    unsigned i = (first + (lane + 8) % 32) * 4 + e;
    if (i < 128) p.out[i] = int(got[e]);
  }
}
template <bool Right> PTX void stmatrix_bounds(const Planted& p) {
  DYNAMIC_SHARED(smem);
  stmatrix_x4(shared_u32(smem) + 4096 - (Right ? 32 : 31) * 16 + threadIdx.x % 32 * 16, 0, 0, 0, 0);
  p.out[threadIdx.x] = int(threadIdx.x);
}
// Groups of cp.async left to come: one too many.
template <bool Right> PTX void cp_async_groups(const Planted& p) {
  DYNAMIC_SHARED(smem);
  int t = threadIdx.x;
  cp_async_16(shared_u32(smem) + t * 16, p.source + t * 4, 16);
  cp_async_commit();
  cp_async_commit();
  if (Right) cp_async_wait<1>();
  else cp_async_wait<2>();
  __syncthreads();
  p.out[t] = reinterpret_cast<int*>(smem)[t * 4] / 4;
}
// 16 bytes from an address that is a multiple of 4 alone.
template <bool Right> PTX void cp_async_alignment(const Planted& p) {
  DYNAMIC_SHARED(smem);
  int t = threadIdx.x;
  cp_async_16(shared_u32(smem) + t * 16, p.source + t * 4 + (Right ? 0 : 1), 16);
  cp_async_commit();
  cp_async_wait<0>();
  p.out[t] = reinterpret_cast<int*>(smem)[t * 4] / 4;
}
// A vector of 16 bytes at such an address: a CPU would let it pass.
template <bool Right> PTX void vector_alignment(const Planted& p) {
  int t = threadIdx.x;
  int4 v = *reinterpret_cast<const int4*>(p.source + t * 4 + (Right ? 0 : 1));
  p.out[t] = v.w / 4;
}
// A row's tail copied as if it were whole.
template <bool Right> PTX void cp_async_tail(const Planted& p) {
  DYNAMIC_SHARED(smem);
  int t = threadIdx.x, from = 8192 - 126 + t, left = t < 126 ? 16 : 0;
  if (t % 4 == 2) cp_async_16(shared_u32(smem) + t * 16, p.source + from, Right && left == 0 ? 0 : 16);
  cp_async_commit();
  cp_async_wait<0>();
  p.out[t] = t;
}
// A barrier that half of the threads reach.
template <bool Right> PTX void half_barrier(const Planted& p) {
  if (Right || threadIdx.x < 64) __syncthreads();
  p.out[threadIdx.x] = int(threadIdx.x);
}
// Threads that return before a barrier.
template <bool Right> PTX void early_return(const Planted& p) {
  int t = threadIdx.x;
  p.out[t] = t;
  if (!Right && t >= 100) return;
  __syncthreads();
}
// A named barrier with a count that is not the number of those who come.
template <bool Right> PTX void barrier_count(const Planted& p) {
  if (threadIdx.x < 64) bar_sync(1, 64);
  else bar_sync(Right ? 2 : 1, Right ? 64 : 128);
  p.out[threadIdx.x] = int(threadIdx.x);
}
template <bool Right> PTX void dynamic_bounds(const Planted& p) {
  DYNAMIC_SHARED(smem);
  int t = threadIdx.x;
  reinterpret_cast<int*>(smem)[t + (!Right && t == 100 ? 1024 : 0)] = t;   // 4 KiB are there
  __syncthreads();
  p.out[t] = t;
}
template <bool Right> PTX void static_bounds(const Planted& p) {
  STATIC_SHARED(int, x, 128);
  int t = threadIdx.x;
  x[t + (Right ? 0 : 1)] = t;
  p.out[t] = t;
}
template <bool Right> PTX void ldmatrix_bounds(const Planted& p) {
  DYNAMIC_SHARED(smem);
  uint32_t r[4];
  ldmatrix_x4(r, shared_u32(smem) + 4096 - (Right ? 32 : 31) * 16 + threadIdx.x % 32 * 16);
  p.out[threadIdx.x] = int(threadIdx.x);
}
template <bool Right> PTX void read_bounds(const Planted& p) {
  int t = threadIdx.x, from = 8192 - 128 + t;
  p.out[t] = p.source[from + (Right ? 0 : 1)] - 8192 + 128 - (Right ? 0 : 1);
}
template <bool Right> PTX void write_bounds(const Planted& p) {
  int t = threadIdx.x;
  p.out[t] = t;
  if (!Right && t == 0) p.out[-1] = 1;
}
// Shared memory that nobody wrote.
template <bool Right> PTX void uninitialised(const Planted& p) {
  STATIC_SHARED(float, x, 128);
  int t = threadIdx.x;
  if (Right || t < 127) x[t] = 1;
  __syncthreads();
  p.out[t] = x[t] * 0 == 0 ? t : -1;
}
// A collective that not all lanes of its mask come to.
template <bool Right> PTX void diverged(const Planted& p) {
  int t = threadIdx.x;
  int first = !Right && t % 32 == 7 ? int(__ballot_sync(0xffffffffu, 1)) : __shfl_sync(0xffffffffu, t, 0);
  p.out[t] = first + t % 32;
}
template <bool Right> PTX void own_mask(const Planted& p) {
  int t = threadIdx.x;
  p.out[t] = __shfl_sync(Right || t != 31 ? 0xffffffffu : 0x7fffffffu, t, t % 32);
}
}

KERNEL(right_barrier, Planted, 128, 1, faults::barrier<true>(p))
KERNEL(fault_barrier, Planted, 128, 1, faults::barrier<false>(p))
KERNEL(right_reuse, Planted, 128, 1, faults::reuse<true>(p))
KERNEL(fault_reuse, Planted, 128, 1, faults::reuse<false>(p))
KERNEL(right_syncwarp, Planted, 128, 1, faults::syncwarp<true>(p))
KERNEL(fault_syncwarp, Planted, 128, 1, faults::syncwarp<false>(p))
KERNEL(right_ldmatrix_after_write, Planted, 128, 1, faults::ldmatrix_after_write<true>(p))
KERNEL(fault_ldmatrix_after_write, Planted, 128, 1, faults::ldmatrix_after_write<false>(p))
HOPPER_KERNEL(right_stmatrix_before_read, Planted, 128, 1, faults::stmatrix_before_read<true>(p))
HOPPER_KERNEL(fault_stmatrix_before_read, Planted, 128, 1, faults::stmatrix_before_read<false>(p))
HOPPER_KERNEL(right_stmatrix_bounds, Planted, 128, 1, faults::stmatrix_bounds<true>(p))
HOPPER_KERNEL(fault_stmatrix_bounds, Planted, 128, 1, faults::stmatrix_bounds<false>(p))
KERNEL(right_cp_async_groups, Planted, 128, 1, faults::cp_async_groups<true>(p))
KERNEL(fault_cp_async_groups, Planted, 128, 1, faults::cp_async_groups<false>(p))
KERNEL(right_cp_async_alignment, Planted, 128, 1, faults::cp_async_alignment<true>(p))
KERNEL(fault_cp_async_alignment, Planted, 128, 1, faults::cp_async_alignment<false>(p))
KERNEL(right_vector_alignment, Planted, 128, 1, faults::vector_alignment<true>(p))
KERNEL(fault_vector_alignment, Planted, 128, 1, faults::vector_alignment<false>(p))
KERNEL(right_cp_async_tail, Planted, 128, 1, faults::cp_async_tail<true>(p))
KERNEL(fault_cp_async_tail, Planted, 128, 1, faults::cp_async_tail<false>(p))
KERNEL(right_half_barrier, Planted, 128, 1, faults::half_barrier<true>(p))
KERNEL(fault_half_barrier, Planted, 128, 1, faults::half_barrier<false>(p))
KERNEL(right_early_return, Planted, 128, 1, faults::early_return<true>(p))
KERNEL(fault_early_return, Planted, 128, 1, faults::early_return<false>(p))
KERNEL(right_barrier_count, Planted, 128, 1, faults::barrier_count<true>(p))
KERNEL(fault_barrier_count, Planted, 128, 1, faults::barrier_count<false>(p))
KERNEL(right_dynamic_bounds, Planted, 128, 1, faults::dynamic_bounds<true>(p))
KERNEL(fault_dynamic_bounds, Planted, 128, 1, faults::dynamic_bounds<false>(p))
KERNEL(right_static_bounds, Planted, 128, 1, faults::static_bounds<true>(p))
KERNEL(fault_static_bounds, Planted, 128, 1, faults::static_bounds<false>(p))
KERNEL(right_ldmatrix_bounds, Planted, 128, 1, faults::ldmatrix_bounds<true>(p))
KERNEL(fault_ldmatrix_bounds, Planted, 128, 1, faults::ldmatrix_bounds<false>(p))
KERNEL(right_read_bounds, Planted, 128, 1, faults::read_bounds<true>(p))
KERNEL(fault_read_bounds, Planted, 128, 1, faults::read_bounds<false>(p))
KERNEL(right_write_bounds, Planted, 128, 1, faults::write_bounds<true>(p))
KERNEL(fault_write_bounds, Planted, 128, 1, faults::write_bounds<false>(p))
KERNEL(right_uninitialised, Planted, 128, 1, faults::uninitialised<true>(p))
KERNEL(fault_uninitialised, Planted, 128, 1, faults::uninitialised<false>(p))
KERNEL(right_diverged, Planted, 128, 1, faults::diverged<true>(p))
KERNEL(fault_diverged, Planted, 128, 1, faults::diverged<false>(p))
KERNEL(right_own_mask, Planted, 128, 1, faults::own_mask<true>(p))
KERNEL(fault_own_mask, Planted, 128, 1, faults::own_mask<false>(p))
