#pragma once
#include "experts/finish.cuh"

// A warpgroup that multiplies: 64 rows of the tile, by all of its columns, in registers.
//
// The two or three warpgroups share the stages. Each begins a tile when the one before has done a step of it, and so stays behind: while one
// is in its epilogue, the others have the tensor cores.
namespace experts {
template <class T> struct Wgmma;
#define WGMMA_OF(T)                                                                                                             \
  template <> struct Wgmma<T> {                                                                                                 \
    template <int A, int B> static PTX void run(float (&d)[64], uint64_t a, uint64_t b, int add) { wgmma_m64n128k16_##T<A, B>(d, a, b, add); }   \
    template <int A, int B> static PTX void run(float (&d)[96], uint64_t a, uint64_t b, int add) { wgmma_m64n192k16_##T<A, B>(d, a, b, add); }   \
    template <int A, int B> static PTX void run(float (&d)[128], uint64_t a, uint64_t b, int add) { wgmma_m64n256k16_##T<A, B>(d, a, b, add); } \
  };
WGMMA_OF(bf16)
WGMMA_OF(f16)
#undef WGMMA_OF

// Sums along K of 16 columns of an MN-major operand, by one warp: two columns and every fourth row a lane.
template <class T, bool Weighted> struct WarpSums {
  static constexpr int kEach = kStep<T> / 4;
  float sum[2] = {}, weight[2] = {1.0f, 1.0f};   // of rows lane and lane + 32 of the coming step

  // The coming step's weights, from row k on, where there are any. Rows from `rows` on are zeros.
  PTX void fetch(const float* from, int k, int rows) {
    if constexpr (Weighted) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int row = k + threadIdx.x % 32 + i * 32;
        weight[i] = row < rows ? from[row] : 1.0f;
      }
    }
  }
  PTX void add(const unsigned char* block, int column) {
    const int word = column / 2 + threadIdx.x % 8, share = threadIdx.x % 32 / 8;
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      const int row = share + i * 4;
      const float factor = Weighted ? __shfl_sync(~0u, weight[i / 8], row % 32) : 1.0f;
      float value[2];
      unpack(*reinterpret_cast<const uint32_t*>(block + swizzle_chunk(row, word / 4) + word % 4 * 4), value, T{});
      sum[0] += factor * value[0], sum[1] += factor * value[1];
    }
  }
  // Of columns 2 (lane % 8) and the one after.
  PTX void total() {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      sum[e] += __shfl_xor_sync(~0u, sum[e], 8);
      sum[e] += __shfl_xor_sync(~0u, sum[e], 16);
    }
  }
};

template <class T, class Job> struct Multiply {
  using Tile = typename Job::Blocks;
  using Stages = RingOf<Tile>;
  static constexpr bool kAKMajor = decltype(Job::a)::k_major, kBKMajor = decltype(Job::b)::k_major;
  const Stages& ring;
  unsigned char* const smem;
  const int group;                               // which 64 rows
  int& step;                                     // over all tiles

  PTX Multiply(const Stages& ring, unsigned char* smem, int& step) : ring(ring), smem(smem), group(threadIdx.x / 128 - 1), step(step) {}

  PTX static int warp_row() { return threadIdx.x / 32 % 4 * 16; }      // of the 64

  PTX void product(const Job& job, int steps, float (&acc)[Tile::kColumns / 2], WarpSums<T, Job::kWeighsSums>& sums) {
    // Set to 0 behind the loop they would not stay in the same registers.
    if (steps == 0) {
#pragma unroll
      for (int i = 0; i < Tile::kColumns / 2; i++) acc[i] = 0;
    }
    // Of so many steps no group is done before the next has begun: it waits for stages that all have read.
    const bool in_turn = steps >= Stages::kStages;
    if (in_turn && group > 0) bar_sync(group, 256);              // each but the first has a named barrier
#pragma unroll 1
    for (int i = 0; i < steps; i++, step++) {
      ring.wait_full(step);
      const uint32_t at = ring.stage(step);
      const uint64_t a = wgmma_operand(at + group * kBox, kAKMajor ? 0 : kBox, 1024), b = wgmma_operand(at + Tile::kRows * 128, kBKMajor ? 0 : kBox, 1024);
      wgmma_hold(acc);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kStep<T> / 16; k++)
        Wgmma<T>::template run<!kAKMajor, !kBKMajor>(acc, a + k * (kAKMajor ? 2 : 128), b + k * (kBKMajor ? 2 : 128), i + k > 0);
      wgmma_commit();
      wgmma_hold(acc);
      if constexpr (Job::kSums)
        if (job.sums_first) {
          sums.add(smem + ring.number(step) * Stages::kStage + group * kBox, warp_row());
          sums.fetch(job.sum_weight(), (i + 1) * kStep<T>, job.depth);
        }
      wgmma_wait<1>();
      if (i > 0) ring.release(step - 1, job.sums_first);
      if (in_turn && i == 1 && group < Tile::kRows / 64 - 1) bar_arrive(group + 1, 256);
    }
    wgmma_wait<0>();
    wgmma_hold(acc);
    if (steps > 0) ring.release(step - 1, job.sums_first);
  }

  PTX void tile(const Job& job) {
    Finish<T, Job> finish{ring, job, group, warp_row()};
    float acc[Tile::kColumns / 2];
    WarpSums<T, Job::kWeighsSums> sums;
    if constexpr (Job::kSums)
      if (job.sums_first) sums.fetch(job.sum_weight(), 0, job.depth);
    product(job, job.segments * ceil_div(job.depth, kStep<T>), acc, sums);
    if constexpr (Job::kSums)
      if (job.sums_first) {
        sums.total();
        const int row = group * 64 + warp_row() + threadIdx.x % 8 * 2;
        if (threadIdx.x % 32 < 8) {
          job.finish_sum(row, sums.sum[0]);
          job.finish_sum(row + 1, sums.sum[1]);
        }
      }
    finish.tile(acc, step);
  }
};
}
