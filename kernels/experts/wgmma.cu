// experts, engine `wgmma` of sm_90a: the grouped products of the experts, sum over k of a[m, k] b[n, k], a tile of 128 by 128 or 256 at a
// time; or of 192 by 192, which draws less of the second-level cache, for layers whose weights are folded.
//
// Three or four warpgroups: one fills a ring of stages in shared memory (experts/fill.cuh), the others multiply 64 rows each out of it
// (experts/multiply.cuh) while the next steps, and the next tile's, are on their way, and finish what they have (experts/finish.cuh). The job
// (experts/job.cuh) says which rows, and what becomes of the product.
// Grid: any, a block a multiprocessor; blocks take tiles in turn. Threads 128, and 128 for each 64 rows. Shared memory: the ring's, 4 stages
// of 48 KiB or 6 of 32, and 4 KiB for each warp that multiplies, or 2 of three groups. Deterministic: each sum has one order, whatever the
// grid. Launched by src/gpu/experts.rs.
#include "experts/backward.cuh"
#include "experts/fill.cuh"
#include "experts/forward.cuh"
#include "experts/gradients.cuh"
#include "experts/multiply.cuh"

namespace experts {
// A role's part in one job. Tiles are numbered on from job to job.
template <class T, class Job, bool Copies> PTX void fill(const typename Job::Args& p, const RingOf<typename Job::Blocks>& ring, int& number, int& step) {
  Job job{p};
  Fill<T, Job, Copies> fill{ring, step};
#pragma unroll 1
  for (; job.find(number); number += gridDim.x) fill.tile(job);
  number = job.after(number);
}
template <class T, class Job> PTX void multiply(const typename Job::Args& p, Multiply<T, Job> multiply, int& number) {
  Job job{p};
#pragma unroll 1
  for (; job.find(number); number += gridDim.x) multiply.tile(job);
  number = job.after(number);
}

template <int Rows, int Columns> using Wide = Tile<Rows, Columns, kFillers>;
// Registers of a thread that fills, and of one that multiplies: of 65,536.
constexpr int fills(int rows) { return rows == 192 ? 80 : 72; }
constexpr int multiplies(int rows) { return rows == 192 ? 144 : 216; }
template <class T, int Rows, int Columns, template <class, class> class... Jobs, class... Args> PTX void hopper(const Args&... p) {
  using Stages = RingOf<Wide<Rows, Columns>>;
  constexpr bool kCopies = kCopied<Jobs<T, Wide<Rows, Columns>>...>;
  DYNAMIC_SHARED(smem);
  const Stages ring{shared_u32(smem)};
  if (threadIdx.x == 0) ring.init(kArrivals<kCopies>);
  __syncthreads();
  wait_for_launches_ahead();
  if (threadIdx.x < kFillers) {
    setmaxnreg_dec<fills(Rows)>();
    int number = blockIdx.x, step = 0;
    if (!kCopies && threadIdx.x > 0) return;
    (fill<T, Jobs<T, Wide<Rows, Columns>>, kCopies>(p, ring, number, step), ...);
  } else {
    setmaxnreg_inc<multiplies(Rows)>();
    int number = blockIdx.x, step = 0;
    (multiply<T, Jobs<T, Wide<Rows, Columns>>>(p, {ring, smem, step}, number), ...);
  }
}
// Those that wait for dinner alone: what is left of a round of tiles of one is filled with the next's.
template <class T, int Rows, int Columns> PTX void merged(const ExpertsMerged& p) { hopper<T, Rows, Columns, Dfc2, Dfc1, Dx>(p.dfc2, p.dfc1, p.dx); }
}

EARLY_HOPPER_KERNEL(experts_up_wgmma_128x128_bf16, ExpertsUp, 384, 1, experts::hopper<bf16, 128, 128, experts::Up>(p))
EARLY_HOPPER_KERNEL(experts_up_wgmma_128x128_f16, ExpertsUp, 384, 1, experts::hopper<f16, 128, 128, experts::Up>(p))
EARLY_HOPPER_KERNEL(experts_up_wgmma_128x256_bf16, ExpertsUp, 384, 1, experts::hopper<bf16, 128, 256, experts::Up>(p))
EARLY_HOPPER_KERNEL(experts_up_wgmma_128x256_f16, ExpertsUp, 384, 1, experts::hopper<f16, 128, 256, experts::Up>(p))
EARLY_HOPPER_KERNEL(experts_up_wgmma_192x192_bf16, ExpertsUp, 512, 1, experts::hopper<bf16, 192, 192, experts::Up>(p))
EARLY_HOPPER_KERNEL(experts_up_gated_wgmma_128x128_bf16, ExpertsUp, 384, 1, experts::hopper<bf16, 128, 128, experts::UpGated>(p))
EARLY_HOPPER_KERNEL(experts_up_gated_wgmma_128x128_f16, ExpertsUp, 384, 1, experts::hopper<f16, 128, 128, experts::UpGated>(p))
EARLY_HOPPER_KERNEL(experts_up_gated_wgmma_128x256_bf16, ExpertsUp, 384, 1, experts::hopper<bf16, 128, 256, experts::UpGated>(p))
EARLY_HOPPER_KERNEL(experts_up_gated_wgmma_128x256_f16, ExpertsUp, 384, 1, experts::hopper<f16, 128, 256, experts::UpGated>(p))
EARLY_HOPPER_KERNEL(experts_down_wgmma_128x128_bf16, ExpertsDown, 384, 1, experts::hopper<bf16, 128, 128, experts::Down>(p))
EARLY_HOPPER_KERNEL(experts_down_wgmma_128x128_f16, ExpertsDown, 384, 1, experts::hopper<f16, 128, 128, experts::Down>(p))
EARLY_HOPPER_KERNEL(experts_down_wgmma_128x256_bf16, ExpertsDown, 384, 1, experts::hopper<bf16, 128, 256, experts::Down>(p))
EARLY_HOPPER_KERNEL(experts_down_wgmma_128x256_f16, ExpertsDown, 384, 1, experts::hopper<f16, 128, 256, experts::Down>(p))
EARLY_HOPPER_KERNEL(experts_down_wgmma_192x192_bf16, ExpertsDown, 512, 1, experts::hopper<bf16, 192, 192, experts::Down>(p))
EARLY_HOPPER_KERNEL(experts_dinner_wgmma_128x128_bf16, ExpertsDinner, 384, 1, experts::hopper<bf16, 128, 128, experts::Dinner>(p))
EARLY_HOPPER_KERNEL(experts_dinner_wgmma_128x128_f16, ExpertsDinner, 384, 1, experts::hopper<f16, 128, 128, experts::Dinner>(p))
EARLY_HOPPER_KERNEL(experts_dinner_gated_wgmma_128x128_bf16, ExpertsDinner, 384, 1, experts::hopper<bf16, 128, 128, experts::DinnerGated>(p))
EARLY_HOPPER_KERNEL(experts_dinner_gated_wgmma_128x128_f16, ExpertsDinner, 384, 1, experts::hopper<f16, 128, 128, experts::DinnerGated>(p))
EARLY_HOPPER_KERNEL(experts_dinner_wgmma_128x256_bf16, ExpertsDinner, 384, 1, experts::hopper<bf16, 128, 256, experts::Dinner>(p))
EARLY_HOPPER_KERNEL(experts_dinner_wgmma_128x256_f16, ExpertsDinner, 384, 1, experts::hopper<f16, 128, 256, experts::Dinner>(p))
EARLY_HOPPER_KERNEL(experts_dinner_wgmma_192x192_bf16, ExpertsDinner, 512, 1, experts::hopper<bf16, 192, 192, experts::Dinner>(p))
EARLY_HOPPER_KERNEL(experts_dinner_gated_wgmma_128x256_bf16, ExpertsDinner, 384, 1, experts::hopper<bf16, 128, 256, experts::DinnerGated>(p))
EARLY_HOPPER_KERNEL(experts_dinner_gated_wgmma_128x256_f16, ExpertsDinner, 384, 1, experts::hopper<f16, 128, 256, experts::DinnerGated>(p))
EARLY_HOPPER_KERNEL(experts_dx_wgmma_128x128_bf16, ExpertsDx, 384, 1, experts::hopper<bf16, 128, 128, experts::Dx>(p))
EARLY_HOPPER_KERNEL(experts_dx_wgmma_128x128_f16, ExpertsDx, 384, 1, experts::hopper<f16, 128, 128, experts::Dx>(p))
EARLY_HOPPER_KERNEL(experts_dx_wgmma_128x256_bf16, ExpertsDx, 384, 1, experts::hopper<bf16, 128, 256, experts::Dx>(p))
EARLY_HOPPER_KERNEL(experts_dx_wgmma_128x256_f16, ExpertsDx, 384, 1, experts::hopper<f16, 128, 256, experts::Dx>(p))
EARLY_HOPPER_KERNEL(experts_dx_wgmma_192x192_bf16, ExpertsDx, 512, 1, experts::hopper<bf16, 192, 192, experts::Dx>(p))
EARLY_HOPPER_KERNEL(experts_dfc1_wgmma_128x128_bf16, ExpertsDfc1, 384, 1, experts::hopper<bf16, 128, 128, experts::Dfc1>(p))
EARLY_HOPPER_KERNEL(experts_dfc1_wgmma_128x128_f16, ExpertsDfc1, 384, 1, experts::hopper<f16, 128, 128, experts::Dfc1>(p))
EARLY_HOPPER_KERNEL(experts_dfc1_wgmma_128x256_bf16, ExpertsDfc1, 384, 1, experts::hopper<bf16, 128, 256, experts::Dfc1>(p))
EARLY_HOPPER_KERNEL(experts_dfc1_wgmma_128x256_f16, ExpertsDfc1, 384, 1, experts::hopper<f16, 128, 256, experts::Dfc1>(p))
EARLY_HOPPER_KERNEL(experts_dfc1_wgmma_192x192_bf16, ExpertsDfc1, 512, 1, experts::hopper<bf16, 192, 192, experts::Dfc1>(p))
EARLY_HOPPER_KERNEL(experts_dfc2_wgmma_128x128_bf16, ExpertsDfc2, 384, 1, experts::hopper<bf16, 128, 128, experts::Dfc2>(p))
EARLY_HOPPER_KERNEL(experts_dfc2_wgmma_128x128_f16, ExpertsDfc2, 384, 1, experts::hopper<f16, 128, 128, experts::Dfc2>(p))
EARLY_HOPPER_KERNEL(experts_dfc2_wgmma_128x256_bf16, ExpertsDfc2, 384, 1, experts::hopper<bf16, 128, 256, experts::Dfc2>(p))
EARLY_HOPPER_KERNEL(experts_dfc2_wgmma_128x256_f16, ExpertsDfc2, 384, 1, experts::hopper<f16, 128, 256, experts::Dfc2>(p))
EARLY_HOPPER_KERNEL(experts_dfc2_wgmma_192x192_bf16, ExpertsDfc2, 512, 1, experts::hopper<bf16, 192, 192, experts::Dfc2>(p))
EARLY_HOPPER_KERNEL(experts_merged_wgmma_128x128_bf16, ExpertsMerged, 384, 1, experts::merged<bf16, 128, 128>(p))
EARLY_HOPPER_KERNEL(experts_merged_wgmma_128x128_f16, ExpertsMerged, 384, 1, experts::merged<f16, 128, 128>(p))
EARLY_HOPPER_KERNEL(experts_merged_wgmma_128x256_bf16, ExpertsMerged, 384, 1, experts::merged<bf16, 128, 256>(p))
EARLY_HOPPER_KERNEL(experts_merged_wgmma_128x256_f16, ExpertsMerged, 384, 1, experts::merged<f16, 128, 256>(p))
EARLY_HOPPER_KERNEL(experts_merged_wgmma_192x192_bf16, ExpertsMerged, 512, 1, experts::merged<bf16, 192, 192>(p))
