// facts of sm_90a, as facts.cu: tensor-map loads, mbarriers, wgmma, and registers handed over. One block each. A wait gives up after a
// while, so that a fact that does not hold gives a wrong answer and not a launch without an end.
#include "args/facts.cuh"

namespace facts_hopper {
constexpr int kTile = 64 * 128;                  // bytes of 64 rows of 64 elements

PTX void wait(uint32_t bar, uint32_t parity) {
  for (int tries = 0; tries < 200; tries++)
    if (mbarrier_try_wait(bar, parity)) return;
}

// Puts an operand where its descriptor says. K-major: from [mn][64], rows of MN; MN-major: from [64][mn], rows of k, 64 of MN a tile.
template <bool MnMajor> PTX void put_operand(const void* from, uint32_t to, int mn) {
  for (int i = int(threadIdx.x); i < mn * 8; i += int(blockDim.x)) {
    int per_row = MnMajor ? mn / 8 : 8, row = i / per_row, chunk = i % per_row;
    uint32_t at = MnMajor ? to + uint32_t(chunk / 8 * kTile) + swizzle_chunk(row, chunk % 8) : to + swizzle_chunk(row, chunk);
    st_shared_16(at, static_cast<const uint4*>(from)[i]);
  }
}

template <int TransA, int TransB> PTX void step(float (&d)[64], uint64_t a, uint64_t b, int add) { wgmma_m64n128k16_bf16<TransA, TransB>(d, a, b, add); }
template <int TransA, int TransB> PTX void step(float (&d)[96], uint64_t a, uint64_t b, int add) { wgmma_m64n192k16_bf16<TransA, TransB>(d, a, b, add); }
template <int TransA, int TransB> PTX void step(float (&d)[128], uint64_t a, uint64_t b, int add) { wgmma_m64n256k16_bf16<TransA, TransB>(d, a, b, add); }

// Multiplies 64 by 128, 192 or 256 by 64. `between` is what is done with the accumulators after half of it.
template <int TransA, int TransB, int N, class Between> PTX void multiply(float (&d)[N], uint32_t a, uint32_t b, Between between) {
  uint64_t from_a = wgmma_operand(a, TransA ? kTile : 0, 1024), from_b = wgmma_operand(b, TransB ? kTile : 0, 1024);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    wgmma_fence();
    for (int k = half * 2; k < half * 2 + 2; k++)
      step<TransA, TransB>(d, from_a + k * (TransA ? 128 : 2), from_b + k * (TransB ? 128 : 2), k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(d);
    if (half == 0) between(d);
  }
}

template <int N> PTX void put_result(const float (&d)[N], float* out, int columns) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int i = 0; i < N; i++) out[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * columns + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
}

// Operands written by threads. a: [64][64], b: [Columns][64], or the other way round where MN-major; out: [64][Columns].
template <int TransA, int TransB, int Columns = 128> PTX void wgmma(const FactProbe& p) {
  DYNAMIC_SHARED(smem);
  uint32_t a = shared_u32(smem), b = a + kTile;
  put_operand<TransA>(p.a, a, 64);
  put_operand<TransB>(p.b, b, Columns);
  fence_proxy_async();
  __syncthreads();
  float d[Columns / 2];
  multiply<TransA, TransB>(d, a, b, [](float (&)[Columns / 2]) {});
  put_result(d, static_cast<float*>(p.out), Columns);
}

// Accumulators that hold NaN where they are not to be read, and that are doubled between two multiplies.
PTX void scale(const FactProbe& p) {
  DYNAMIC_SHARED(smem);
  uint32_t a = shared_u32(smem), b = a + kTile;
  put_operand<false>(p.a, a, 64);
  put_operand<false>(p.b, b, 128);
  fence_proxy_async();
  __syncthreads();
  float d[64];
#pragma unroll
  for (int i = 0; i < 64; i++) d[i] = __uint_as_float(0x7fffffffu);
  multiply<0, 0>(d, a, b, [](float (&half)[64]) {
#pragma unroll
    for (int i = 0; i < 64; i++) half[i] *= 2.0f;
  });
  put_result(d, static_cast<float*>(p.out), 128);
}

// Operands brought by tensor maps, both K-major.
PTX void wgmma_from_maps(const FactProbe& p) {
  DYNAMIC_SHARED(smem);
  uint32_t a = shared_u32(smem), b = a + kTile, bar = b + 2 * kTile;
  if (threadIdx.x == 0) {
    mbarrier_init(bar, 1);
    mbarrier_init_fence();
    mbarrier_arrive_expect_tx(bar, 3 * kTile);
    tma_load_2d(a, &p.a_map, 0, 0, bar);
    tma_load_2d(b, &p.b_map, 0, 0, bar);
    tma_load_2d(b + kTile, &p.b_map, 0, 64, bar);
  }
  __syncthreads();
  wait(bar, 0);
  float d[64];
  multiply<0, 0>(d, a, b, [](float (&)[64]) {});
  put_result(d, static_cast<float*>(p.out), 128);
}

// A box of `count` bytes from (x, y) or (x, y, z), as it lies in shared memory. The bytes are awaited only after the load was issued.
template <bool ThreeD> PTX void tma(const FactProbe& p) {
  DYNAMIC_SHARED(smem);
  uint32_t tile = shared_u32(smem), bar = tile + uint32_t(p.count);
  if (threadIdx.x == 0) {
    mbarrier_init(bar, 1);
    mbarrier_init_fence();
    if (ThreeD) tma_load_3d(tile, &p.a_map, p.x, p.y, p.z, bar);
    else tma_load_2d(tile, &p.a_map, p.x, p.y, bar);
    mbarrier_arrive_expect_tx(bar, p.count);
  }
  __syncthreads();
  wait(bar, 0);
  for (int i = int(threadIdx.x); i < p.count / 16; i += int(blockDim.x)) static_cast<uint4*>(p.out)[i] = ld_shared_16(tile + uint32_t(i) * 16);
}

// Which phases have ended, by parity, as two arrivals come one after another, twice. out: [10].
PTX void parity(const FactProbe& p) {
  DYNAMIC_SHARED(smem);
  uint32_t bar = shared_u32(smem), *out = static_cast<uint32_t*>(p.out);
  if (threadIdx.x != 0) return;
  mbarrier_init(bar, 2);
#pragma unroll 1
  for (int i = 0; i < 5; i++) {
    out[i * 2] = mbarrier_test_wait(bar, 0);
    out[i * 2 + 1] = mbarrier_test_wait(bar, 1);
    if (i < 4) mbarrier_arrive(bar);
  }
}

// Copies that arrive by themselves, two a thread: what others copied is there after the wait. a, out: [256] of 16 bytes.
PTX void arrive_by_copy(const FactProbe& p) {
  DYNAMIC_SHARED(smem);
  unsigned t = threadIdx.x;
  uint32_t to = shared_u32(smem), bar = to + 4096;
  if (t == 0) {
    mbarrier_init(bar, 128);
    mbarrier_init_fence();
  }
  __syncthreads();
  for (unsigned i = t; i < 256; i += 128) cp_async_16(to + i * 16, static_cast<const uint4*>(p.a) + i, 16);
  cp_async_mbarrier_arrive_noinc(bar);
  wait(bar, 0);
  for (unsigned i = t; i < 256; i += 128) static_cast<uint4*>(p.out)[255 - i] = ld_shared_16(to + (255 - i) * 16);
  cp_async_wait<0>();
}

// `count` steps of 64 over two stages: 128 threads fill with cp.async and a tensor map, 128 multiply. a: [64][count * 64], b as well by
// its map; out: [64][64]. The writers fence, or (`ByCopy`) the copies arrive by themselves and the readers fence.
template <bool ByCopy> PTX void fill(const FactProbe& p, uint32_t base, uint32_t bars) {
  int t = threadIdx.x;
  for (int i = 0; i < p.count; i++) {
    uint32_t s = i % 2, full = bars + s * 8, to = base + s * 2 * kTile;
    wait(full + 16, uint32_t(i / 2 & 1) ^ 1);
    if (t == 0) {
      mbarrier_arrive_expect_tx(full, kTile);
      tma_load_2d(to + kTile, &p.b_map, i * 64, 0, full);
    }
    for (int row = t / 8, chunk = t % 8; row < 64; row += 16)
      cp_async_16(to + swizzle_chunk(row, chunk), static_cast<const uint4*>(p.a) + (row * p.count + i) * 8 + chunk, 16);
    if (ByCopy) {
      cp_async_mbarrier_arrive_noinc(full);
    } else {
      cp_async_commit();
      cp_async_wait<0>();
      fence_proxy_async();
      mbarrier_arrive(full);
    }
  }
  cp_async_wait<0>();
}
template <bool ByCopy> PTX void drain(const FactProbe& p, uint32_t base, uint32_t bars) {
  float d[32];
  for (int i = 0; i < p.count; i++) {
    uint32_t s = i % 2, full = bars + s * 8, from = base + s * 2 * kTile;
    wait(full, i / 2 & 1);
    if (ByCopy) fence_proxy_async();
    uint64_t a = wgmma_operand(from, 0, 1024), b = wgmma_operand(from + kTile, 0, 1024);
    wgmma_fence();
    for (int k = 0; k < 4; k++) wgmma_m64n64k16_bf16<0, 0>(d, a + k * 2, b + k * 2, i + k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_hold(d);
    if (threadIdx.x % 32 == 0) mbarrier_arrive(full + 16);
  }
  put_result(d, static_cast<float*>(p.out), 64);
}
template <bool ByCopy> PTX void pipeline(const FactProbe& p) {
  DYNAMIC_SHARED(smem);
  uint32_t base = shared_u32(smem), bars = base + 4 * kTile;
  if (threadIdx.x == 0) {
    for (int s = 0; s < 2; s++) {
      mbarrier_init(bars + s * 8, 129);
      mbarrier_init(bars + 16 + s * 8, 4);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) fill<ByCopy>(p, base, bars);
  else drain<ByCopy>(p, base, bars);
}

// A warpgroup gives registers up, the others take them. out: one word a thread.
template <int Fewer, int More> PTX void registers(const FactProbe& p) {
  uint32_t* out = static_cast<uint32_t*>(p.out);
  unsigned t = threadIdx.x;
  if (t < 128) setmaxnreg_dec<Fewer>();
  else setmaxnreg_inc<More>();
  out[t] = t;
}

// The rows that stmatrix writes: words m of all lanes are matrix m. out: [32][4].
PTX void stmatrix(const FactProbe& p) {
  DYNAMIC_SHARED(smem);
  uint32_t lane = threadIdx.x, row = shared_u32(smem) + lane * 16;
  stmatrix_x4(row, lane * 4, lane * 4 + 1, lane * 4 + 2, lane * 4 + 3);
  __syncwarp();
  static_cast<uint4*>(p.out)[lane] = ld_shared_16(row);
}

PTX void dependents(const FactProbe& p) {
  griddepcontrol_wait();
  griddepcontrol_launch_dependents();
  static_cast<uint32_t*>(p.out)[threadIdx.x] = threadIdx.x;
}
}

HOPPER_KERNEL(facts_wgmma_nn, FactProbe, 128, 1, facts_hopper::wgmma<0, 0>(p))
HOPPER_KERNEL(facts_wgmma_nt, FactProbe, 128, 1, facts_hopper::wgmma<0, 1>(p))
HOPPER_KERNEL(facts_wgmma_tn, FactProbe, 128, 1, facts_hopper::wgmma<1, 0>(p))
HOPPER_KERNEL(facts_wgmma_tt, FactProbe, 128, 1, facts_hopper::wgmma<1, 1>(p))
HOPPER_KERNEL(facts_wgmma_192_nn, FactProbe, 128, 1, facts_hopper::wgmma<0, 0, 192>(p))
HOPPER_KERNEL(facts_wgmma_192_tt, FactProbe, 128, 1, facts_hopper::wgmma<1, 1, 192>(p))
HOPPER_KERNEL(facts_wgmma_wide_nn, FactProbe, 128, 1, facts_hopper::wgmma<0, 0, 256>(p))
HOPPER_KERNEL(facts_wgmma_wide_tt, FactProbe, 128, 1, facts_hopper::wgmma<1, 1, 256>(p))
HOPPER_KERNEL(facts_wgmma_scale, FactProbe, 128, 1, facts_hopper::scale(p))
HOPPER_KERNEL(facts_wgmma_from_maps, FactProbe, 128, 1, facts_hopper::wgmma_from_maps(p))
HOPPER_KERNEL(facts_tma, FactProbe, 128, 1, facts_hopper::tma<false>(p))
HOPPER_KERNEL(facts_tma_3d, FactProbe, 128, 1, facts_hopper::tma<true>(p))
HOPPER_KERNEL(facts_parity, FactProbe, 32, 1, facts_hopper::parity(p))
HOPPER_KERNEL(facts_arrive_by_copy, FactProbe, 128, 1, facts_hopper::arrive_by_copy(p))
HOPPER_KERNEL(facts_pipeline, FactProbe, 256, 1, facts_hopper::pipeline<false>(p))
HOPPER_KERNEL(facts_pipeline_by_copy, FactProbe, 256, 1, facts_hopper::pipeline<true>(p))
HOPPER_KERNEL(facts_registers, FactProbe, 384, 1, facts_hopper::registers<72, 216>(p))
HOPPER_KERNEL(facts_registers_of_four, FactProbe, 512, 1, facts_hopper::registers<80, 144>(p))
HOPPER_KERNEL(facts_stmatrix, FactProbe, 32, 1, facts_hopper::stmatrix(p))
HOPPER_KERNEL(facts_dependents, FactProbe, 32, 1, facts_hopper::dependents(p))
