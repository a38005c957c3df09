#pragma once
#include "experts/job.cuh"

// How the engines finish a tile that lies in shared memory as f32: each thread takes four neighbouring columns of a row at a time, whichever
// thread computed them, so that a warp's accesses are coalesced. Rows in memory may begin anywhere, and end anywhere.
namespace experts {
template <class Job> struct Rows {
  using T = typename Job::Element;
  static constexpr int kFetched = Job::kExtras + Job::kGradient;
  struct Fetched { float4 extra[kFetched > 0 ? kFetched : 1]; float weight; };
  const Job& job;
  const int column, left;
  float4 bias[2];

  PTX Rows(const Job& job, int column) : job(job), column(column), left(job.left() - column), bias{} {
#pragma unroll
    for (int i = 0; i < Job::kBiases; i++)
      if (const T* from = job.bias(i)) bias[i] = load_row(from + column, left);
  }
  PTX int64_t at(int row) const { return row * job.stride() + column; }

  PTX void fetch(int row, Fetched& f) const {
    if constexpr (Job::kWeighs) f.weight = job.weight(row);
#pragma unroll
    for (int i = 0; i < Job::kExtras; i++) f.extra[i] = load_row(job.extra(i) + at(row), left);
    if constexpr (Job::kGradient)
      if (job.p.accumulate)
        f.extra[0] = job.p.gradient_f32 ? load_row(job.template place<float>() + at(row), left) : load_row(job.template place<T>() + at(row), left);
  }

  // Of the row's four columns at `first`, and of the second half's: their part of a sum.
  PTX float finish(int row, const float* first, const Fetched& f) const {
    Needs n{{bias[0], bias[1]}, {}, float4{f.weight, f.weight, f.weight, f.weight}};
#pragma unroll
    for (int i = 0; i < kFetched; i++) n.extra[i] = f.extra[i];
    const float4 sums = load_four(first), second = Job::kSplit ? load_four(first + Job::kColumns) : float4{};
    if constexpr (Job::kGradient) {
      const Finished<1> done = job.finish(Added{}, sums, second, n);
      if (job.p.gradient_f32) store_row(job.template place<float>() + at(row), left, done.value[0]);
      else store_row(job.template place<T>() + at(row), left, done.value[0]);
      return 0;
    } else if constexpr (Job::kActivates) {
      return put(row, job.finish(FourOfAny<sizeof(T) == 2>{job.p.activation}, sums, second, n));
    } else {
      return put(row, job.finish(Plain{}, sums, second, n));
    }
  }
  PTX float put(int row, const Finished<Job::kOutputs>& done) const {
#pragma unroll
    for (int i = 0; i < Job::kOutputs; i++)
      if (T* const to = job.output(i)) store_row(to + at(row), left, done.value[i]);
    const float4 v = done.part;
    return (v.x + v.y) + (v.z + v.w);
  }
};
}
