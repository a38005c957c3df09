// moments: group-wise count, mean and variance of the columns of [N, M], and what the gates' variances add to the loss.
//
// A unit is a chunk of rows and up to 128 columns of one job. Neighbouring threads hold neighbouring columns; where columns are few,
// several rows are read at once. A thread sums, for each group, differences to the first value that it meets there (so that a common
// offset cancels before anything is squared) in f64, in shared memory: groups cost no registers and no second pass, until there are more
// than `window`. Threads, then chunks, are put together from (n, mean, M2): the mean of all first, then M2 + n (mean_i - mean)^2,
// which neither divides in a chain nor cancels. The block that comes last of a job does so for its chunks, eight lanes for each group and
// column, in an order that hangs on their numbers alone; the one that comes last of all compares the variances of the gates: same bits every
// run.
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

PTX int tiles(int columns) { return (columns - 1) / kThreads + 1; }

template <class Job> PTX Place place(const Job& job, int unit) {
  Place at;
  at.first_column = unit % tiles(job.columns) * kThreads;
  at.width = min(kThreads, job.columns - at.first_column);
  at.slices = kThreads / at.width;
  at.column = at.first_column + int(threadIdx.x) % at.width;
  at.slice = int(threadIdx.x) / at.width;
  at.begin = int64_t(unit / tiles(job.columns)) * job.chunk_rows;
  at.end = at.slice < at.slices ? min(int64_t(job.rows), at.begin + job.chunk_rows) : 0;
  return at;
}

// The groups of a thread's next rows: G for one in none, -1 for one that does not count or is past the last. What is loaded of that is of
// the last instead: all loads are on their way before any branch asks for one.
template <class Job> PTX void groups_of(const Job& job, const Place& at, int64_t first, int (&groups)[kAtOnce]) {
  unsigned char counted[kAtOnce];
  auto row = [&](int i) { return min(first + i * at.slices, at.end - 1); };
#pragma unroll
  for (int i = 0; i < kAtOnce; i++) {
    groups[i] = 0;
    counted[i] = 1;
  }
  if (job.counted) {
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) counted[i] = job.counted[row(i)];
  }
  if (job.group) {
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) groups[i] = job.group[int(row(i)) / job.run % job.samples];
  }
#pragma unroll
  for (int i = 0; i < kAtOnce; i++) {
    int group = groups[i] < 0 ? job.groups : min(groups[i], job.groups);
    groups[i] = first + i * at.slices < at.end && counted[i] ? group : -1;
  }
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

// So many neighbouring lanes each take every so manieth of them; all get the same bits.
template <int Lanes, class Of> PTX Merged merge(int count, Of of) {
  int lane = threadIdx.x % Lanes;
  double n = 0, sum = 0, m2 = 0;
  for (int i = lane; i < count; i += Lanes) { Merged one = of(i); n += one.n; sum += one.n * one.mean; }
  n = lanes_sum<Lanes>(n);
  sum = lanes_sum<Lanes>(sum);
  double mean = n > 0 ? sum / n : 0.0;
  for (int i = lane; i < count; i += Lanes) { Merged one = of(i); double d = one.mean - mean; m2 += one.m2 + one.n * d * d; }
  return {n, mean, lanes_sum<Lanes>(m2)};
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
    float x[kAtOnce][3] = {};
    int groups[kAtOnce];
    auto from = [&](int i) { return min(first + i * at.slices, at.end - 1) * job.columns + at.column; };
    if (job.merge) {
#pragma unroll
      for (int v = 0; v < 3 * kAtOnce; v++) x[v / 3][v % 3] = job.x[from(v / 3) * 3 + v % 3];
    } else {
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) x[i][0] = job.x[from(i)];
    }
    groups_of(job, at, first, groups);
#pragma unroll
    for (int i = 0; i < kAtOnce; i++) {
      int bin = groups[i] - from_group;
      if (groups[i] < 0 || bin < 0 || bin >= bins) continue;
      int own = bin * kThreads + int(threadIdx.x);
      if (!job.merge) add(s, own, 1, x[i][0], 0);
      else if (x[i][0] > 0) add(s, own, int(x[i][0]), x[i][1], x[i][2]);
    }
  }
}

PTX void unit_forward(const MomentsForward& p, const MomentsJob& job, int unit) {
  Place at = place(job, unit);
  int groups = job.groups + job.whole, chunk = int(at.begin / job.chunk_rows);
  Sums s = sums(p.window);
  for (int from = 0; from < groups; from += p.window) {
    int bins = min(p.window, groups - from);
    sum_rows(job, at, from, bins, s);
    __syncthreads();
    for (int item = threadIdx.x; item < bins * at.width; item += kThreads) {
      int bin = item / at.width, column = item % at.width;
      Merged all = merge<1>(at.slices, [&](int slice) { return of_thread(s, bin * kThreads + slice * at.width + column); });
      double* part = p.parts + job.parts + ((int64_t(chunk) * groups + from + bin) * job.columns + at.first_column + column) * 3;
      part[0] = all.n;
      part[1] = all.mean;
      part[2] = all.m2;
    }
    __syncthreads();
  }
}

// Merges `count` of each item, which `of(item, i)` gives, and has it taken by one thread; a few lanes an item.
template <class Of, class Take> PTX void merge_all(int64_t items, int count, Of of, Take take) {
  constexpr int lanes = 8;
  for (int64_t first = 0; first < items; first += kThreads / lanes) {
    int64_t item = first + int(threadIdx.x) / lanes;
    Merged all = merge<lanes>(item < items ? count : 0, [&](int i) { return of(item, i); });
    if (item < items && threadIdx.x % lanes == 0) take(item, all);
  }
}

// All chunks of a job; then, for the whole, all its groups, whose moments take the place of the first chunk's.
PTX void finish(const MomentsForward& p, const MomentsJob& job, int units) {
  int groups = job.groups + job.whole, chunks = units / tiles(job.columns);
  int64_t columns = job.columns, items = groups * columns, of_groups = job.groups * columns;
  double* parts = p.parts + job.parts;
  auto read = [&](int64_t at) -> Merged { return {parts[at * 3], parts[at * 3 + 1], parts[at * 3 + 2]}; };
  auto put = [&](int64_t item, Merged all) {
    if (item % columns == 0) job.count[item / columns] = int(all.n);
    job.mean[item] = all.mean;
    job.variance[item] = all.n > 1 ? all.m2 / (all.n - 1) : 0.0;
  };
  auto of_chunk = [&](int64_t item, int chunk) { return read(chunk * items + item); };
  merge_all(items, chunks, of_chunk, [&](int64_t item, Merged all) {
    if (item < of_groups) put(item, all);
    if (!job.whole) return;
    parts[item * 3] = all.n;
    parts[item * 3 + 1] = all.mean;
    parts[item * 3 + 2] = all.m2;
  });
  if (!job.whole) return;
  __syncthreads();   // the block reads them back
  auto of_group = [&](int64_t column, int group) { return read(group * columns + column); };
  merge_all(columns, groups, of_group, [&](int64_t column, Merged all) { put(of_groups + column, all); });
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
  for (int unit = blockIdx.x; unit < p.units; unit += gridDim.x) {
    int number = job_of(p, unit);
    const MomentsJob& job = p.jobs[number];
    int units = (number + 1 < p.job_count ? p.jobs[number + 1].first_unit : p.units) - job.first_unit;
    unit_forward(p, job, unit - job.first_unit);
    if (!last_block(p.counters + 1 + number, units)) continue;
    finish(p, job, units);
    if (threadIdx.x == 0) p.counters[1 + number] = 0;
  }
  if (!last_block(p.counters)) return;
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

// What a group's column has, and the gradients on it.
struct Group {
  int count;
  double mean, dmean, dvariance;

  PTX double gradient(float x) const {
    double n = count, of_variance = n > 1 ? 2 / (n - 1) : 0.0;
    return of_variance * dvariance * (double(x) - mean) + dmean / n;
  }
};

PTX Group load_group(const MomentsBackwardJob& job, int group, int column) {
  int64_t at = int64_t(group) * job.columns + column;
  return {job.count[group], job.mean[at], job.dmean ? job.dmean[at] : 0.0, job.dvariance[at]};
}

PTX void backward(const MomentsBackward& p) {
  for (int unit = blockIdx.x; unit < p.units; unit += gridDim.x) {
    const MomentsBackwardJob& job = p.jobs[job_of(p, unit)];
    Place at = place(job, unit - job.first_unit);
    Group whole = {}, group[kAtOnce] = {};
    if (job.of_whole && at.begin < at.end) whole = load_group(job, job.groups, at.column);
    for (int64_t first = at.begin + at.slice; first < at.end; first += kAtOnce * at.slices) {
      float x[kAtOnce], before[kAtOnce] = {};
      int groups[kAtOnce];
      auto own = [&](int i) { return min(first + i * at.slices, at.end - 1) * job.columns + at.column; };
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) x[i] = job.x[own(i)];
      if (job.add) {
#pragma unroll
        for (int i = 0; i < kAtOnce; i++)
          if (first + i * at.slices < at.end) before[i] = job.dx[own(i)];
      }
      groups_of(job, at, first, groups);
      if (job.of_groups && job.groups > 0) {
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) group[i] = load_group(job, min(max(groups[i], 0), job.groups - 1), at.column);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) {
        if (first + i * at.slices >= at.end) continue;
        double d = 0;
        if (groups[i] >= 0 && groups[i] < job.groups && job.of_groups) d += group[i].gradient(x[i]);
        if (groups[i] >= 0 && job.of_whole) d += whole.gradient(x[i]);
        job.dx[own(i)] = float(p.upstream * d) + before[i];
      }
    }
  }
}
}

KERNEL(moments_forward, MomentsForward, 128, 2, moments::forward(p))
KERNEL(moments_backward, MomentsBackward, 128, 4, moments::backward(p))
