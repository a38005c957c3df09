// A pipeline of two stages that multiplies 64 by 512 with 512 by 64, once right and with one thing wrong at a time: 128 threads fill with
// cp.async (a) and a tensor map (b), 128 multiply with wgmma.
#include "planted/args.cuh"

namespace pipeline {
enum Fault {
  NONE, PROXY_FENCE, EMPTY_WAIT, FULL_WAIT, WGMMA_WAIT, EARLY_RELEASE, BYTES, EXTRA_ARRIVAL, INIT, WGMMA_FENCE,
  ARRIVE_BY_COPY,   // no fault: the copies arrive by themselves, and the multiplying side fences
};
constexpr int kStage = 16384;

template <int Is> PTX void fill(const PlantedProduct& p, uint32_t base, uint32_t bars) {
  int t = threadIdx.x;
  for (int i = 0; i < 8; i++) {
    int s = i % 2;
    uint32_t full = bars + s * 8, empty = bars + 16 + s * 8, to = base + s * kStage;
    if (Is != EMPTY_WAIT) mbarrier_wait(empty, (i / 2 & 1) ^ 1);
    if (t == 0) {
      mbarrier_arrive_expect_tx(full, Is == BYTES ? 8192 + 16 : 8192);
      tma_load_2d(to + 8192, &p.b_map, i * 64, 0, full);
    }
    for (int j = 0; j < 4; j++) {
      int row = t / 8 + j * 16, chunk = t % 8;
      cp_async_16(to + swizzle_chunk(row, chunk), static_cast<const bf16*>(p.a) + row * 512 + i * 64 + chunk * 8, 16);
    }
    if (Is == ARRIVE_BY_COPY) {
      cp_async_mbarrier_arrive_noinc(full);
      continue;
    }
    cp_async_commit();
    cp_async_wait<0>();
    if (Is != PROXY_FENCE) fence_proxy_async();
    mbarrier_arrive(full);
    if (Is == EXTRA_ARRIVAL && i == 3 && t == 5) mbarrier_arrive(full);
  }
  if (Is == ARRIVE_BY_COPY) cp_async_wait<0>();
}

template <int Is> PTX void multiply(const PlantedProduct& p, uint32_t base, uint32_t bars) {
  float acc[32];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32 - 4;
  for (int i = 0; i < 8; i++) {
    int s = i % 2;
    uint32_t full = bars + s * 8, empty = bars + 16 + s * 8, from = base + s * kStage;
    if (Is != FULL_WAIT) mbarrier_wait(full, i / 2 & 1);
    if (Is == ARRIVE_BY_COPY) fence_proxy_async();
    uint64_t a = wgmma_operand(from, 0, 1024), b = wgmma_operand(from + 8192, 0, 1024);
    if (Is != WGMMA_FENCE) wgmma_fence();
    for (int k = 0; k < 4; k++) wgmma_m64n64k16_bf16<0, 0>(acc, a + k * 2, b + k * 2, i + k > 0);
    wgmma_commit();
    if (Is == EARLY_RELEASE && lane == 0) mbarrier_arrive(empty);
    if (Is != WGMMA_WAIT) wgmma_wait<0>();
    wgmma_hold(acc);
    if (Is != EARLY_RELEASE && lane == 0) mbarrier_arrive(empty);
  }
  for (int i = 0; i < 32; i++) p.out[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = acc[i];
}

template <int Is> PTX void run(const PlantedProduct& p) {
  DYNAMIC_SHARED(smem);
  uint32_t base = shared_u32(smem), bars = base + 2 * kStage;
  if (threadIdx.x == 0 && Is != INIT) {
    for (int s = 0; s < 2; s++) {
      mbarrier_init(bars + s * 8, 129);
      mbarrier_init(bars + 16 + s * 8, 4);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < 128) fill<Is>(p, base, bars);
  else multiply<Is>(p, base, bars);
}
}

HOPPER_KERNEL(right_pipeline, PlantedProduct, 256, 1, pipeline::run<pipeline::NONE>(p))
HOPPER_KERNEL(right_pipeline_arrive_by_copy, PlantedProduct, 256, 1, pipeline::run<pipeline::ARRIVE_BY_COPY>(p))
HOPPER_KERNEL(fault_pipeline_proxy_fence, PlantedProduct, 256, 1, pipeline::run<pipeline::PROXY_FENCE>(p))
HOPPER_KERNEL(fault_pipeline_empty_wait, PlantedProduct, 256, 1, pipeline::run<pipeline::EMPTY_WAIT>(p))
HOPPER_KERNEL(fault_pipeline_full_wait, PlantedProduct, 256, 1, pipeline::run<pipeline::FULL_WAIT>(p))
HOPPER_KERNEL(fault_pipeline_wgmma_wait, PlantedProduct, 256, 1, pipeline::run<pipeline::WGMMA_WAIT>(p))
HOPPER_KERNEL(fault_pipeline_early_release, PlantedProduct, 256, 1, pipeline::run<pipeline::EARLY_RELEASE>(p))
HOPPER_KERNEL(fault_pipeline_bytes, PlantedProduct, 256, 1, pipeline::run<pipeline::BYTES>(p))
HOPPER_KERNEL(fault_pipeline_extra_arrival, PlantedProduct, 256, 1, pipeline::run<pipeline::EXTRA_ARRIVAL>(p))
HOPPER_KERNEL(fault_pipeline_init, PlantedProduct, 256, 1, pipeline::run<pipeline::INIT>(p))
HOPPER_KERNEL(fault_pipeline_wgmma_fence, PlantedProduct, 256, 1, pipeline::run<pipeline::WGMMA_FENCE>(p))
