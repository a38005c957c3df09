// moments: group-wise count, mean and variance of the columns of [N, M], and what the gates' variances add to the loss.
//
// A unit is a chunk of rows and up to 128 columns of one job. Neighbouring threads hold neighbouring columns; where columns are few,
// several rows are read at once. A thread sums, for each group, differences to the first value that it meets there (so that a common
// offset cancels before anything is squared) in f64, in shared memory: groups cost no registers and no second pass, until there are more
// than `window`. Threads, then chunks, are put together from (n, mean, M2): the mean of all first, then M2 + n (mean_i - mean)^2,
// which neither divides in a chain nor cancels. The block that comes last does so for all chunks in their order, and then compares the
// variances of the gates: same bits every run.
// Grid: any. Shared memory: 3072 bytes for each group of the window. Launched by src/gpu/moments.rs.
#include "args/moments.cuh"
#include "lib/grid.cuh"
#include "lib/jobs.cuh"
#include "lib/reduce.cuh"

namespace moments {
constexpr int kThreads = 128;
constexpr int kAtOnce = 4;   // rows of a thread whose loads fly together

// Which columns, and which of the rows, a thread of a unit has.
struct Place {
  int column, slice, slices, width, first_column;
  int64_t begin, end;
};

template <class Job> PTX Place place(const Job& job, int unit) {
  int tiles = (job.columns + kThreads - 1) / kThreads;
  Place at;
  at.first_column = unit % tiles * kThreads;
  at.width = min(kThreads, job.columns - at.first_column);
  at.slices = kThreads / at.width;
  at.column = at.first_column + int(threadIdx.x) % at.width;
  at.slice = int(threadIdx.x) / at.width;
  at.begin = int64_t(unit / tiles) * job.chunk_rows;
  at.end = at.slice < at.slices ? min(int64_t(job.rows), at.begin + job.chunk_rows) : 0;
  return at;
}

// The group of a row; G for one in none.
template <class Job> PTX int group_of(const Job& job, int64_t row) {
  int group = job.group ? job.group[int(row) / job.run % job.samples] : 0;
  return group < 0 ? job.groups : min(group, job.groups);
}

// What each thread sums of each group of the window.
struct Sums {
  double *first, *second;   // of the differences to the shift, and of their squares
  float* shift;
  int* n;
};

PTX Sums sums(int window) {
  DYNAMIC_SHARED(smem);
  Sums s;
  s.first = reinterpret_cast<double*>(smem);
  s.second = s.first + window * kThreads;
  s.shift = reinterpret_cast<float*>(s.second + window * kThreads);
  s.n = reinterpret_cast<int*>(s.shift + window * kThreads);
  return s;
}

PTX void add(const Sums& s, int at, int n, float mean, double m2) {
  if (s.n[at] == 0) s.shift[at] = mean;
  double d = double(mean) - double(s.shift[at]);
  s.n[at] += n;
  s.first[at] += n * d;
  s.second[at] += m2 + n * d * d;
}

// One (n, mean, M2) of several.
struct Merged { double n, mean, m2; };

template <class Of> PTX Merged merge(int count, Of of) {
  double n = 0, sum = 0, m2 = 0;
  for (int i = 0; i < count; i++) { Merged one = of(i); n += one.n; sum += one.n * one.mean; }
  double mean = n > 0 ? sum / n : 0.0;
  for (int i = 0; i < count; i++) { Merged one = of(i); double d = one.mean - mean; m2 += one.m2 + one.n * d * d; }
  return {n, mean, m2};
}

PTX Merged of_thread(const Sums& s, int at) {
  double n = s.n[at];
  if (n == 0) return {0, 0, 0};
  double d = s.first[at] / n, m2 = s.second[at] - s.first[at] * d;
  return {n, double(s.shift[at]) + d, m2 < 0 ? 0.0 : m2};   // rounding alone is below 0; a NaN stays
}

// What one thread sums of its column.
PTX void sum_rows(const MomentsJob& job, const Place& at, int from_group, int bins, const Sums& s) {
  for (int bin = 0; bin < bins; bin++) {
    int own = bin * kThreads + int(threadIdx.x);
    s.n[own] = 0;
    s.first[own] = s.second[own] = 0;
  }
  for (int64_t first = at.begin + at.slice; first < at.end; first += kAtOnce * at.slices) {
    float x[kAtOnce][3];
    int bins_of[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      int64_t row = first + i * at.slices;
      bins_of[i] = -1;
      if (row >= at.end) continue;
      const float* from = job.x + (row * job.columns + at.column) * (job.merge ? 3 : 1);
      x[i][0] = from[0];
      x[i][1] = job.merge ? from[1] : 0.0f;
      x[i][2] = job.merge ? from[2] : 0.0f;
      if (!job.counted || job.counted[row]) bins_of[i] = group_of(job, row) - from_group;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      if (bins_of[i] < 0 || bins_of[i] >= bins) continue;
      int own = bins_of[i] * kThreads + int(threadIdx.x);
      if (!job.merge) add(s, own, 1, x[i][0], 0);
      else if (x[i][0] > 0) add(s, own, int(x[i][0]), x[i][1], x[i][2]);
    }
  }
}

PTX void unit_forward(const MomentsForward& p, int unit) {
  const MomentsJob& job = p.jobs[job_of(p, unit)];
  Place at = place(job, unit - job.first_unit);
  int groups = job.groups + job.whole, chunk = int(at.begin / job.chunk_rows);
  Sums s = sums(p.window);
  for (int from = 0; from < groups; from += p.window) {
    int bins = min(p.window, groups - from);
    sum_rows(job, at, from, bins, s);
    __syncthreads();
    for (int item = threadIdx.x; item < bins * at.width; item += kThreads) {
      int bin = item / at.width, column = item % at.width;
      Merged all = merge(at.slices, [&](int slice) { return of_thread(s, bin * kThreads + slice * at.width + column); });
      double* part = p.parts + job.parts + ((int64_t(chunk) * groups + from + bin) * job.columns + at.first_column + column) * 3;
      part[0] = all.n;
      part[1] = all.mean;
      part[2] = all.m2;
    }
    __syncthreads();
  }
}

// All chunks of a job; of the whole, all its groups too.
PTX void finish(const MomentsForward& p, const MomentsJob& job) {
  int groups = job.groups + job.whole, chunks = (job.rows + job.chunk_rows - 1) / job.chunk_rows;
  for (int64_t item = threadIdx.x; item < int64_t(groups) * job.columns; item += kThreads) {
    int group = int(item / job.columns), column = int(item % job.columns);
    bool whole = group == job.groups;
    Merged all = merge(whole ? chunks * groups : chunks, [&](int i) -> Merged {
      int64_t at = whole ? i : int64_t(i) * groups + group;
      const double* part = p.parts + job.parts + (at * job.columns + column) * 3;
      return {part[0], part[1], part[2]};
    });
    if (column == 0) job.count[group] = int(all.n);
    job.mean[item] = all.mean;
    job.variance[item] = all.n > 1 ? all.m2 / (all.n - 1) : 0.0;
  }
}

// A warp compares each group with the batch; gives what the gate adds to the dispersion, in all threads.
PTX double compare(const MomentsForward& p, const MomentsGate& gate) {
  const double* batch = gate.variance + int64_t(gate.groups) * gate.experts;
  double total = 0;
  for (int group = threadIdx.x / 32; group < gate.groups; group += kThreads / 32) {
    const double* own = gate.variance + int64_t(group) * gate.experts;
    double sum = 0, squares = 0;
    for (int e = threadIdx.x % 32; e < gate.experts; e += 32) {
      double gap = batch[e] - own[e];
      sum += gap;
      squares += gap * gap;
    }
    double gap = warp_sum(sum) / gate.experts, factor = p.mean_first ? 2 / double(gate.experts) : 2.0;
    squares = warp_sum(squares);
    bool counts = gate.count[group] > 0 && p.lambda_dispersion != 0;
    for (int e = threadIdx.x % 32; e < gate.experts; e += 32) {
      double d = factor * (p.mean_first ? gap : batch[e] - own[e]);
      gate.dvariance[int64_t(group) * gate.experts + e] = counts ? -p.lambda_dispersion * d : 0.0;
    }
    if (counts && threadIdx.x % 32 == 0) total += p.lambda_dispersion * (p.mean_first ? gap * gap : squares);
  }
  return block_sum(total);
}

// The gradient on the batch's variances, of which the groups' is the negative; gives the batch's own term.
PTX double of_batch(const MomentsForward& p, const MomentsGate& gate) {
  int64_t batch = int64_t(gate.groups) * gate.experts;
  double weight = -p.lambda_batch_variance / gate.experts, total = 0;
  for (int e = threadIdx.x; e < gate.experts; e += kThreads) {
    double d = weight;
    for (int group = 0; group < gate.groups; group++) d -= gate.dvariance[int64_t(group) * gate.experts + e];
    gate.dvariance[batch + e] = d;
    if (weight != 0) total += weight * gate.variance[batch + e];
  }
  return block_sum(total);
}

PTX void forward(const MomentsForward& p) {
  for (int unit = blockIdx.x; unit < p.units; unit += gridDim.x) unit_forward(p, unit);
  if (!last_block(p.counter)) return;
  for (int job = 0; job < p.job_count; job++) finish(p, p.jobs[job]);
  __syncthreads();
  double dispersion = 0, batch_variance = 0;
  for (int gate = 0; gate < p.gate_count; gate++) {
    dispersion += compare(p, p.gates[gate]);
    batch_variance += of_batch(p, p.gates[gate]);
  }
  if (p.terms && threadIdx.x == 0) {
    p.terms[3] = dispersion + (p.add_terms ? p.terms[3] : 0.0);
    p.terms[4] = batch_variance + (p.add_terms ? p.terms[4] : 0.0);
  }
}

// What group `group` gives a value of column `column`.
PTX double gradient(const MomentsBackwardJob& job, int group, int column, float x) {
  int64_t at = int64_t(group) * job.columns + column;
  double n = job.count[group], of_variance = n > 1 ? 2 / (n - 1) : 0.0;
  double d = of_variance * job.dvariance[at] * (double(x) - job.mean[at]);
  return job.dmean ? d + job.dmean[at] / n : d;
}

PTX void backward(const MomentsBackward& p) {
  for (int unit = blockIdx.x; unit < p.units; unit += gridDim.x) {
    const MomentsBackwardJob& job = p.jobs[job_of(p, unit)];
    Place at = place(job, unit - job.first_unit);
    for (int64_t first = at.begin + at.slice; first < at.end; first += kAtOnce * at.slices) {
      float x[kAtOnce], before[kAtOnce];
      int group[kAtOnce];   // -1: left out
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        int64_t row = first + i * at.slices, own = row * job.columns + at.column;
        if (row >= at.end) continue;
        x[i] = job.x[own];
        before[i] = job.add ? job.dx[own] : 0.0f;
        group[i] = !job.counted || job.counted[row] ? group_of(job, row) : -1;
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        int64_t row = first + i * at.slices;
        if (row >= at.end) continue;
        double d = 0;
        if (group[i] >= 0 && group[i] < job.groups && job.of_groups) d += gradient(job, group[i], at.column, x[i]);
        if (group[i] >= 0 && job.of_whole) d += gradient(job, job.groups, at.column, x[i]);
        job.dx[row * job.columns + at.column] = float(p.upstream * d) + before[i];
      }
    }
  }
}
}

KERNEL(moments_forward, MomentsForward, 128, 2, moments::forward(p))
KERNEL(moments_backward, MomentsBackward, 128, 8, moments::backward(p))
