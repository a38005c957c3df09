#pragma once
#include "experts/rows.cuh"
#include "experts/splits.cuh"
#include "experts/sums.cuh"
#include "lib/reduce.cuh"

// The grouped products of the experts by the engines `ffma` and `mma`: sum over k of a[m, k] b[n, k], a tile of 16 to 128 by 128 at a time.
//
// An engine multiplies one step out of shared memory into its registers, and puts the finished tile into shared memory, from where the
// job (experts/job.cuh) takes it row by row.
//
// Grid: any; blocks take tiles in turn. Threads 256. Shared memory: 3 or 4 stages of both operands, up to 98,304 bytes, where the finished
// tile lies too when all steps are done. Where tiles are too few for all multiprocessors, several blocks split a tile's steps among them
// (experts/splits.cuh). Deterministic: each sum has one order, whatever the grid. Launched by src/gpu/experts.rs.
namespace experts {
template <class Engine, class Job> PTX void grouped(const typename Job::Args& p) {
  using T = typename Engine::Element;
  using Block = experts::Block<typename Job::Blocks>;
  static_assert(Block::kFinished + (Job::kSums ? kSumsBytes : 0) <= Block::kStages * Block::kStage, "the finished tile fits where the stages were");
  DYNAMIC_SHARED(smem);
  const uint32_t base = shared_u32(smem);
  float* const staged = reinterpret_cast<float*>(smem);
  constexpr bool AKMajor = decltype(Job::a)::k_major, BKMajor = decltype(Job::b)::k_major;
  Engine engine;
  Job job{p};
  const int splits = job.splits();
#pragma unroll 1
  for (int unit = blockIdx.x; job.find(unit / splits); unit += gridDim.x) {
    if (job.rows == 0) continue;
    const int once = ceil_div(job.depth, kStep<T>);
    const Share share = share_of(job.segments * once, unit % splits, splits);
    const int steps = share.steps;
    ColumnSums<T> sums;
    job.open();
    job.a.begin();
    job.b.begin();
    auto load = [&](int step) {
      if (step < steps) {
        const int whole = share.begin + step;
        const bool second = whole >= once;
        const int k = (second ? whole - once : whole) * kStep<T>;
        const uint32_t to = base + step % Block::kStages * Block::kStage;
        job.a.load(to, k, second);
        job.b.load(to + Block::kFirst, k, second);
      }
      cp_async_commit();                         // an empty group keeps the count
    };
    engine.clear();
#pragma unroll 1
    for (int step = 1 - Block::kStages; step < steps; step++) {
      if (step >= 0) {
        cp_async_wait<Block::kStages - 2>();
        __syncthreads();                         // this step has landed, and the one before it has been read by all
      }
      load(step + Block::kStages - 1);
      if (step < 0) continue;
      const uint32_t stage = step % Block::kStages * Block::kStage;
      engine.template step<AKMajor, BKMajor>(smem + stage, smem + stage + Block::kFirst);
      if constexpr (Job::kSums)
        if (job.sums_first) sums.add(smem + stage, job.sum_weight(), step * kStep<T>, job.depth);
    }
    cp_async_wait<0>();
    __syncthreads();                             // nothing lands or is read in the stages any more
    engine.template put<AKMajor, BKMajor>(staged);
    if constexpr (Job::kSums)
      if (job.sums_first) sums.put(staged + Block::kFinished / 4);
    __syncthreads();

    constexpr int Lanes = Job::kColumns / 4, Pass = kThreads / Lanes;      // lanes of a row, rows of a pass
    const int first = threadIdx.x / Lanes, column = threadIdx.x % Lanes * 4;
    job.find(unit / splits);                     // once more, rather than kept in registers all along the product
    const Rows<Job> rows(job, column);
    if constexpr (Job::kCut)
      if (splits > 1 && !add_parts<Block, Pass>(job, unit / splits, unit % splits, staged, first, column, rows.left)) continue;
    if constexpr (Job::kSums)
      if (job.sums_first && threadIdx.x < kSummed) job.finish_sum(threadIdx.x, sums.total(staged + Block::kFinished / 4));
    typename Rows<Job>::Fetched next{}, second{}, third{}, fourth{};       // what the coming rows need, on its way
#pragma unroll 1
    for (int row = first - 4 * Pass; row < job.rows; row += Pass) {
      if (row >= first) {
        const float part = rows.finish(row, staged + row * Block::kStride + column, next);
        if constexpr (Job::kParts) {
          static_assert(Lanes == 32, "a warp has a whole row");
          const float whole = warp_sum(part);
          if (column == 0) job.put_part(row, whole);
        }
      }
      next = second, second = third, third = fourth;
      if (row + 4 * Pass < job.rows) rows.fetch(row + 4 * Pass, fourth);
    }
    __syncthreads();                             // before the next tile's first steps overwrite this one
  }
}
}
