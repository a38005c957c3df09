#pragma once
#include "lib/ptx.cuh"

// One similarity of B images (rows) against B texts (columns); logits are scale * similarity.
struct ContrastJob {
  const float* similarity;         // [B, B]
  const int* group;                // [B] the group of each sample, -1: in none; or none: there are no groups in it
  double* sums;                    // [B, 4] of a sample's row, then of its column: the largest logit, and log sum exp(logit - largest); or none
  double* correlation;             // [B] of each sample, or none
  double* own;                     // [B] of each sample as if its group were the batch, 0 for one in no group; or none
  double scale;
  int samples, first_unit;         // B; units of the jobs before
};

struct alignas(64) ContrastForward {
  ContrastJob jobs[64];
  double* parts;                   // workspace: the cross entropy of each unit of the first job
  int* counter;                    // 0 before and after
  double* terms;                   // [6] of the first job number 1: the cross entropy times its weight, 5: without it; or none
  double lambda_clip;
  int job_count, units;
  int square;                      // correlations are the diagonal of L L, else that of the similarity
};

struct ContrastBackwardJob {
  const float* similarity;         // [B, B]
  const int* group;                // [B], or none
  const double* sums;              // [B, 4], or none: without the cross entropy
  const double* dcorrelation;      // [B] the gradient on the correlation, or none
  const double* down;              // [B] that on the correlation in the sample's group, or none
  float* dsimilarity;              // [B, B]
  double* dscale;                  // [1]
  double scale;
  int samples, first_unit;
};

struct alignas(64) ContrastBackward {
  ContrastBackwardJob jobs[50];
  double* parts;                   // workspace: each unit's share of dscale
  int* counter;                    // 0 before and after
  double upstream, lambda_clip;
  int job_count, units, square;
};
