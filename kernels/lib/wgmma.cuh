// sm_90a: the warpgroup's matrix multiply. d[64][N] (+)= a[64][16] * b[16][N], both operands in shared memory.
#pragma once
#include "lib/hopper.cuh"

// An operand, 128-byte swizzled, that starts on a 1024-byte boundary (plus 32 bytes for each step of 16 along K of a K-major one).
//   K-major:  rows are MN, 64 elements of K each; `stride` bytes from 8 rows to the next 8.
//   MN-major: rows are K, 64 elements of MN each; `stride` bytes from 8 rows to the next 8,
//             `leading` bytes from 64 elements of MN to the next 64.
PTX uint64_t wgmma_operand(uint32_t address, uint32_t leading, uint32_t stride) {
  return uint64_t(1) << 62 | uint64_t(stride >> 4) << 32 | uint64_t(leading >> 4) << 16 | (address & 0x3ffff) >> 4;
}
// Where the 128-byte swizzle puts a 16-byte chunk of a row, for rows of 128 bytes.
PTX uint32_t swizzle_chunk(uint32_t row, uint32_t chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
PTX void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
PTX void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Left> PTX void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory"); }
// Keeps the compiler from moving or copying accumulators across asynchronous multiplies.
template <int N> PTX void wgmma_hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// The operand lists: TENS(3) is "%30, ... %39, " and D32(64) is the 32 accumulators from d[64] on.
#define TENS(t) "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define REGISTERS_32 TENS() TENS(1) TENS(2) "%30, %31"
#define REGISTERS_64 TENS() TENS(1) TENS(2) TENS(3) TENS(4) TENS(5) "%60, %61, %62, %63"
#define REGISTERS_96 TENS() TENS(1) TENS(2) TENS(3) TENS(4) TENS(5) TENS(6) TENS(7) TENS(8) "%90, %91, %92, %93, %94, %95"
#define REGISTERS_128 \
  TENS() TENS(1) TENS(2) TENS(3) TENS(4) TENS(5) TENS(6) TENS(7) TENS(8) TENS(9) TENS(10) TENS(11) "%120, %121, %122, %123, %124, %125, %126, %127"
#define D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define D32(i) D8(i), D8(i + 8), D8(i + 16), D8(i + 24)
#define D64(i) D32(i), D32(i + 32)
#define D96(i) D64(i), D32(i + 64)
#define D128(i) D64(i), D64(i + 64)
// `a`, `b`, `scale` and the two transpositions follow the accumulators as operands R, R + 1, ... R + 4.
#define WGMMA(N, R, type, a, b, scale, trans_a, trans_b)                                                                            \
  template <int TransA, int TransB> PTX void wgmma_m64n##N##k16_##type(float (&d)[R], uint64_t a_operand, uint64_t b_operand, int scale_d) { \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #scale ", 0;\n"                                                                  \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #type "." #type " {" REGISTERS_##R                                \
                 "}, %" #a ", %" #b ", p, 1, 1, %" #trans_a ", %" #trans_b "; }\n"                                                   \
                 : D##R(0) : "l"(a_operand), "l"(b_operand), "r"(scale_d), "n"(TransA), "n"(TransB));                              \
  }
WGMMA(64, 32, bf16, 32, 33, 34, 35, 36)
WGMMA(64, 32, f16, 32, 33, 34, 35, 36)
WGMMA(128, 64, bf16, 64, 65, 66, 67, 68)
WGMMA(128, 64, f16, 64, 65, 66, 67, 68)
WGMMA(192, 96, bf16, 96, 97, 98, 99, 100)
WGMMA(192, 96, f16, 96, 97, 98, 99, 100)
WGMMA(256, 128, bf16, 128, 129, 130, 131, 132)
WGMMA(256, 128, f16, 128, 129, 130, 131, 132)
#undef WGMMA
#undef D128
#undef D96
#undef D64
#undef D32
#undef D8
#undef REGISTERS_128
#undef REGISTERS_96
#undef REGISTERS_64
#undef REGISTERS_32
#undef TENS
#endif
#else
PTX void wgmma_fence() { emulate::self->wgmma_fenced = true; }
PTX void wgmma_commit() { emulate::wgmma_commit(); }
template <int Left> PTX void wgmma_wait(EMULATED_AT) { emulate::wgmma_wait(Left, at); }
template <int N> PTX void wgmma_hold(float (&)[N]) {}
#define WGMMA(N, type, to)                                                                                                        \
  template <int TransA, int TransB> PTX void wgmma_m64n##N##k16_##type(float (&d)[N / 2], uint64_t a, uint64_t b, int scale_d, EMULATED_AT) { \
    emulate::wgmma<N, emulate::to>(d, a, b, scale_d != 0, TransA, TransB, "wgmma.m64n" #N "k16." #type, at);                      \
  }
WGMMA(64, bf16, bf16_to_float)
WGMMA(64, f16, half_to_float)
WGMMA(128, bf16, bf16_to_float)
WGMMA(128, f16, half_to_float)
WGMMA(192, bf16, bf16_to_float)
WGMMA(192, f16, half_to_float)
WGMMA(256, bf16, bf16_to_float)
WGMMA(256, f16, half_to_float)
#undef WGMMA
#endif
