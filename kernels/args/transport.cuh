#pragma once
#include "lib/ptx.cuh"

// One group, or all groups of a batch, to be compared with x.
struct TransportJob {
  const double* y;                 // [count] of a group; or with `group` of each sample, in whatever group it is
  const int* group;                // [count] the group of each sample, -1: in none; or none: all are the one group
  double* normalised;              // [count] y as it was compared
  double* dy;                      // [count] the weighted distance's gradient on y, before normalising
  int count, groups;               // G, or 1
  int first_group, first_unit;     // groups of all jobs before, and of those before in this launch
};

// Of each group the distance between x and y, two sets of equal weights, and their gradients.
struct alignas(64) TransportForward {
  TransportJob jobs[64];
  const double* x;                 // [N]
  double* dx;                      // [N] the gradient of the weighted sum of distances
  double* distances;               // [G] before their weight; 0 for a group without samples
  int* counts;                     // [G] samples
  double* parts;                   // workspace [blocks, N]
  double* potentials;              // workspace [blocks, 4 (N + most)], or none: they are in shared memory
  int* counter;                    // 0 before and after
  double* terms;                   // [6] the last launch writes number 2, the distance, and 0, the sum of 1 to 4; or none
  double lambda;                   // the weight of a distance
  double blur;                     // of Sinkhorn; 0: exact
  double log_blur, log_scaling;
  int samples, most;               // N; the largest count of a job
  int job_count, units, groups;    // G of all launches
  int group_sum;                   // y is divided by its sum
  int add;                         // to dx of the launches before
};
