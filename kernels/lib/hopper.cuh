// sm_90: mbarriers (try_wait waits for a while, test_wait does not), tensor-map loads, the asynchronous proxy, and registers handed from one warpgroup to another.
#pragma once
#include "lib/memory.cuh"

#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
PTX void mbarrier_init(uint32_t bar, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory"); }
PTX void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
PTX void mbarrier_arrive(uint32_t bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
PTX void mbarrier_expect_tx(uint32_t bar, int bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
PTX void mbarrier_arrive_expect_tx(uint32_t bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
PTX bool mbarrier_try_wait(uint32_t bar, uint32_t parity) {
  uint32_t done;
  asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }"
               : "=r"(done) : "r"(bar), "r"(parity) : "memory");
  return done;
}
PTX bool mbarrier_test_wait(uint32_t bar, uint32_t parity) {
  uint32_t done;
  asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.b32 %0, 1, 0, p; }"
               : "=r"(done) : "r"(bar), "r"(parity) : "memory");
  return done;
}
PTX void mbarrier_wait(uint32_t bar, uint32_t parity) {
  while (!mbarrier_try_wait(bar, parity)) {}
}
PTX void cp_async_mbarrier_arrive_noinc(uint32_t bar) { asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(bar) : "memory"); }
PTX void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Where what a thread has read is to be overwritten through the asynchronous proxy. The emulation does not follow what was read.
PTX void fence_reads() { fence_proxy_async(); }
PTX void tma_load_2d(uint32_t to, const TensorMap* map, int x, int y, uint32_t bar) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
               ::"r"(to), "l"(map), "r"(bar), "r"(x), "r"(y) : "memory");
}
PTX void tma_load_3d(uint32_t to, const TensorMap* map, int x, int y, int z, uint32_t bar) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
               ::"r"(to), "l"(map), "r"(bar), "r"(x), "r"(y), "r"(z) : "memory");
}
// Four matrices of 8 by 8 of 16 bits: thread number t gives the address of row t % 8 of matrix t / 8, and of row t / 4 of each the two
// elements from 2 (t % 4) on.
PTX void stmatrix_x4(uint32_t to, uint32_t m0, uint32_t m1, uint32_t m2, uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(m0), "r"(m1), "r"(m2), "r"(m3) : "memory");
}
template <int N> PTX void setmaxnreg_inc() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> PTX void setmaxnreg_dec() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
#endif
#else
PTX void mbarrier_init(uint32_t bar, int count, EMULATED_AT) { emulate::mbarrier_init(bar, uint32_t(count), at); }
PTX void mbarrier_init_fence() {}
PTX void mbarrier_arrive(uint32_t bar, EMULATED_AT) {
  emulate::mbarrier_change(emulate::self->block, bar, 1, 0, at);
  emulate::shake();
}
PTX void mbarrier_expect_tx(uint32_t bar, int bytes, EMULATED_AT) { emulate::mbarrier_change(emulate::self->block, bar, 0, bytes, at); }
PTX void mbarrier_arrive_expect_tx(uint32_t bar, int bytes, EMULATED_AT) {
  mbarrier_expect_tx(bar, bytes, at);
  mbarrier_arrive(bar, at);
}
PTX void mbarrier_wait(uint32_t bar, uint32_t parity, EMULATED_AT) { emulate::mbarrier_wait(bar, parity, at); }
PTX bool mbarrier_test_wait(uint32_t bar, uint32_t parity, EMULATED_AT) { return emulate::mbarrier_test(bar, parity, at); }
PTX bool mbarrier_try_wait(uint32_t bar, uint32_t parity, EMULATED_AT) { return emulate::mbarrier_wait(bar, parity, at), true; }
PTX void cp_async_mbarrier_arrive_noinc(uint32_t bar, EMULATED_AT) { emulate::cp_async_arrive(bar, at); }
PTX void fence_proxy_async() { emulate::fence_proxy_async(); }
PTX void fence_reads() {}
PTX void tma_load_2d(uint32_t to, const TensorMap* map, int x, int y, uint32_t bar, EMULATED_AT) { emulate::tma_load(to, map, {x, y}, 2, bar, at); }
PTX void tma_load_3d(uint32_t to, const TensorMap* map, int x, int y, int z, uint32_t bar, EMULATED_AT) {
  emulate::tma_load(to, map, {x, y, z}, 3, bar, at);
}
PTX void stmatrix_x4(uint32_t to, uint32_t m0, uint32_t m1, uint32_t m2, uint32_t m3, EMULATED_AT) {
  emulate::stmatrix_x4(to, {m0, m1, m2, m3}, at);
}
template <int N> PTX void setmaxnreg_inc() {}
template <int N> PTX void setmaxnreg_dec() {}
#endif
