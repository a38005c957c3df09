// The warp's matrix instructions of sm_80: 16-bit fragments from shared memory, and products of 16 by 8 in f32.
#pragma once
#include "lib/memory.cuh"

#if defined(__CUDACC__)
PTX void ldmatrix_x4(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
PTX void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
#define MMA(name, shape_and_types)                                                                                                       \
  PTX void name(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {                                                       \
    asm volatile("mma.sync.aligned." shape_and_types " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                            \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)); \
  }
MMA(mma_m16n8k16_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_m16n8k16_f16, "m16n8k16.row.col.f32.f16.f16.f32")
MMA(mma_m16n8k8_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef MMA
#else
PTX void ldmatrix_x4(uint32_t (&r)[4], uint32_t from, EMULATED_AT) { emulate::ldmatrix_x4(r, from, false, at); }
PTX void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t from, EMULATED_AT) { emulate::ldmatrix_x4(r, from, true, at); }
PTX void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMULATED_AT) {
  emulate::mma_m16n8k16<emulate::bf16_to_float>(d, a, b0, b1, "mma.bf16", at);
}
PTX void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMULATED_AT) {
  emulate::mma_m16n8k16<emulate::half_to_float>(d, a, b0, b1, "mma.f16", at);
}
PTX void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMULATED_AT) {
  emulate::mma_m16n8k8_tf32(d, a, b0, b1, at);
}
#endif

// By the number type of the operands, which the last argument stands for.
PTX void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bf16) { mma_m16n8k16_bf16(d, a, b0, b1); }
PTX void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, f16) { mma_m16n8k16_f16(d, a, b0, b1); }
