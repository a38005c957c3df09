// experts, engine `wgmma` of sm_90a: the grouped products of the experts, sum over k of a[m, k] b[n, k], a tile of 128 by 128 or 256 at a time.
//
// Three warpgroups: one fills a ring of stages in shared memory (experts/fill.cuh), two multiply 64 rows each out of it (experts/multiply.cuh)
// while the next steps, and the next tile's, are on their way. The job (experts/job.cuh) says which rows, and takes the product row by row.
// Grid: any, a block a multiprocessor; blocks take tiles in turn. Threads 384. Shared memory: the ring's, 4 stages of 48 KiB or 6 of 32, and
// a piece of 2,560 bytes for each warp that multiplies. Deterministic: each sum has one order, whatever the grid.
// Launched by src/gpu/experts.rs.
#include "experts/backward.cuh"
#include "experts/fill.cuh"
#include "experts/forward.cuh"
#include "experts/gradients.cuh"
#include "experts/multiply.cuh"

namespace experts {
template <class T, class Job> PTX void hopper(const typename Job::Args& p) {
  using Filling = Fill<T, Job>;
  DYNAMIC_SHARED(smem);
  const typename Filling::Stages ring{shared_u32(smem)};
  if (threadIdx.x == 0) ring.init(Filling::kArrivals);
  __syncthreads();
  Job job{p};
  if (threadIdx.x < kFillers) {
    setmaxnreg_dec<56>();
    if (!Filling::kCopies && threadIdx.x > 0) return;
    Filling fill{ring};
#pragma unroll 1
    for (int number = blockIdx.x; job.find(number); number += gridDim.x) fill.tile(job);
    fill.end();
  } else {
    setmaxnreg_inc<224>();
    const int warp = threadIdx.x / 32 - kFillers / 32;
    Multiply<T, Job> multiply{ring, smem, reinterpret_cast<float*>(smem + Filling::Stages::kBytes + warp * kPiece)};
#pragma unroll 1
    for (int number = blockIdx.x; job.find(number); number += gridDim.x) multiply.tile(job);
  }
}

template <int Columns> using Wide = Tile<128, Columns, kFillers>;
template <template <class, class> class Job, class T, int Columns, class Args> PTX void hopper(const Args& p) {
  hopper<T, Job<T, Wide<Columns>>>(p);
}
}

HOPPER_KERNEL(experts_up_wgmma_128x128_bf16, ExpertsUp, 384, 1, experts::hopper<experts::Up, bf16, 128>(p))
HOPPER_KERNEL(experts_up_wgmma_128x128_f16, ExpertsUp, 384, 1, experts::hopper<experts::Up, f16, 128>(p))
HOPPER_KERNEL(experts_up_wgmma_128x256_bf16, ExpertsUp, 384, 1, experts::hopper<experts::Up, bf16, 256>(p))
HOPPER_KERNEL(experts_up_wgmma_128x256_f16, ExpertsUp, 384, 1, experts::hopper<experts::Up, f16, 256>(p))
HOPPER_KERNEL(experts_up_gated_wgmma_128x128_bf16, ExpertsUp, 384, 1, experts::hopper<experts::UpGated, bf16, 128>(p))
HOPPER_KERNEL(experts_up_gated_wgmma_128x128_f16, ExpertsUp, 384, 1, experts::hopper<experts::UpGated, f16, 128>(p))
HOPPER_KERNEL(experts_up_gated_wgmma_128x256_bf16, ExpertsUp, 384, 1, experts::hopper<experts::UpGated, bf16, 256>(p))
HOPPER_KERNEL(experts_up_gated_wgmma_128x256_f16, ExpertsUp, 384, 1, experts::hopper<experts::UpGated, f16, 256>(p))
HOPPER_KERNEL(experts_down_wgmma_128x128_bf16, ExpertsDown, 384, 1, experts::hopper<experts::Down, bf16, 128>(p))
HOPPER_KERNEL(experts_down_wgmma_128x128_f16, ExpertsDown, 384, 1, experts::hopper<experts::Down, f16, 128>(p))
HOPPER_KERNEL(experts_down_wgmma_128x256_bf16, ExpertsDown, 384, 1, experts::hopper<experts::Down, bf16, 256>(p))
HOPPER_KERNEL(experts_down_wgmma_128x256_f16, ExpertsDown, 384, 1, experts::hopper<experts::Down, f16, 256>(p))
HOPPER_KERNEL(experts_dinner_wgmma_128x128_bf16, ExpertsDinner, 384, 1, experts::hopper<experts::Dinner, bf16, 128>(p))
HOPPER_KERNEL(experts_dinner_wgmma_128x128_f16, ExpertsDinner, 384, 1, experts::hopper<experts::Dinner, f16, 128>(p))
HOPPER_KERNEL(experts_dinner_wgmma_128x256_bf16, ExpertsDinner, 384, 1, experts::hopper<experts::Dinner, bf16, 256>(p))
HOPPER_KERNEL(experts_dinner_wgmma_128x256_f16, ExpertsDinner, 384, 1, experts::hopper<experts::Dinner, f16, 256>(p))
HOPPER_KERNEL(experts_dx_wgmma_128x128_bf16, ExpertsDx, 384, 1, experts::hopper<experts::Dx, bf16, 128>(p))
HOPPER_KERNEL(experts_dx_wgmma_128x128_f16, ExpertsDx, 384, 1, experts::hopper<experts::Dx, f16, 128>(p))
HOPPER_KERNEL(experts_dx_wgmma_128x256_bf16, ExpertsDx, 384, 1, experts::hopper<experts::Dx, bf16, 256>(p))
HOPPER_KERNEL(experts_dx_wgmma_128x256_f16, ExpertsDx, 384, 1, experts::hopper<experts::Dx, f16, 256>(p))
HOPPER_KERNEL(experts_dfc1_wgmma_128x128_bf16, ExpertsDfc1, 384, 1, experts::hopper<experts::Dfc1, bf16, 128>(p))
HOPPER_KERNEL(experts_dfc1_wgmma_128x128_f16, ExpertsDfc1, 384, 1, experts::hopper<experts::Dfc1, f16, 128>(p))
HOPPER_KERNEL(experts_dfc1_wgmma_128x256_bf16, ExpertsDfc1, 384, 1, experts::hopper<experts::Dfc1, bf16, 256>(p))
HOPPER_KERNEL(experts_dfc1_wgmma_128x256_f16, ExpertsDfc1, 384, 1, experts::hopper<experts::Dfc1, f16, 256>(p))
HOPPER_KERNEL(experts_dfc2_wgmma_128x128_bf16, ExpertsDfc2, 384, 1, experts::hopper<experts::Dfc2, bf16, 128>(p))
HOPPER_KERNEL(experts_dfc2_wgmma_128x128_f16, ExpertsDfc2, 384, 1, experts::hopper<experts::Dfc2, f16, 128>(p))
HOPPER_KERNEL(experts_dfc2_wgmma_128x256_bf16, ExpertsDfc2, 384, 1, experts::hopper<experts::Dfc2, bf16, 256>(p))
HOPPER_KERNEL(experts_dfc2_wgmma_128x256_f16, ExpertsDfc2, 384, 1, experts::hopper<experts::Dfc2, f16, 256>(p))
