#pragma once
#include "experts/block.cuh"
#include "experts/epilogue.cuh"
#include "lib/grid.cuh"

// A tile whose steps along K several blocks split among them, so that few tiles keep many multiprocessors reading weights.
namespace experts {
struct Share { int begin, steps; };

// The steps of block number `split` of `splits`; none, where there are fewer steps than blocks.
PTX Share share_of(int steps, int split, int splits) {
  const int each = steps / splits, more = steps % splits;
  return {split * each + min(split, more), each + (split < more)};
}

// Writes this block's part, out of `finished`. If it is the last of the tile's to come, puts there the sum of all parts in their order: each
// thread that of the columns and rows whose epilogue it computes. Else returns false.
template <class Block, int Pass, class Job> PTX bool add_parts(const Job& job, int number, int split, float* finished, int first, int column, int left) {
  const Splits& s = job.p.splits;
  const int columns = job.p.width;
  float* const parts = s.parts + int64_t(job.tile.pair) * columns + job.tile.column + column;
  for (int row = first; row < job.rows; row += Pass)
    store_row(parts + split * s.stride + int64_t(row) * columns, left, load_four(finished + row * Block::kStride + column));
  if (!last_block(s.arrived + number, s.count)) return false;
  for (int row = first; row < job.rows; row += Pass) {
    const float* part = parts + int64_t(row) * columns;
    float4 whole = load_row(part, left);
#pragma unroll 4
    for (int i = 1; i < s.count; i++) whole = whole + load_row(part += s.stride, left);
    store_four(finished + row * Block::kStride + column, whole);
  }
  return true;
}

// The counters of a split launch that follows.
PTX void clear(int* arrived, int counters) {
  for (int i = blockIdx.x * kThreads + threadIdx.x; i < counters; i += gridDim.x * kThreads) arrived[i] = 0;
}
}
