// Shared memory by its 32-bit addresses, named barriers, cp.async, and words that blocks pass to one another.
#pragma once
#include "lib/types.cuh"

#if defined(__CUDACC__)
PTX uint32_t shared_u32(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
PTX void bar_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
PTX void bar_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
PTX void st_shared_16(uint32_t to, uint4 v) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
PTX uint4 ld_shared_16(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
  return v;
}
// Nothing is known of an address any more, so that what is computed from it is not kept.
template <class T> PTX void opaque(T*& p) { asm volatile("" : "+l"(p)); }
PTX void opaque(int& n) { asm volatile("" : "+r"(n)); }
// The compiler may take a plain store of 16 bytes apart.
PTX void st_global_16(void* to, uint4 v) {
  asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
#else
PTX uint32_t shared_u32(const void* p, EMULATED_AT) { return emulate::shared_address(p, at); }
PTX void bar_sync(int id, int threads, EMULATED_AT) { emulate::barrier(unsigned(id), unsigned(threads), true, at); }
PTX void bar_arrive(int id, int threads, EMULATED_AT) { emulate::barrier(unsigned(id), unsigned(threads), false, at); }
PTX void st_shared_16(uint32_t to, uint4 v, EMULATED_AT) {
  memcpy(emulate::shared(to, 16, 16, "st.shared", at), &v, 16);
  emulate::mark_generic_write(emulate::self, to, 16);
}
PTX uint4 ld_shared_16(uint32_t from, EMULATED_AT) {
  uint4 v;
  memcpy(&v, emulate::shared(from, 16, 16, "ld.shared", at), 16);
  return v;
}
template <class P> PTX void opaque(P&) {}
PTX void st_global_16(void* to, uint4 v) { *static_cast<uint4*>(to) = v; }
#endif

// cp_async_16 copies `filled` (0 to 16) bytes and zeroes the rest of the 16.
#if defined(__CUDACC__)
PTX void cp_async_16(uint32_t to, const void* from, int filled) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(filled) : "memory");
}
PTX void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Left> PTX void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory"); }
#else
PTX void cp_async_16(uint32_t to, const void* from, int filled, EMULATED_AT) { emulate::cp_async(to, from, 16, uint32_t(filled), at); }
PTX void cp_async_commit(EMULATED_AT) { emulate::cp_async_commit(at); }
template <int Left> PTX void cp_async_wait() { emulate::cp_async_wait(Left); }
#endif

// A release makes what the thread wrote before it visible to whoever acquires the word. wait_global_ge is the one way to wait for another
// block, in a cooperative launch: the emulation can let that block run, which it cannot from within any other loop.
#if defined(__CUDACC__)
PTX uint32_t ld_acquire(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
PTX void red_release_add(uint32_t* p, uint32_t v) { asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
PTX void wait_global_ge(const uint32_t* p, uint32_t least) {
  while (ld_acquire(p) < least) {}
}
#else
PTX uint32_t ld_acquire(const uint32_t* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
PTX void red_release_add(uint32_t* p, uint32_t v) { __atomic_fetch_add(p, v, __ATOMIC_RELEASE); }
PTX void wait_global_ge(const uint32_t* p, uint32_t least, EMULATED_AT) {
  emulate::poll(at, [=] { return ld_acquire(p) >= least; });
}
#endif
