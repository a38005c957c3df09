#pragma once
#include "lib/ptx.cuh"

// Keeps in each (sample, expert), or each expert, the C largest weights; lists the kept pairs of needed rows.
struct alignas(64) RouteForward {
  const int* chosen;               // [N, K]
  const unsigned char* needed;     // [N] 0: its pairs are not listed; or none: all are
  const unsigned char* counted;    // [N] 0: left out of the columns' moments; or none
  float* weights;                  // [N, E] in: of the chosen, -1 elsewhere; out: 0 where not kept
  int* row_pairs;                  // [N, K] the pair of each choice, -1: dropped or not needed
  int* shared_pairs;               // [N] the row's pair of the shared expert, -1: not needed; none where there is no shared expert
  int* expert_offsets;             // [E + 2] where each expert's pairs begin; the shared expert's are the last
  int* pair_row;                   // [P] rows ascending within an expert; then the shared expert's
  float* pair_weight;              // [P] 1 for the shared expert's
  int* tiles;                      // count, then (expert, first pair) of every tile of `tile_rows` pairs; expert E is the shared one
  float* columns;                  // [B, E, 3] count, mean and M2 of each (sample, expert) column of the final weights; or none
  unsigned char* kept;             // workspace [N, E]
  int* counts;                     // workspace [3, blocks, E + 1]
  int* counters;                   // [16] 0 before
  int tokens, samples, token_stride, sample_stride;   // T, B; strides in rows
  int experts, top_k;
  int capacity;                    // C, or 0: none
  int batch_scope;                 // capacity counts over all rows, else over a sample's
  int tile_rows;
};

// From all gradients on weights, probabilities and logits to that on the logits.
struct alignas(64) RouteBackward {
  const float* probabilities;      // [N, E]
  const float* weights;            // [N, E] final
  const int* chosen;               // [N, K]
  const int* row_pairs;            // [N, K]
  const float* dweight_parts;      // [P, parts] what the experts' columns say of each pair's weight, to be summed in order
  const void* dy;                  // [N, D] T
  const void* fc2_bias;            // [E, D] T of the experts, or none: <dy, bias> is part of a weight's gradient
  const float* dweights;           // [N, E], or none
  const float* dprobabilities;     // [N, E], or none
  const float* dlogits_in;         // [N, E], or none
  float* dlogits;                  // [N, E]
  int64_t dy_stride;
  int rows, width, experts, top_k, parts, renormalise;
};
