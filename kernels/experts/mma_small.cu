// experts, engine `mma` by tiles of 16, 32 and 64 rows, for experts of so few rows that all time goes into reading their weights: see
// experts/mma.cuh and experts/grouped.cuh. Two blocks a multiprocessor have 96 KiB of weights on their way to it.
#include "experts/backward.cuh"
#include "experts/forward.cuh"
#include "experts/mma.cuh"

namespace experts {
// As `mma`; and what the split launch that follows counts by is set to 0.
template <template <class, class> class Job, class T, int Rows, class Args> PTX void mma_clearing(const Args& p) {
  clear(p.arrived, p.counters);
  mma<Job, T, Rows>(p);
}
}

KERNEL(experts_up_mma_16x128_bf16, ExpertsUp, 256, 2, experts::mma_clearing<experts::Up, bf16, 16>(p))
KERNEL(experts_up_mma_16x128_f16, ExpertsUp, 256, 2, experts::mma_clearing<experts::Up, f16, 16>(p))
KERNEL(experts_up_gated_mma_16x128_bf16, ExpertsUp, 256, 2, experts::mma_clearing<experts::UpGated, bf16, 16>(p))
KERNEL(experts_up_gated_mma_16x128_f16, ExpertsUp, 256, 2, experts::mma_clearing<experts::UpGated, f16, 16>(p))
KERNEL(experts_down_mma_16x128_bf16, ExpertsDown, 256, 2, experts::mma<experts::Down, bf16, 16>(p))
KERNEL(experts_down_mma_16x128_f16, ExpertsDown, 256, 2, experts::mma<experts::Down, f16, 16>(p))
KERNEL(experts_dinner_mma_16x128_bf16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::Dinner, bf16, 16>(p))
KERNEL(experts_dinner_mma_16x128_f16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::Dinner, f16, 16>(p))
KERNEL(experts_dinner_gated_mma_16x128_bf16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::DinnerGated, bf16, 16>(p))
KERNEL(experts_dinner_gated_mma_16x128_f16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::DinnerGated, f16, 16>(p))
KERNEL(experts_dx_mma_16x128_bf16, ExpertsDx, 256, 2, experts::mma<experts::Dx, bf16, 16>(p))
KERNEL(experts_dx_mma_16x128_f16, ExpertsDx, 256, 2, experts::mma<experts::Dx, f16, 16>(p))
KERNEL(experts_up_mma_32x128_bf16, ExpertsUp, 256, 2, experts::mma_clearing<experts::Up, bf16, 32>(p))
KERNEL(experts_up_mma_32x128_f16, ExpertsUp, 256, 2, experts::mma_clearing<experts::Up, f16, 32>(p))
KERNEL(experts_up_gated_mma_32x128_bf16, ExpertsUp, 256, 2, experts::mma_clearing<experts::UpGated, bf16, 32>(p))
KERNEL(experts_up_gated_mma_32x128_f16, ExpertsUp, 256, 2, experts::mma_clearing<experts::UpGated, f16, 32>(p))
KERNEL(experts_down_mma_32x128_bf16, ExpertsDown, 256, 2, experts::mma<experts::Down, bf16, 32>(p))
KERNEL(experts_down_mma_32x128_f16, ExpertsDown, 256, 2, experts::mma<experts::Down, f16, 32>(p))
KERNEL(experts_dinner_mma_32x128_bf16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::Dinner, bf16, 32>(p))
KERNEL(experts_dinner_mma_32x128_f16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::Dinner, f16, 32>(p))
KERNEL(experts_dinner_gated_mma_32x128_bf16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::DinnerGated, bf16, 32>(p))
KERNEL(experts_dinner_gated_mma_32x128_f16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::DinnerGated, f16, 32>(p))
KERNEL(experts_dx_mma_32x128_bf16, ExpertsDx, 256, 2, experts::mma<experts::Dx, bf16, 32>(p))
KERNEL(experts_dx_mma_32x128_f16, ExpertsDx, 256, 2, experts::mma<experts::Dx, f16, 32>(p))
KERNEL(experts_up_mma_64x128_bf16, ExpertsUp, 256, 2, experts::mma_clearing<experts::Up, bf16, 64>(p))
KERNEL(experts_up_mma_64x128_f16, ExpertsUp, 256, 2, experts::mma_clearing<experts::Up, f16, 64>(p))
KERNEL(experts_up_gated_mma_64x128_bf16, ExpertsUp, 256, 2, experts::mma_clearing<experts::UpGated, bf16, 64>(p))
KERNEL(experts_up_gated_mma_64x128_f16, ExpertsUp, 256, 2, experts::mma_clearing<experts::UpGated, f16, 64>(p))
KERNEL(experts_down_mma_64x128_bf16, ExpertsDown, 256, 2, experts::mma<experts::Down, bf16, 64>(p))
KERNEL(experts_down_mma_64x128_f16, ExpertsDown, 256, 2, experts::mma<experts::Down, f16, 64>(p))
KERNEL(experts_dinner_mma_64x128_bf16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::Dinner, bf16, 64>(p))
KERNEL(experts_dinner_mma_64x128_f16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::Dinner, f16, 64>(p))
KERNEL(experts_dinner_gated_mma_64x128_bf16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::DinnerGated, bf16, 64>(p))
KERNEL(experts_dinner_gated_mma_64x128_f16, ExpertsDinner, 256, 2, experts::mma_clearing<experts::DinnerGated, f16, 64>(p))
KERNEL(experts_dx_mma_64x128_bf16, ExpertsDx, 256, 2, experts::mma<experts::Dx, bf16, 64>(p))
KERNEL(experts_dx_mma_64x128_f16, ExpertsDx, 256, 2, experts::mma<experts::Dx, f16, 64>(p))
