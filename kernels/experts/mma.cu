// experts, engine `mma` by tiles of 128 rows, see experts/mma.cuh and experts/grouped.cuh.
#include "experts/backward.cuh"
#include "experts/forward.cuh"
#include "experts/gradients.cuh"
#include "experts/mma.cuh"

namespace experts {
// Blocks that a multiprocessor is to hold: its shared memory has room for two from 192 KiB on, and two need no more than 128 registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
[[maybe_unused]] constexpr int kResident = 2;
#else
[[maybe_unused]] constexpr int kResident = 1;
#endif
}

KERNEL(experts_up_mma_128x128_bf16, ExpertsUp, 256, experts::kResident, experts::mma<experts::Up, bf16, 128>(p))
KERNEL(experts_up_mma_128x128_f16, ExpertsUp, 256, experts::kResident, experts::mma<experts::Up, f16, 128>(p))
KERNEL(experts_up_gated_mma_128x128_bf16, ExpertsUp, 256, experts::kResident, experts::mma<experts::UpGated, bf16, 128>(p))
KERNEL(experts_up_gated_mma_128x128_f16, ExpertsUp, 256, experts::kResident, experts::mma<experts::UpGated, f16, 128>(p))
KERNEL(experts_down_mma_128x128_bf16, ExpertsDown, 256, experts::kResident, experts::mma<experts::Down, bf16, 128>(p))
KERNEL(experts_down_mma_128x128_f16, ExpertsDown, 256, experts::kResident, experts::mma<experts::Down, f16, 128>(p))
KERNEL(experts_dinner_mma_128x128_bf16, ExpertsDinner, 256, experts::kResident, experts::mma<experts::Dinner, bf16, 128>(p))
KERNEL(experts_dinner_mma_128x128_f16, ExpertsDinner, 256, experts::kResident, experts::mma<experts::Dinner, f16, 128>(p))
KERNEL(experts_dinner_gated_mma_128x128_bf16, ExpertsDinner, 256, experts::kResident, experts::mma<experts::DinnerGated, bf16, 128>(p))
KERNEL(experts_dinner_gated_mma_128x128_f16, ExpertsDinner, 256, experts::kResident, experts::mma<experts::DinnerGated, f16, 128>(p))
KERNEL(experts_dx_mma_128x128_bf16, ExpertsDx, 256, experts::kResident, experts::mma<experts::Dx, bf16, 128>(p))
KERNEL(experts_dx_mma_128x128_f16, ExpertsDx, 256, experts::kResident, experts::mma<experts::Dx, f16, 128>(p))
KERNEL(experts_dfc1_mma_128x128_bf16, ExpertsDfc1, 256, 1, experts::mma<experts::Dfc1, bf16, 128>(p))
KERNEL(experts_dfc1_mma_128x128_f16, ExpertsDfc1, 256, 1, experts::mma<experts::Dfc1, f16, 128>(p))
KERNEL(experts_dfc2_mma_128x128_bf16, ExpertsDfc2, 256, 1, experts::mma<experts::Dfc2, bf16, 128>(p))
KERNEL(experts_dfc2_mma_128x128_f16, ExpertsDfc2, 256, 1, experts::mma<experts::Dfc2, f16, 128>(p))
