// experts, engine `ffma`: f32 products by scalar multiply-adds, see experts/grouped.cuh. 256 threads hold 8 by 8 of the tile each.
#include "experts/backward.cuh"
#include "experts/forward.cuh"
#include "experts/gradients.cuh"
#include "experts/grouped.cuh"

namespace experts {
struct Ffma {
  using Element = float;
  float acc[8][8];

  PTX static int across() { return threadIdx.x % 8 + threadIdx.x / 32 % 2 * 8; }
  PTX static int down() { return threadIdx.x / 8 % 4 + threadIdx.x / 64 * 4; }
  // The eight rows or columns of thread number `t` in its direction: of rows of K, those whose chunks of four lie in different banks from
  // thread to thread; else two fours.
  template <bool KMajor> PTX static int place(int t, int i) { return KMajor ? i * 16 + t : i / 4 * 64 + t * 4 + i % 4; }

  PTX static float4 read(const unsigned char* tile, int row, int chunk) { return *reinterpret_cast<const float4*>(tile + swizzle_chunk(row, chunk)); }
  // Half (0 or 1) of thread number `t`'s eight at row k of an MN-major operand.
  PTX static float4 read_half(const unsigned char* tile, int t, int k, int half) { return read(tile, half * 64 + t / 8 * 32 + k, t % 8); }

  PTX void clear() {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < 8; j++) acc[i][j] = 0;
  }

  template <bool AKMajor, bool BKMajor> PTX void step(const unsigned char* a, const unsigned char* b) {
    static_assert(AKMajor || !BKMajor, "no product has an MN-major first and a K-major second operand");
    const int tm = down(), tn = across();
#pragma unroll 2
    for (int chunk = 0; chunk < 8; chunk++) {    // four of K
      float fa[4][8];
      if (AKMajor) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const float4 v = read(a, place<true>(tm, i), chunk);
          fa[0][i] = v.x, fa[1][i] = v.y, fa[2][i] = v.z, fa[3][i] = v.w;
        }
      }
      if (BKMajor) {
#pragma unroll
        for (int j = 0; j < 8; j++) {
          const float4 v = read(b, place<true>(tn, j), chunk);
          const float fb[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
          for (int k = 0; k < 4; k++)
#pragma unroll
            for (int i = 0; i < 8; i++) acc[i][j] += fa[k][i] * fb[k];
        }
      } else {
#pragma unroll
        for (int k = 0; k < 4; k++) {
          if (!AKMajor) {
            const float4 lo = read_half(a, tm, chunk * 4 + k, 0), hi = read_half(a, tm, chunk * 4 + k, 1);
            fa[k][0] = lo.x, fa[k][1] = lo.y, fa[k][2] = lo.z, fa[k][3] = lo.w, fa[k][4] = hi.x, fa[k][5] = hi.y, fa[k][6] = hi.z, fa[k][7] = hi.w;
          }
#pragma unroll
          for (int j = 0; j < 8; j += 4) {
            const float4 v = read_half(b, tn, chunk * 4 + k, j / 4);
#pragma unroll
            for (int i = 0; i < 8; i++) {
              acc[i][j] += fa[k][i] * v.x, acc[i][j + 1] += fa[k][i] * v.y;
              acc[i][j + 2] += fa[k][i] * v.z, acc[i][j + 3] += fa[k][i] * v.w;
            }
          }
        }
      }
    }
  }

  template <bool AKMajor, bool BKMajor> PTX void put(float* staged) const {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < 8; j++) staged[place<AKMajor>(down(), i) * Block<BlockTile<128>>::kStride + place<BKMajor>(across(), j)] = acc[i][j];
  }
};

template <template <class, class> class Job, class Args> PTX void ffma(const Args& p) { grouped<Ffma, Job<float, BlockTile<128>>>(p); }
}

KERNEL(experts_up_ffma_128x128_f32, ExpertsUp, 256, 1, experts::ffma<experts::Up>(p))
KERNEL(experts_up_gated_ffma_128x128_f32, ExpertsUp, 256, 1, experts::ffma<experts::UpGated>(p))
KERNEL(experts_down_ffma_128x128_f32, ExpertsDown, 256, 1, experts::ffma<experts::Down>(p))
KERNEL(experts_dinner_ffma_128x128_f32, ExpertsDinner, 256, 1, experts::ffma<experts::Dinner>(p))
KERNEL(experts_dinner_gated_ffma_128x128_f32, ExpertsDinner, 256, 1, experts::ffma<experts::DinnerGated>(p))
KERNEL(experts_dx_ffma_128x128_f32, ExpertsDx, 256, 1, experts::ffma<experts::Dx>(p))
KERNEL(experts_dfc1_ffma_128x128_f32, ExpertsDfc1, 256, 1, experts::ffma<experts::Dfc1>(p))
KERNEL(experts_dfc2_ffma_128x128_f32, ExpertsDfc2, 256, 1, experts::ffma<experts::Dfc2>(p))
