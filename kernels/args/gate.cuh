#pragma once
#include "lib/ptx.cuh"

// hidden = fc1(x), logits = fc2(act(hidden)) or fc2(x); probabilities = softmax; the K highest logits chosen.
struct alignas(64) GateForward {
  const void* x;                   // [N, D] T
  const void* fc1_weight;          // [H, D] T, or none: a linear gate
  const void* fc1_bias;            // [H] T, or none
  const void* fc2_weight;          // [E, H] T, or [E, D] of a linear gate
  const void* fc2_bias;            // [E] T, or none
  const unsigned char* routed;     // [N] 0: leaves a row out of routing; or none: all take part
  float* hidden;                   // [N, H] before its activation
  float* logits;                   // [N, E]
  float* probabilities;            // [N, E]
  int* chosen;                     // [N, K] the likeliest first, ties to the lowest expert
  float* weights;                  // [N, E] of chosen experts, before capacity; -1 elsewhere
  int* counters;                   // [16] set to 0: those of the route kernel
  int64_t x_stride;                // elements from one row of x to the next
  int rows, width, hidden_width, experts, top_k, activation, renormalise;
};

// From the gradient on the logits: dhidden [N, H] before the activation, and the gate's share of dx, which is rounded to T as x is.
struct alignas(64) GateBackwardRows {
  const float* dlogits;            // [N, E]
  const float* hidden;             // [N, H]
  const void* fc1_weight;          // [H, D] T, or none
  const void* fc2_weight;          // [E, H] T, or [E, D]
  float* dhidden;                  // [N, H]
  void* dx;                        // [N, D] T
  int* counters;                   // [tiles] set to 0: those of the parameters' gradients
  int rows, width, hidden_width, experts, activation;
  int tiles;
};

// The gradients of the gate's own parameters, sums over all rows.
struct alignas(64) GateBackwardWeights {
  const void* x;                   // [N, D] T
  const float* dlogits;            // [N, E]
  const float* hidden;             // [N, H]
  const float* dhidden;            // [N, H]
  void* dfc1_weight;               // [H, D], or none
  void* dfc1_bias;                 // [H], or none
  void* dfc2_weight;               // [E, H] or [E, D]
  void* dfc2_bias;                 // [E], or none
  float* parts;                    // workspace [tiles, splits, 64, columns of a tile + 1] what each split of the rows sums up; none for one split
  int* counters;                   // [tiles] arrivals of the splits; 0 before
  int64_t x_stride;
  int rows, width, hidden_width, experts, activation;
  int gradient_f32;                // gradients are f32, else T
  int accumulate;                  // added to what is there, else overwriting it
  int splits;                      // of the rows
};
