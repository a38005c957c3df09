// What every kernel is written with: integers of known size, 16-bit floats, shared memory, and the line that declares a kernel.
#pragma once

#if defined(__CUDACC__)
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;

#define BARE_KERNEL(name, Args, threads, blocks, ...) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Args p) { __VA_ARGS__; }
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#define STATIC_SHARED(T, name, n) __shared__ T name[n]
#define PTX __device__ __forceinline__
#else
#include "host/kernel.hpp"
#define PTX inline
// The last argument of an emulated instruction: where the kernel uses it.
#define EMULATED_AT emulate::Site at = emulate::Site::here()
#endif

#if !defined(__CUDACC__)
PTX void griddepcontrol_wait(EMULATED_AT) { emulate::wait_for_launches_ahead(at); }
PTX void griddepcontrol_launch_dependents() {}
#elif __CUDA_ARCH__ >= 900
PTX void griddepcontrol_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
PTX void griddepcontrol_launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
#else
PTX void griddepcontrol_wait() {}
PTX void griddepcontrol_launch_dependents() {}
#endif

// From sm_90 on a launch may come up while the one ahead of it still runs (`Shape::dependent`). Before this, no thread touches memory that
// any launch writes; after it, all launches ahead have ended and what they wrote is seen. Every thread comes here: a launch of which none
// did could end before the one ahead of it, and the next would take both for ended. Only then may the next come up, as there is room:
// so no more than two overlap. In a launch that is not dependent it does nothing.
PTX void wait_for_launches_ahead() {
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();
}

// name, argument struct, threads of a block, blocks that a multiprocessor is to hold, body (reads p). One line each: the build reads them.
#define KERNEL(name, Args, threads, blocks, ...) BARE_KERNEL(name, Args, threads, blocks, wait_for_launches_ahead(); __VA_ARGS__)
#define HOPPER_KERNEL(...) KERNEL(__VA_ARGS__)
// The body itself waits for the launches ahead, in every thread, after what needs no memory but its own: its barriers, its arguments.
#define EARLY_HOPPER_KERNEL(...) BARE_KERNEL(__VA_ARGS__)

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };
template <class T> constexpr bool is_bf16 = false;
template <> constexpr bool is_bf16<bf16> = true;
struct alignas(64) TensorMap { uint64_t opaque[16]; };   // CUtensorMap

#if defined(__CUDACC__)
PTX float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
PTX float to_float(f16 x) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(x.bits));
  return f;
}
PTX bf16 to_bf16(float f) {
  bf16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(f));
  return r;
}
PTX f16 to_f16(float f) {
  f16 r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(f));
  return r;
}
PTX uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
PTX uint32_t pack_f16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
#else
PTX float to_float(bf16 x) { return emulate::bf16_to_float(x.bits); }
PTX float to_float(f16 x) { return emulate::half_to_float(x.bits); }
PTX bf16 to_bf16(float f) { return {emulate::float_to_bf16(f)}; }
PTX f16 to_f16(float f) { return {emulate::float_to_half(f)}; }
PTX uint32_t pack_bf16(float low, float high) { return emulate::float_to_bf16(low) | uint32_t(emulate::float_to_bf16(high)) << 16; }
PTX uint32_t pack_f16(float low, float high) { return emulate::float_to_half(low) | uint32_t(emulate::float_to_half(high)) << 16; }
#endif

PTX float to_float(float x) { return x; }
template <class T> struct Narrow;
template <> struct Narrow<float> { static PTX float from(float x) { return x; } };
template <> struct Narrow<bf16> { static PTX bf16 from(float x) { return to_bf16(x); } };
template <> struct Narrow<f16> { static PTX f16 from(float x) { return to_f16(x); } };
// Rounded once, to nearest.
template <class T> PTX T narrow(float x) { return Narrow<T>::from(x); }
