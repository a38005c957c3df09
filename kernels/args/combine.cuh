#pragma once
#include "lib/ptx.cuh"

// out[row] = sum over the row's kept pairs of weight * pairs[pair], in the order of its choices, plus what is added.
struct alignas(64) Combine {
  const void* pairs;          // [P, D] T
  const float* weight;        // [P], or none: 1
  const int* row_pairs;       // [N, K], -1: dropped
  const int* shared_pairs;    // [N] the row's pair of the shared expert, -1: none; or none at all
  const void* plus;           // [N, D] T, or none
  const void* minus;          // [N, D] T, or none
  const unsigned char* needed; // [N] 0: minus is not taken off that row; or none: it is off all
  void* out;                  // [N, D] T
  int64_t minus_stride, out_stride;   // elements from one row to the next
  int rows, width, top_k;     // N, D, K
};
