#pragma once
#include "experts/grouped.cuh"

// Engine `mma`: bf16 and f16 products by mma.sync m16n8k16. The tile's columns are shared out among the block's eight warps, and from 32
// rows on its rows among two.
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

template <class T, class Tile> struct Mma {
  using Element = T;
  static constexpr int kDown = Tile::kRows < 32 ? 1 : 2;         // warps one below the other
  static constexpr int kRows = Tile::kRows / kDown, kColumns = Tile::kColumns * kDown / 8;       // of a warp
  static constexpr int kStride = Block<Tile>::kStride;
  float acc[kRows / 16][kColumns / 8][4];

  PTX static int first_row() { return threadIdx.x / 32 % kDown * kRows; }
  PTX static int first_column() { return threadIdx.x / 32 / kDown * kColumns; }

  PTX void clear() {
#pragma unroll
    for (int i = 0; i < kRows / 16; i++)
#pragma unroll
      for (int j = 0; j < kColumns / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) acc[i][j][e] = 0;
  }

  template <bool AKMajor, bool BKMajor> PTX void step(const unsigned char* a, const unsigned char* b) {
    const int low = threadIdx.x / 8 % 2, high = threadIdx.x / 16 % 2;
    const uint32_t a_start = start<AKMajor>(shared_u32(a), first_row(), low, high);
    const uint32_t b_start = start<BKMajor>(shared_u32(b), first_column(), high, low);
#pragma unroll
    for (int k = 0; k < kStep<T>; k += 16) {
      uint32_t fa[kRows / 16][4], fb[kColumns / 16][4];
#pragma unroll
      for (int i = 0; i < kRows / 16; i++) load_fragment<AKMajor>(fa[i], a_start, i, k);
#pragma unroll
      for (int j = 0; j < kColumns / 16; j++) load_fragment<BKMajor>(fb[j], b_start, j, k);
#pragma unroll
      for (int i = 0; i < kRows / 16; i++)
#pragma unroll
        for (int j = 0; j < kColumns / 8; j++) mma_m16n8k16(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1], T{});
    }
  }

  template <bool AKMajor, bool BKMajor> PTX void put(float* staged) const {
    const int lane = threadIdx.x % 32;
    float* const to = staged + (first_row() + lane / 4) * kStride + first_column() + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kRows / 16; i++)
#pragma unroll
      for (int j = 0; j < kColumns / 8; j++) {
        *reinterpret_cast<float2*>(to + i * 16 * kStride + j * 8) = make_float2(acc[i][j][0], acc[i][j][1]);
        *reinterpret_cast<float2*>(to + (i * 16 + 8) * kStride + j * 8) = make_float2(acc[i][j][2], acc[i][j][3]);
      }
  }
};

template <template <class, class> class Job, class T, int Rows, class Args> PTX void mma(const Args& p) {
  grouped<Mma<T, BlockTile<Rows>>, Job<T, BlockTile<Rows>>>(p);
}
}
