#pragma once
#include "lib/ptx.cuh"

// One array [N, M] whose columns' moments are wanted, group by group.
struct MomentsJob {
  const float* x;                  // [N, M]; or with `merge` [N, M, 3]: count, mean and M2 of columns that are to be put together
  const int* group;                // [samples] the group of each sample, -1: in none; or none: all are group 0
  const unsigned char* counted;    // [N] 0: left out of everything; or none: all count
  int* count;                      // [G] rows; with `whole` [G + 1]
  double* mean;                    // [G, M]; with `whole` [G + 1, M]
  double* variance;                // [G, M] divided by n - 1; with `whole` [G + 1, M]
  int64_t parts;                   // where its parts begin in the workspace: 3 for each chunk of rows, group and column
  int rows, columns, groups;       // N, M, G
  int samples, run;                // row r is of sample r / run % samples
  int whole;                       // 1: behind the groups come all rows together, in a group or in none
  int merge;
  int chunk_rows, first_unit;      // rows of a chunk; units of the jobs before
};

// One gate's moments, those of the batch behind those of its groups.
struct MomentsGate {
  const int* count;                // [G + 1]
  const double* variance;          // [G + 1, E]
  double* dvariance;               // [G + 1, E] the loss's gradient on them
  int groups, experts;             // G, E
};

// The moments of all jobs; then of all gates the dispersion between batch and groups, and the batch's own.
struct alignas(64) MomentsForward {
  MomentsJob jobs[32];
  MomentsGate gates[12];
  double* parts;                   // workspace
  int* counters;                   // [33] arrivals of blocks, then of each job's units; 0 before and after
  double* terms;                   // [6] number 3: dispersion, 4: the batch's; or none
  double lambda_dispersion, lambda_batch_variance;
  int job_count, gate_count, units;
  int window;                      // groups that are summed at once
  int mean_first;                  // dispersion compares means over experts, else expert by expert
  int add_terms;                   // to the terms of the launches before
};

// The gradient of one array [N, M]: what the row's group gives, and what all rows together give.
struct MomentsBackwardJob {
  const float* x;                  // [N, M]
  const int* group;                // as in the forward pass
  const unsigned char* counted;
  const int* count;
  const double* mean;
  const double* dmean;             // [G, M] or [G + 1, M] like `mean`, or none
  const double* dvariance;         // likewise
  float* dx;                       // [N, M]
  int rows, columns, groups, samples, run;
  int of_groups, of_whole;         // 1: the groups' (the whole's) gradient is there
  int add;                         // to what dx holds, else overwriting it
  int chunk_rows, first_unit;
};

struct alignas(64) MomentsBackward {
  MomentsBackwardJob jobs[36];
  double upstream;
  int job_count, units;
};
