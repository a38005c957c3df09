// contrast: of logits L [B, B] = scale * similarity the CLIP cross entropy, 1/2 (mean over rows + mean over columns) of
// log sum exp - own logit, and each sample's correlation: the diagonal of the similarity, or of L L (sum over j of L_ij L_ji); and back.
//
// A unit is 32 samples of one job. It goes through their rows and their columns together, in tiles of 32 x 32, eight threads a sample.
// Logits and sums are f64; exp is taken in f32 of what is left when the largest logit (so far) is taken off. Where a share is
// compared with 1, on the diagonal of the gradient, exp is f64: a model that has learnt its batch leaves little of it.
// The block that comes last adds up what the units found, in their order. Grid: any. Launched by src/gpu/contrast.rs.
#include "args/contrast.cuh"
#include "lib/grid.cuh"
#include "lib/jobs.cuh"
#include "lib/reduce.cuh"

namespace contrast {
constexpr int kThreads = 256, kTile = 32, kLanes = 8;   // lanes of a sample

// Tiles of the rows of 32 samples, and of their columns: row[i][j] = S_ij, column[j][i] = S_ji.
struct Tiles { float (*row)[kTile + 1], (*column)[kTile + 1]; };

template <class Job> PTX void load(const Job& job, const Tiles& tiles, int i0, int j0) {
  int lane = threadIdx.x % 32, b = job.samples;
  for (int k = threadIdx.x / 32; k < kTile; k += kThreads / 32) {
    tiles.row[k][lane] = i0 + k < b && j0 + lane < b ? job.similarity[int64_t(i0 + k) * b + j0 + lane] : 0.0f;
    tiles.column[k][lane] = j0 + k < b && i0 + lane < b ? job.similarity[int64_t(j0 + k) * b + i0 + lane] : 0.0f;
  }
}

// log sum exp in two parts, so that nothing overflows, nor is the logarithm lost beside large logits.
struct LogSum {
  double largest = -1.7e308, sum = 0;
};

PTX double exp_f32(double x) { return expf(float(x)); }

PTX void add(LogSum& s, double logit) {
  if (logit > s.largest) {
    s.sum = s.sum * exp_f32(s.largest - logit) + (1 + (logit - logit));   // not a number where the largest is infinite
    s.largest = logit;
  } else {
    s.sum += exp_f32(logit - s.largest);
  }
}

// Over the lanes of a sample.
PTX LogSum all(LogSum s) {
#pragma unroll
  for (int apart = kLanes / 2; apart > 0; apart /= 2) {
    double largest = __shfl_xor_sync(~0u, s.largest, apart), sum = __shfl_xor_sync(~0u, s.sum, apart);
    double both = fmax(s.largest, largest);
    s.sum = s.sum * exp_f32(s.largest - both) + sum * exp_f32(largest - both);
    s.largest = both;
  }
  return s;
}

// Gives the unit's part of the cross entropy, in all threads.
PTX double unit_forward(const ContrastForward& p, const ContrastJob& job, int unit, const Tiles& tiles) {
  int b = job.samples, i0 = unit * kTile, own = threadIdx.x / kLanes, i = i0 + own;
  int group = job.group && i < b ? job.group[i] : -1;
  LogSum row, column;
  double correlation = 0, in_group = 0;
  for (int j0 = 0; j0 < b; j0 += kTile) {
    load(job, tiles, i0, j0);
    __syncthreads();
    for (int at = threadIdx.x % kLanes; at < kTile; at += kLanes) {
      int j = j0 + at;
      if (i >= b || j >= b) continue;
      double to = job.scale * double(tiles.row[own][at]), from = job.scale * double(tiles.column[at][own]);
      if (job.sums) {
        add(row, to);
        add(column, from);
      }
      correlation += to * from;
      if (group >= 0 && job.group[j] == group) in_group += to * from;
    }
    __syncthreads();
  }
  row = all(row);
  column = all(column);
  correlation = lanes_sum<kLanes>(correlation);
  in_group = lanes_sum<kLanes>(in_group);
  double loss = 0;
  if (threadIdx.x % kLanes == 0 && i < b) {
    double diagonal = job.similarity[int64_t(i) * b + i];
    if (job.correlation) job.correlation[i] = p.square ? correlation : diagonal;
    if (job.own) job.own[i] = p.square ? in_group : group >= 0 ? diagonal : 0.0;
    if (job.sums) {
      double of_row = log(row.sum), of_column = log(column.sum), logit = job.scale * diagonal;
      double* to = job.sums + int64_t(i) * 4;
      to[0] = row.largest;
      to[1] = of_row;
      to[2] = column.largest;
      to[3] = of_column;
      loss = ((row.largest - logit) + of_row) + ((column.largest - logit) + of_column);
    }
  }
  return block_sum(loss);
}

PTX Tiles tiles() {
  STATIC_SHARED(float, row, kTile * (kTile + 1));
  STATIC_SHARED(float, column, kTile * (kTile + 1));
  return {reinterpret_cast<float(*)[kTile + 1]>(row), reinterpret_cast<float(*)[kTile + 1]>(column)};
}

// The sum of parts [count], in all threads.
PTX double sum_parts(const double* parts, int count) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += parts[i];
  return block_sum(sum);
}

PTX void forward(const ContrastForward& p) {
  Tiles shared = tiles();
  for (int unit = blockIdx.x; unit < p.units; unit += gridDim.x) {
    int job = job_of(p, unit);
    double loss = unit_forward(p, p.jobs[job], unit - p.jobs[job].first_unit, shared);
    if (p.terms && job == 0 && threadIdx.x == 0) p.parts[unit] = loss;
  }
  if (!last_block(p.counter) || !p.terms) return;
  int samples = p.jobs[0].samples;
  double loss = 0.5 * sum_parts(p.parts, (samples + kTile - 1) / kTile) / samples;
  if (threadIdx.x == 0) {
    p.terms[1] = p.lambda_clip == 0 ? 0.0 : p.lambda_clip * loss;
    p.terms[5] = loss;
  }
}

// The gradient on logit (i, j) times B / lambda_clip.
PTX double cross_entropy(const double* sums, double logit, int i, int j) {
  const double *row = sums + int64_t(i) * 4, *column = sums + int64_t(j) * 4 + 2;
  double of_row = (logit - row[0]) - row[1], of_column = (logit - column[0]) - column[1];
  return i == j ? 0.5 * (exp(of_row) + exp(of_column)) - 1 : 0.5 * (exp_f32(of_row) + exp_f32(of_column));
}

// Gives the unit's part of dscale, in all threads.
PTX double unit_backward(const ContrastBackward& p, const ContrastBackwardJob& job, int unit, const Tiles& tiles) {
  int b = job.samples, i0 = unit * kTile, own = threadIdx.x / kLanes, i = i0 + own;
  int group = job.group && job.down && i < b ? job.group[i] : -1;
  double weight = p.lambda_clip / b, dscale = 0;
  for (int j0 = 0; j0 < b; j0 += kTile) {
    load(job, tiles, i0, j0);
    __syncthreads();
    for (int at = threadIdx.x % kLanes; at < kTile; at += kLanes) {
      int j = j0 + at;
      if (i >= b || j >= b) continue;
      double similarity = tiles.row[own][at], logit = job.scale * similarity, dlogit = 0, direct = 0, d = 0;
      bool counts = job.sums != nullptr;   // what is switched off is not multiplied by 0, which a NaN would outlive
      if (counts) dlogit = weight * cross_entropy(job.sums, logit, i, j);
      if (p.square || i == j) {
        if (job.dcorrelation) d += job.dcorrelation[i] + (p.square ? job.dcorrelation[j] : 0.0);
        bool together = group >= 0 && job.group[j] == group;
        if (together) d += job.down[i] + (p.square ? job.down[j] : 0.0);
        if (!p.square) direct = d;
        else if (job.dcorrelation || together) {
          dlogit += d * job.scale * double(tiles.column[at][own]);
          counts = true;
        }
      }
      if (counts) dscale += dlogit * similarity;
      job.dsimilarity[int64_t(i) * b + j] = float(p.upstream * (dlogit * job.scale + direct));
    }
    __syncthreads();
  }
  return block_sum(dscale);
}

PTX void backward(const ContrastBackward& p) {
  Tiles shared = tiles();
  for (int unit = blockIdx.x; unit < p.units; unit += gridDim.x) {
    const ContrastBackwardJob& job = p.jobs[job_of(p, unit)];
    double dscale = unit_backward(p, job, unit - job.first_unit, shared);
    if (threadIdx.x == 0) p.parts[unit] = dscale;
  }
  if (!last_block(p.counter)) return;
  for (int job = 0; job < p.job_count; job++) {
    double dscale = sum_parts(p.parts + p.jobs[job].first_unit, (p.jobs[job].samples + kTile - 1) / kTile);
    if (threadIdx.x == 0) p.jobs[job].dscale[0] = p.upstream * dscale;
  }
}
}

KERNEL(contrast_forward, ContrastForward, 256, 2, contrast::forward(p))
KERNEL(contrast_backward, ContrastBackward, 256, 2, contrast::backward(p))
