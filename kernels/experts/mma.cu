// experts, engine `mma`: bf16 and f16 products by mma.sync m16n8k16, see experts/grouped.cuh. Eight warps hold 64 by 32 of the tile each.
#include "experts/backward.cuh"
#include "experts/forward.cuh"
#include "experts/gradients.cuh"
#include "experts/grouped.cuh"

namespace experts {
// A fragment is 16 rows or columns of the product by 16 of K: four 8 by 8 matrices, of which each lane addresses one row. mn_half and
// k_half tell which of the four is the lane's. `start` is the address of the warp's fragment number 0 at k = 0; there, bits 5 and 6 of the
// address are free for what runs along the 128 bytes of a row, under the swizzle.
template <bool KMajor> PTX uint32_t start(uint32_t tile, int mn, int mn_half, int k_half) {
  const int lane = threadIdx.x % 8;
  if (KMajor) return tile + swizzle_chunk(mn + mn_half * 8 + lane, k_half);
  return tile + swizzle_chunk(mn / 64 * 64 + k_half * 8 + lane, mn % 64 / 8 + mn_half);
}
template <bool KMajor> PTX void load_fragment(uint32_t (&r)[4], uint32_t start, int number, int k) {
  if (KMajor) ldmatrix_x4(r, (start ^ k * 2) + number * 16 * 128);
  else ldmatrix_x4_trans(r, (start ^ number * 32) + k * 128);
}

template <class T> struct Mma {
  using Element = T;
  float acc[4][4][4];

  PTX static int first_row() { return threadIdx.x / 32 % 2 * 64; }
  PTX static int first_column() { return threadIdx.x / 64 * 32; }

  PTX void clear() {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) acc[i][j][e] = 0;
  }

  template <bool AKMajor, bool BKMajor> PTX void step(const unsigned char* a, const unsigned char* b) {
    const int low = threadIdx.x / 8 % 2, high = threadIdx.x / 16 % 2;
    const uint32_t a_start = start<AKMajor>(shared_u32(a), first_row(), low, high);
    const uint32_t b_start = start<BKMajor>(shared_u32(b), first_column(), high, low);
#pragma unroll
    for (int k = 0; k < kStep<T>; k += 16) {
      uint32_t fa[4][4], fb[2][4];
#pragma unroll
      for (int i = 0; i < 4; i++) load_fragment<AKMajor>(fa[i], a_start, i, k);
#pragma unroll
      for (int j = 0; j < 2; j++) load_fragment<BKMajor>(fb[j], b_start, j, k);
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma_m16n8k16(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1], T{});
    }
  }

  template <bool AKMajor, bool BKMajor> PTX void put(float* staged) const {
    const int lane = threadIdx.x % 32;
    float* const to = staged + (first_row() + lane / 4) * kStagedStride + first_column() + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        *reinterpret_cast<float2*>(to + i * 16 * kStagedStride + j * 8) = make_float2(acc[i][j][0], acc[i][j][1]);
        *reinterpret_cast<float2*>(to + (i * 16 + 8) * kStagedStride + j * 8) = make_float2(acc[i][j][2], acc[i][j][3]);
      }
  }
};

template <template <class, class> class Job, class T, class Args> PTX void mma(const Args& p) { grouped<Mma<T>, Job<T, BlockTile>>(p); }
}

KERNEL(experts_up_mma_128x128_bf16, ExpertsUp, 256, experts::kResident, experts::mma<experts::Up, bf16>(p))
KERNEL(experts_up_mma_128x128_f16, ExpertsUp, 256, experts::kResident, experts::mma<experts::Up, f16>(p))
KERNEL(experts_up_gated_mma_128x128_bf16, ExpertsUp, 256, experts::kResident, experts::mma<experts::UpGated, bf16>(p))
KERNEL(experts_up_gated_mma_128x128_f16, ExpertsUp, 256, experts::kResident, experts::mma<experts::UpGated, f16>(p))
KERNEL(experts_down_mma_128x128_bf16, ExpertsDown, 256, experts::kResident, experts::mma<experts::Down, bf16>(p))
KERNEL(experts_down_mma_128x128_f16, ExpertsDown, 256, experts::kResident, experts::mma<experts::Down, f16>(p))
KERNEL(experts_dinner_mma_128x128_bf16, ExpertsDinner, 256, experts::kResident, experts::mma<experts::Dinner, bf16>(p))
KERNEL(experts_dinner_mma_128x128_f16, ExpertsDinner, 256, experts::kResident, experts::mma<experts::Dinner, f16>(p))
KERNEL(experts_dx_mma_128x128_bf16, ExpertsDx, 256, experts::kResident, experts::mma<experts::Dx, bf16>(p))
KERNEL(experts_dx_mma_128x128_f16, ExpertsDx, 256, experts::kResident, experts::mma<experts::Dx, f16>(p))
KERNEL(experts_dfc1_mma_128x128_bf16, ExpertsDfc1, 256, 1, experts::mma<experts::Dfc1, bf16>(p))
KERNEL(experts_dfc1_mma_128x128_f16, ExpertsDfc1, 256, 1, experts::mma<experts::Dfc1, f16>(p))
KERNEL(experts_dfc2_mma_128x128_bf16, ExpertsDfc2, 256, 1, experts::mma<experts::Dfc2, bf16>(p))
KERNEL(experts_dfc2_mma_128x128_f16, ExpertsDfc2, 256, 1, experts::mma<experts::Dfc2, f16>(p))
