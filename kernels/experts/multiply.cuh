#pragma once
#include "experts/job.cuh"
#include "experts/ring.cuh"

// A warpgroup that multiplies: 64 rows of the tile, by all of its columns, in registers. Its four warps then take their 16 rows each through
// a piece of shared memory of their own to where four neighbouring columns lie in one thread, and hand them to the job.
//
// The two warpgroups share the stages and nothing else: while one is in its epilogue the other has the tensor cores, as far as the ring
// lets it run ahead.
namespace experts {
template <class T> struct Wgmma;
#define WGMMA_OF(T)                                                                                                             \
  template <> struct Wgmma<T> {                                                                                                 \
    template <int A, int B> static PTX void run(float (&d)[64], uint64_t a, uint64_t b, int add) { wgmma_m64n128k16_##T<A, B>(d, a, b, add); }   \
    template <int A, int B> static PTX void run(float (&d)[128], uint64_t a, uint64_t b, int add) { wgmma_m64n256k16_##T<A, B>(d, a, b, add); } \
  };
WGMMA_OF(bf16)
WGMMA_OF(f16)
#undef WGMMA_OF

// Sums along K of 16 columns of an MN-major operand, by one warp: two columns and every fourth row a lane.
template <class T> struct WarpSums {
  float sum[2] = {};

  PTX void add(const unsigned char* block, int column, const float* weight, int k, int rows) {
    const int word = column / 2 + threadIdx.x % 8, share = threadIdx.x % 32 / 8;
#pragma unroll 4
    for (int r = share; r < kStep<T>; r += 4) {
      const float factor = weight && k + r < rows ? weight[k + r] : 1.0f;
      float value[2];
      unpack(*reinterpret_cast<const uint32_t*>(block + swizzle_chunk(r, word / 4) + word % 4 * 4), value, T{});
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

constexpr int kPieceStride = 40;                  // in floats: 32 columns, and 8 banks from row to row
constexpr int kPiece = 16 * kPieceStride * 4;     // bytes of a warp's piece

template <class T, class Job> struct Multiply {
  using Tile = typename Job::Blocks;
  using Stages = RingOf<Tile>;
  static constexpr bool kAKMajor = decltype(Job::a)::k_major, kBKMajor = decltype(Job::b)::k_major;
  // Columns that the piece takes at a time: where the product has two halves, as many of either.
  static constexpr int kAcross = Job::kSplit ? 16 : 32, kLanes = kAcross / 4, kPass = 32 / kLanes;
  static constexpr int kRows = 16 / kPass;       // that a lane has columns of
  const Stages& ring;
  float* const piece;
  const unsigned char* const stages;             // where the ring's stages are, as a pointer
  const int half;                                // which 64 rows
  int& step;                                     // over all tiles

  PTX Multiply(const Stages& ring, const unsigned char* stages, float* piece, int& step)
      : ring(ring), piece(piece), stages(stages), half(threadIdx.x / 128 - 1), step(step) {}

  PTX static int warp_row() { return threadIdx.x / 32 % 4 * 16; }      // of the 64
  PTX const unsigned char* stage(int number) const { return stages + number % Stages::kStages * Stages::kStage; }

  PTX void product(const Job& job, int steps, float (&acc)[Tile::kColumns / 2], WarpSums<T>& sums) {
    if (steps == 0) {
#pragma unroll
      for (int i = 0; i < Tile::kColumns / 2; i++) acc[i] = 0;
    }
    const bool loaded = Job::kAMapped && job.sums_first;
#pragma unroll 1
    for (int i = 0; i < steps; i++, step++) {
      ring.wait_full(step);
      const uint32_t at = ring.stage(step);
      const uint64_t a = wgmma_operand(at + half * kBox, kAKMajor ? 0 : kBox, 1024), b = wgmma_operand(at + Tile::kRows * 128, kBKMajor ? 0 : kBox, 1024);
      wgmma_hold(acc);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kStep<T> / 16; k++)
        Wgmma<T>::template run<!kAKMajor, !kBKMajor>(acc, a + k * (kAKMajor ? 2 : 128), b + k * (kBKMajor ? 2 : 128), i + k > 0);
      wgmma_commit();
      wgmma_hold(acc);
      if constexpr (Job::kSums)
        if (job.sums_first) sums.add(stage(step) + half * kBox, warp_row(), job.sum_weight(), i * kStep<T>, job.depth);
      wgmma_wait<1>();
      if (i > 0) ring.release(step - 1, loaded);
    }
    wgmma_wait<0>();
    wgmma_hold(acc);
    if (steps > 0) ring.release(step - 1, loaded);
  }

  // 32 columns of the warp's rows, from accumulator number `from` on, or 16 from each of two.
  PTX void put(const float (&acc)[Tile::kColumns / 2], int from) const {
    const int lane = threadIdx.x % 32;
    float* const to = piece + lane / 4 * kPieceStride + lane % 4 * 2;
    __syncwarp();                                // what was there has been read
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int i = (Job::kSplit && j >= 2 ? Tile::kColumns / 4 - 8 : 0) + from + j * 4;
      *reinterpret_cast<float2*>(to + j * 8) = make_float2(acc[i], acc[i + 1]);
      *reinterpret_cast<float2*>(to + 8 * kPieceStride + j * 8) = make_float2(acc[i + 2], acc[i + 3]);
    }
    __syncwarp();
  }

  // What the epilogue reads comes through the ring too, behind the operands: for each 64 columns of the tile, for each of `extras` tensors,
  // for either half of the rows a box. Four columns of a row of one of them:
  PTX float4 extra(int extras, int number, int row, int column) const {
    const int n = (column / 64 * extras + number) * 2 + half;
    const unsigned char* const box = stage(step + n / Stages::kBoxes) + n % Stages::kBoxes * kBox;
    return load_four(reinterpret_cast<const T*>(box + swizzle_chunk(row, column % 64 / 8) + column % 8 * 2));
  }
  // Steps of extras that hold those of the first `columns` columns, in part or wholly.
  PTX static int begun(int extras, int columns) { return ceil_div(columns / 64 * extras * 2, Stages::kBoxes); }
  PTX static int ended(int extras, int columns) { return columns == Tile::kColumns ? begun(extras, columns) : columns / 64 * extras * 2 / Stages::kBoxes; }

  PTX int first_row() const { return half * 64 + warp_row(); }         // of the warp's
  PTX static int row_of() { return threadIdx.x % 32 / kLanes; }
  PTX static int column_of() { return threadIdx.x % kLanes * 4; }

  // What the epilogue reads from memory, on its way while the columns before are finished.
  struct Ahead {
    typename Job::Columns columns;
    typename Job::Fetched rows[Job::kFetches ? kRows : 1];
  };
  PTX Ahead ahead(const Job& job, int column) const {
    Ahead to{job.columns(column + column_of()), {}};
    if constexpr (Job::kFetches) {
#pragma unroll
      for (int i = 0; i < kRows; i++) {
        const int row = first_row() + row_of() + i * kPass;
        if (row < job.rows) job.fetch(to.columns, row, to.rows[i]);
      }
    }
    return to;
  }

  PTX void finish(const Job& job, const float (&acc)[Tile::kColumns / 2], const float (&weights)[kRows], Ahead next) {
    const int first = first_row(), extras = job.extras();
    int waited = 0, released = 0;
    float parts[kRows] = {};
#pragma unroll 1                                 // so that little code is executed, and often
    for (int c = 0; c < Job::kColumns / kAcross; c++) {
      const Ahead now = next;
      if ((c + 1) * kAcross < Job::kColumns) next = ahead(job, (c + 1) * kAcross);
#pragma unroll
      for (int from = 0; from < Job::kColumns / kAcross; from++)
        if (from == c) put(acc, from * kAcross / 2);             // registers have no index
      if constexpr (Job::kParts)
        for (; waited < begun(extras, (c * kAcross / 64 + 1) * 64); waited++) ring.wait_full(step + waited);
#pragma unroll
      for (int i = 0; i < kRows; i++) {
        const int r = row_of() + i * kPass;
        if (first + r >= job.rows) continue;
        typename Job::Fetched f{};
        if constexpr (Job::kFetches) f = now.rows[i];
        if constexpr (Job::kWeighs) f.weight = weights[i];
        if constexpr (Job::kParts) {
          f.extra[0] = extra(extras, 0, warp_row() + r, c * kAcross + column_of());
          if (extras > 1) f.extra[1] = extra(extras, 1, warp_row() + r, c * kAcross + column_of());
        }
        const float* const at = piece + r * kPieceStride + column_of();
        const float part = job.finish(now.columns, first + r, at, at + kAcross, f);
        if constexpr (Job::kParts) parts[i] += part;
      }
      if constexpr (Job::kParts)
        if ((c + 1) * kAcross % 64 == 0)
          for (; released < ended(extras, (c + 1) * kAcross); released++) ring.release(step + released, true);
    }
    step += waited;
    if constexpr (Job::kParts) {
#pragma unroll
      for (int i = 0; i < kRows; i++) {
        float whole = parts[i];
#pragma unroll
        for (int lane = 1; lane < kLanes; lane *= 2) whole += __shfl_xor_sync(~0u, whole, lane);
        const int row = first + row_of() + i * kPass;
        if (column_of() == 0 && row < job.rows) job.put_part(row, whole);
      }
    }
  }

  PTX void tile(const Job& job) {
    const int steps = job.segments * ceil_div(job.depth, kStep<T>);
    float acc[Tile::kColumns / 2];
    WarpSums<T> sums;
    const Ahead first = ahead(job, 0);
    float weights[kRows] = {};
    if constexpr (Job::kWeighs) {
#pragma unroll
      for (int i = 0; i < kRows; i++) {
        const int row = first_row() + row_of() + i * kPass;
        if (row < job.rows) weights[i] = job.weight(row);
      }
    }
    product(job, steps, acc, sums);
    if constexpr (Job::kSums)
      if (job.sums_first) {
        sums.total();
        const int row = first_row() + threadIdx.x % 8 * 2;
        if (threadIdx.x % 32 < 8) {
          job.finish_sum(row, sums.sum[0]);
          job.finish_sum(row + 1, sums.sum[1]);
        }
      }
    finish(job, acc, weights, first);
  }
};
}
