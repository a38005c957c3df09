// experts, engine `ffma`: f32 products by scalar multiply-adds, see experts/grouped.cuh. 256 threads hold 8 by 8 of the tile each.
#include "experts/forward.cuh"

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
  // Eight at row k of an MN-major operand.
  PTX static void read_eight(const unsigned char* tile, int t, int k, float (&to)[8]) {
    const float4 lo = read(tile, t / 8 * 32 + k, t % 8), hi = read(tile, 64 + t / 8 * 32 + k, t % 8);
    to[0] = lo.x, to[1] = lo.y, to[2] = lo.z, to[3] = lo.w, to[4] = hi.x, to[5] = hi.y, to[6] = hi.z, to[7] = hi.w;
  }

  PTX void clear() {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < 8; j++) acc[i][j] = 0;
  }

  template <bool AKMajor, bool BKMajor> PTX void step(const unsigned char* a, const unsigned char* b) {
    static_assert(AKMajor || !BKMajor, "no product has an MN-major first and a K-major second operand");
    const int tm = down(), tn = across();
#pragma unroll 1
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
          float fb[8];
          if (!AKMajor) read_eight(a, tm, chunk * 4 + k, fa[k]);
          read_eight(b, tn, chunk * 4 + k, fb);
#pragma unroll
          for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j++) acc[i][j] += fa[k][i] * fb[j];
        }
      }
    }
  }

  template <bool AKMajor, bool BKMajor> PTX void put(float* staged) const {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int j = 0; j < 8; j++) staged[place<AKMajor>(down(), i) * StagedStride + place<BKMajor>(across(), j)] = acc[i][j];
  }
};
}

KERNEL(experts_up_ffma_f32, ExpertsUp, 256, 2, experts::grouped<experts::Ffma, experts::Up<float, false>>(p))
KERNEL(experts_up_gated_ffma_f32, ExpertsUp, 256, 2, experts::grouped<experts::Ffma, experts::Up<float, true>>(p))
KERNEL(experts_down_ffma_f32, ExpertsDown, 256, 2, experts::grouped<experts::Ffma, experts::Down<float>>(p))
