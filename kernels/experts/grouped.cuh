#pragma once
#include "experts/epilogue.cuh"
#include "experts/sums.cuh"

// The one skeleton of all grouped products of the experts: sum over k of a[m, k] b[n, k], a tile of 128 by 128 at a time.
//
// An engine multiplies one step out of shared memory into its registers, and puts the finished tile into shared memory. A job names its
// operands (`a`, `b`, `depth` of K, `segments`: once over it or twice), finds a tile by its number, and takes the product row by row.
//
// Grid: any; blocks take tiles in turn. Threads 256. Shared memory: 3 stages of both operands, 98,304 bytes, where the finished tile lies
// too when all steps are done. Deterministic: each sum has one order, whatever the grid. Launched by src/gpu/experts.rs.
namespace experts {
static_assert(StagedBytes + SumsBytes <= Stages * StageBytes, "the finished tile has to fit where the stages were");

template <class Engine, class Job> PTX void grouped(const typename Job::Args& p) {
  using T = typename Engine::Element;
  DYNAMIC_SHARED(smem);
  const uint32_t base = shared_u32(smem);
  float* const staged = reinterpret_cast<float*>(smem);
  constexpr bool AKMajor = decltype(Job::a)::IsKMajor, BKMajor = decltype(Job::b)::IsKMajor;
  Engine engine;
  Job job{p};
  for (int number = blockIdx.x; job.find(number); number += gridDim.x) {
    const int once = ceil_div(job.depth, Step<T>), steps = job.segments * once;
    ColumnSums<T> sums;
    job.a.begin();
    job.b.begin();
    auto load = [&](int step) {
      if (step < steps) {
        const bool second = step >= once;
        const int k = (second ? step - once : step) * Step<T>;
        const uint32_t to = base + step % Stages * StageBytes;
        job.a.load(to, k, second);
        job.b.load(to + OperandBytes, k, second);
      }
      cp_async_commit();                         // an empty group keeps the count
    };
    engine.clear();
#pragma unroll
    for (int step = 0; step < Stages - 1; step++) load(step);
    for (int step = 0; step < steps; step++) {
      cp_async_wait<Stages - 2>();
      __syncthreads();                           // this step has landed, and the one before it has been read by all
      load(step + Stages - 1);
      const uint32_t stage = step % Stages * StageBytes;
      engine.template step<AKMajor, BKMajor>(smem + stage, smem + stage + OperandBytes);
      if constexpr (Job::Sums)
        if (job.sums_to) sums.add(base + stage, job.sum_weight, step * Step<T>, job.depth);
    }
    cp_async_wait<0>();
    __syncthreads();                             // nothing lands or is read in the stages any more
    engine.template put<AKMajor, BKMajor>(staged);
    if constexpr (Job::Sums)
      if (job.sums_to) sums.put(staged + StagedBytes / 4);
    __syncthreads();
    if constexpr (Job::Sums)
      if (job.sums_to && threadIdx.x < Tile) job.finish_sum(threadIdx.x, sums.total(staged + StagedBytes / 4));

    constexpr int Lanes = Job::Columns / 4, Pass = Threads / Lanes;        // lanes of a row, rows of a pass
    const int column = threadIdx.x % Lanes * 4;
    job.begin_rows(column);
    for (int first = threadIdx.x / Lanes; first < job.rows; first += 4 * Pass) {
      typename Job::Fetched fetched[4];          // of four passes, so that their loads are on their way together
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (first + i * Pass < job.rows) job.fetch(first + i * Pass, fetched[i]);
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (first + i * Pass < job.rows) job.finish(first + i * Pass, staged + (first + i * Pass) * StagedStride + column, fetched[i]);
    }
    __syncthreads();                             // before the next tile's first steps overwrite this one
  }
}
}
