// facts: what documents say of the hardware, each tried by a tiny kernel whose answer the host knows (src/gpu/facts.rs). Here what all
// architectures share; facts_hopper.cu has the rest. One block each, but for the handover; no dynamic shared memory beyond 2 KiB.
#include "args/facts.cuh"

namespace facts {
// ldmatrix: the four registers of each lane, then the four of the transposed form. a: 32 rows of 16 bytes; out: [32][8].
PTX void ldmatrix(const FactProbe& p) {
  DYNAMIC_SHARED(smem);
  uint32_t lane = threadIdx.x, row = shared_u32(smem) + lane * 16, r[4];
  uint32_t* out = static_cast<uint32_t*>(p.out) + lane * 8;
  st_shared_16(row, static_cast<const uint4*>(p.a)[lane]);
  __syncwarp();
  ldmatrix_x4(r, row);
  for (int m = 0; m < 4; m++) out[m] = r[m];
  ldmatrix_x4_trans(r, row);
  for (int m = 0; m < 4; m++) out[4 + m] = r[m];
}

// mma.m16n8k16 of fragments put together element by element. a: [16][16], b: [8][16], out: [16][8].
template <bool F16> PTX void mma(const FactProbe& p) {
  const uint16_t *a = static_cast<const uint16_t*>(p.a), *b = static_cast<const uint16_t*>(p.b);
  int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  auto pair = [](const uint16_t* from) { return from[0] | uint32_t(from[1]) << 16; };
  uint32_t fragment[4] = {pair(a + g * 16 + t * 2), pair(a + (g + 8) * 16 + t * 2), pair(a + g * 16 + t * 2 + 8), pair(a + (g + 8) * 16 + t * 2 + 8)};
  uint32_t b0 = pair(b + g * 16 + t * 2), b1 = pair(b + g * 16 + t * 2 + 8);
  float d[4] = {}, *out = static_cast<float*>(p.out);
  if (F16) mma_m16n8k16_f16(d, fragment, b0, b1);
  else mma_m16n8k16_bf16(d, fragment, b0, b1);
  for (int i = 0; i < 4; i++) out[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = d[i];
}

// mma.m16n8k8 of f32 that nobody rounded to tf32. a: [16][8], b: [8][8] by columns, out: [16][8].
PTX void mma_tf32(const FactProbe& p) {
  const uint32_t *a = static_cast<const uint32_t*>(p.a), *b = static_cast<const uint32_t*>(p.b);
  int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  uint32_t fragment[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
  float d[4] = {}, *out = static_cast<float*>(p.out);
  mma_m16n8k8_tf32(d, fragment, b[g * 8 + t], b[g * 8 + t + 4]);
  for (int i = 0; i < 4; i++) out[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = d[i];
}

// Where dynamic shared memory begins, beside a static array of a size that would shift it.
PTX void shared_base(const FactProbe& p) {
  DYNAMIC_SHARED(smem);
  STATIC_SHARED(uint32_t, beside, 3);
  if (threadIdx.x < 3) beside[threadIdx.x] = threadIdx.x;
  __syncthreads();
  if (threadIdx.x == 0) static_cast<uint32_t*>(p.out)[0] = shared_u32(smem) % 1024 + beside[1] - 1;
}

// f32 to bf16 (low half) and f16 (high half), alone and as a pair. a: [count]; out: [count][2].
PTX void conversions(const FactProbe& p) {
  const float* a = static_cast<const float*>(p.a);
  uint32_t* out = static_cast<uint32_t*>(p.out);
  for (int i = int(threadIdx.x); i < p.count; i += int(blockDim.x)) {
    out[i * 2] = to_bf16(a[i]).bits | uint32_t(to_f16(a[i]).bits) << 16;
    out[i * 2 + 1] = (pack_bf16(a[i], 0.0f) & 0xffff) | pack_f16(0.0f, a[i]) >> 16 << 16;
  }
}

// bar.arrive counts without waiting, bar.sync waits for all that count. Two warps fill, two read. out: [64].
PTX void named_barriers(const FactProbe& p) {
  STATIC_SHARED(uint32_t, x, 64);
  unsigned t = threadIdx.x;
  uint32_t* out = static_cast<uint32_t*>(p.out);
  for (unsigned round = 0; round < 8; round++) {
    if (t < 64) {
      if (round) bar_sync(2, 128);
      x[t] = round * 64 + t;
      bar_arrive(1, 128);
    } else {
      bar_sync(1, 128);
      unsigned other = 127 - t;
      if (round == 7) out[other] = x[other];
      else if (x[other] != round * 64 + other) out[64] = round + 1;
      bar_arrive(2, 128);
    }
  }
  if (t < 64) bar_sync(2, 128);
}

// What a block wrote before a release is there for who acquired the counter. Each block adds its own to what the one before left; the
// next sees it in its turn. a is written and read: [32]; out: [32] of the last block.
PTX void handover(const FactProbe& p) {
  uint32_t* data = static_cast<uint32_t*>(const_cast<void*>(p.a));
  unsigned t = threadIdx.x, block = blockIdx.x;
  if (t == 0) wait_global_ge(p.counters, block);
  __syncthreads();
  uint32_t value = data[(t + 1) % 32] + block + 1;
  __syncthreads();
  data[t] = value;
  __syncthreads();
  if (t == 0) red_release_add(p.counters, 1);
  if (block == gridDim.x - 1) static_cast<uint32_t*>(p.out)[t] = value;
}

// out[i] = a[i] + y, after `x` exchanges, an even number, so that a launch behind this one has long been there.
PTX void follow(const FactProbe& p) {
  int lane = int(threadIdx.x), held = lane;
#pragma unroll 1
  for (int i = 0; i < p.x; i++) held = __shfl_xor_sync(~0u, held, 1);
  for (int i = int(blockIdx.x) * 32 + lane; i < p.count; i += int(gridDim.x) * 32)
    static_cast<int*>(p.out)[i] = static_cast<const int*>(p.a)[i] + p.y + held - lane;
}
}

KERNEL(facts_ldmatrix, FactProbe, 32, 1, facts::ldmatrix(p))
KERNEL(facts_mma_bf16, FactProbe, 32, 1, facts::mma<false>(p))
KERNEL(facts_mma_f16, FactProbe, 32, 1, facts::mma<true>(p))
KERNEL(facts_mma_tf32, FactProbe, 32, 1, facts::mma_tf32(p))
KERNEL(facts_shared_base, FactProbe, 128, 1, facts::shared_base(p))
KERNEL(facts_conversions, FactProbe, 128, 1, facts::conversions(p))
KERNEL(facts_named_barriers, FactProbe, 128, 1, facts::named_barriers(p))
KERNEL(facts_handover, FactProbe, 32, 1, facts::handover(p))
KERNEL(facts_follow, FactProbe, 32, 1, facts::follow(p))
