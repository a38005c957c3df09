// The names that CUDA C++ has built in, but for warp functions and atomics.
#pragma once
#include "host/barrier.hpp"
#include "host/memory.hpp"
#include <math.h>

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static const
#define __align__(n) alignas(n)

#define threadIdx (::emulate::self->thread_idx)
#define blockIdx (::emulate::self->block->idx)
#define blockDim (::emulate::worker->launch->block)
#define gridDim (::emulate::worker->launch->grid)

inline void __syncthreads(emulate::Site at = emulate::Site::here()) {
  emulate::barrier(0, (emulate::self->block->threads + 31) / 32 * 32, true, at);
}

// ThreadSanitizer does not know fences. To it, who fences sees what was written before all fences so far: of two, on either side of an
// atomic, neither may be missing.
inline void __threadfence() {
  static char tag;
  if (!emulate::kThreadSanitizer) __atomic_thread_fence(__ATOMIC_SEQ_CST);
  emulate::publish(&tag);
  emulate::observe(&tag);
}
inline void __threadfence_block() {}

template <class T> inline T __ldg(const T* p) { return *p; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline long long __double_as_longlong(double d) {
  long long bits;
  memcpy(&bits, &d, 8);
  return bits;
}
inline double __longlong_as_double(long long bits) {
  double d;
  memcpy(&d, &bits, 8);
  return d;
}
inline float __uint_as_float(unsigned u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline unsigned __float_as_uint(float f) {
  unsigned u;
  memcpy(&u, &f, 4);
  return u;
}
template <class T> constexpr T min(T a, T b) { return b < a ? b : a; }
template <class T> constexpr T max(T a, T b) { return a < b ? b : a; }
