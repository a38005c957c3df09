// The emulated instructions, each on its own, for answers that plain loops know.
#include "planted/args.cuh"

namespace instructions {
// mma.sync with ldmatrix: a is 16 by 16 (m, k), b is 16 by 16 (k, n), both by rows.
template <bool F16> PTX void mma(const PlantedProduct& p) {
  DYNAMIC_SHARED(smem);
  uint32_t s = shared_u32(smem), lane = threadIdx.x;
  st_shared_16(s + lane * 16, static_cast<const uint4*>(p.a)[lane]);
  st_shared_16(s + 512 + lane * 16, static_cast<const uint4*>(p.b)[lane]);
  __syncwarp();
  uint32_t a[4], b[4];
  ldmatrix_x4(a, s + lane % 16 * 32 + lane / 16 * 16);
  ldmatrix_x4_trans(b, s + 512 + lane % 16 * 32 + lane / 16 * 16);
  for (int j = 0; j < 2; j++) {
    float d[4] = {};
    if (F16) mma_m16n8k16_f16(d, a, b[j * 2], b[j * 2 + 1]);
    else mma_m16n8k16_bf16(d, a, b[j * 2], b[j * 2 + 1]);
    for (int i = 0; i < 4; i++) p.out[(lane / 4 + i / 2 * 8) * 16 + j * 8 + lane % 4 * 2 + i % 2] = d[i];
  }
}

// a is 16 by 8 (m, k), b is 8 by 8 (k, n).
PTX void mma_tf32(const PlantedProduct& p) {
  int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  const uint32_t *a = static_cast<const uint32_t*>(p.a), *b = static_cast<const uint32_t*>(p.b);
  uint32_t fragment[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
  float d[4] = {};
  mma_m16n8k8_tf32(d, fragment, b[t * 8 + g], b[(t + 4) * 8 + g]);
  for (int i = 0; i < 4; i++) p.out[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = d[i];
}

// wgmma: 64 by 128 by 64, each operand K-major, or MN-major (`Trans`), brought by tensor maps.
template <int TransA, int TransB, bool F16> PTX void wgmma(const PlantedProduct& p) {
  DYNAMIC_SHARED(smem);
  uint32_t a = shared_u32(smem), b = a + 8192, bar = b + 16384;
  if (threadIdx.x == 0) {
    mbarrier_init(bar, 1);
    mbarrier_init_fence();
    fence_proxy_async();
    mbarrier_arrive_expect_tx(bar, 8192 + 16384);
    tma_load_2d(a, &p.a_map, 0, 0, bar);
    tma_load_2d(b, &p.b_map, 0, 0, bar);
    tma_load_2d(b + 8192, &p.b_map, TransB ? 64 : 0, TransB ? 0 : 64, bar);
  }
  __syncthreads();
  mbarrier_wait(bar, 0);
  float acc[64];
  uint64_t from_a = wgmma_operand(a, TransA ? 8192 : 0, 1024), from_b = wgmma_operand(b, TransB ? 8192 : 0, 1024);
  wgmma_fence();
  for (int k = 0; k < 4; k++) {
    uint64_t step_a = from_a + k * (TransA ? 128 : 2), step_b = from_b + k * (TransB ? 128 : 2);
    if (F16) wgmma_m64n128k16_f16<TransA, TransB>(acc, step_a, step_b, k > 0);
    else wgmma_m64n128k16_bf16<TransA, TransB>(acc, step_a, step_b, k > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_hold(acc);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = 0; i < 64; i++) p.out[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * 128 + i / 4 * 8 + lane % 4 * 2 + i % 2] = acc[i];
}

// Warp functions, static shared memory and named barriers of 128 threads; out[i] = i where all of them were right.
PTX void warp(const Planted& p) {
  STATIC_SHARED(int, odd_lanes, 4);
  STATIC_SHARED(int, other, 64);
  const unsigned all = 0xffffffffu;
  int t = threadIdx.x, lane = t % 32, sum = lane, part = -1;
  for (int x = 16; x; x /= 2) sum += __shfl_xor_sync(all, sum, x);
  int up = __shfl_up_sync(all, lane, 1), down = __shfl_down_sync(all, lane, 1);
  if (lane < 8) part = __shfl_sync(0xffu, lane * 10, 3);
  unsigned odd = __ballot_sync(all, lane & 1);
  bool fine = sum == 496 && up == max(lane - 1, 0) && down == min(lane + 1, 31) && odd == 0xaaaaaaaau && part == (lane < 8 ? 30 : -1);
  fine = fine && __any_sync(all, lane == 5) && !__all_sync(all, lane == 5) && __reduce_add_sync(all, 1u) == 32;
  if (lane == 0) odd_lanes[t / 32] = __popc(odd);
  if (t < 64) {
    other[t] = t;
    bar_sync(1, 64);
    fine = fine && other[63 - t] == 63 - t;
    bar_arrive(2, 128);
  } else {
    bar_sync(2, 128);
    fine = fine && other[t - 64] == t - 64;
  }
  __syncthreads();
  p.out[t] = fine && odd_lanes[0] + odd_lanes[1] + odd_lanes[2] + odd_lanes[3] == 64 ? t : -1;
}

// Block i waits for block i + 1.
PTX void chain(const Planted& p) {
  int i = blockIdx.x, last = int(gridDim.x) - 1;
  if (threadIdx.x == 0) {
    if (i < last) wait_global_ge(p.counters, unsigned(last - i));
    p.parts[i] = i < last ? p.parts[i + 1] - 1 : last;
    red_release_add(p.counters, 1);
  }
  __syncthreads();
  for (int at = i; at < p.count; at += int(gridDim.x)) p.out[at] = at - i + p.parts[i];
}
}

KERNEL(right_mma_bf16, PlantedProduct, 32, 1, instructions::mma<false>(p))
KERNEL(right_mma_f16, PlantedProduct, 32, 1, instructions::mma<true>(p))
KERNEL(right_mma_tf32, PlantedProduct, 32, 1, instructions::mma_tf32(p))
KERNEL(right_warp, Planted, 128, 1, instructions::warp(p))
KERNEL(right_chain, Planted, 64, 1, instructions::chain(p))
HOPPER_KERNEL(right_wgmma_nn_bf16, PlantedProduct, 128, 1, instructions::wgmma<0, 0, false>(p))
HOPPER_KERNEL(right_wgmma_nt_bf16, PlantedProduct, 128, 1, instructions::wgmma<0, 1, false>(p))
HOPPER_KERNEL(right_wgmma_tn_bf16, PlantedProduct, 128, 1, instructions::wgmma<1, 0, false>(p))
HOPPER_KERNEL(right_wgmma_tt_bf16, PlantedProduct, 128, 1, instructions::wgmma<1, 1, false>(p))
HOPPER_KERNEL(right_wgmma_nn_f16, PlantedProduct, 128, 1, instructions::wgmma<0, 0, true>(p))
HOPPER_KERNEL(right_wgmma_tt_f16, PlantedProduct, 128, 1, instructions::wgmma<1, 1, true>(p))
