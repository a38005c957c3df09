#pragma once
#include "lib/ptx.cuh"

// The parameters of all experts, or of the shared one. Weights are [out, in].
struct ExpertWeights {
  const void* fc1_weight;          // [E, F, D] T
  const void* fc1_bias;            // [E, F] T, or none
  const void* glu_weight;          // [E, F, D] T, or none
  const void* glu_bias;            // [E, F] T, or none
  const void* fc2_weight;          // [E, D, F] T
  const void* fc2_bias;            // [E, D] T, or none
};

// Their gradients, of the same shapes, in T or f32.
struct ExpertGradients {
  void* fc1_weight;
  void* fc1_bias;
  void* glu_weight;
  void* glu_bias;
  void* fc2_weight;
  void* fc2_bias;
};

// What route decided. Expert number E, where there is one, is the shared expert.
struct Pairs {
  const int* expert_offsets;       // [E + 2]
  const int* pair_row;             // [P]
  const float* pair_weight;        // [P]
  const int* tiles;                // count, then (expert, first pair) of each tile of `tile_rows` pairs
  int tile_rows;
};

// Of engine `wgmma` alone: boxes of 64 by 64 of its operands and of what its epilogue reads.
struct ExpertMaps {
  TensorMap pairs[2];              // [P, F]: hidden; or inner and glu; or dinner and dglu; or weighted
  TensorMap experts[2];            // [E, out, in]: the weights, and glu's
  TensorMap shared[2];             // [1, out, in]
};

// Where blocks split K among them: each writes its part of the sum, and the last of a tile's adds them in order.
struct Splits {
  float* parts;                    // [count, P, columns]
  int* arrived;                    // [tiles]: blocks that have written their part; 0 before
  int64_t stride;                  // from part to part
  int count;                       // of parts, 1 at least
};

// inner = x[row] fc1^T + b, glu = x[row] glu^T + b; hidden = act(inner), or inner * act(glu) in gated experts.
struct alignas(64) ExpertsUp {
  const void* x;                   // [N, D] T
  ExpertWeights experts_weights, shared_weights;
  Pairs pairs;
  void* inner;                     // [P, F] T, or none: not kept
  void* glu;                       // [P, F] T, or none
  void* hidden;                    // [P, F] T
  int* arrived;                    // the counters of a split `down` that follows: set to 0
  int64_t x_stride;
  int width, expert_width, experts, activation;   // D, F, E
  int counters;                    // how many
  int folded;                      // whether hidden is times the pair's weight: relu alone; then there is no inner
  ExpertMaps maps;
};

// out = hidden fc2^T + b.
struct alignas(64) ExpertsDown {
  const void* hidden;              // [P, F] T
  ExpertWeights experts_weights, shared_weights;
  Pairs pairs;
  void* out;                       // [P, D] T
  Splits splits;
  int width, expert_width, experts;
  int folded;                      // whether hidden is times the pair's weight, and out is to be
  ExpertMaps maps;
};

// dhidden = dy[row] fc2; from it the weight's gradient, dinner and dglu, and the weighted hidden for dfc2.
struct alignas(64) ExpertsDinner {
  const void* dy;                  // [N, D] T
  ExpertWeights experts_weights, shared_weights;
  Pairs pairs;
  const void* inner;               // [P, F] T
  const void* glu;                 // [P, F] T, or none
  void* dinner;                    // [P, F] T
  void* dglu;                      // [P, F] T, or none
  void* weighted;                  // [P, F] T: weight * hidden; none where inner holds it, folded
  float* dweight_parts;            // [P, parts]: <dhidden, hidden> over each tile of columns; parts = ceil(F / columns of a tile)
  int* arrived;                    // the counters of a split `dx` that follows: set to 0
  int64_t dy_stride;
  int width, expert_width, experts, activation, parts;
  int counters;                    // how many
  int folded;                      // whether inner holds weight * hidden
  ExpertMaps maps;
};

// dx of each pair = dinner fc1 (+ dglu glu).
struct alignas(64) ExpertsDx {
  const void* dinner;              // [P, F] T
  const void* dglu;                // [P, F] T, or none
  ExpertWeights experts_weights, shared_weights;
  Pairs pairs;
  void* dx;                        // [P, D] T
  Splits splits;
  int width, expert_width, experts;
  ExpertMaps maps;
};

// dfc1 [F, D] = dinner^T x[row], dglu likewise, and their biases' gradients; zeros for an expert without rows.
struct alignas(64) ExpertsDfc1 {
  const void* dinner;              // [P, F] T
  const void* dglu;                // [P, F] T, or none
  const void* x;                   // [N, D] T
  Pairs pairs;
  ExpertGradients experts_gradients, shared_gradients;
  int64_t x_stride;
  int width, expert_width, experts, gradient_f32, accumulate, has_shared;
  ExpertMaps maps;
};

// dfc2 [D, F] = dy[row]^T weighted, and its bias's gradient, the sum of weight * dy[row].
struct alignas(64) ExpertsDfc2 {
  const void* dy;                  // [N, D] T
  const void* weighted;            // [P, F] T
  Pairs pairs;
  ExpertGradients experts_gradients, shared_gradients;
  int64_t dy_stride;
  int width, expert_width, experts, gradient_f32, accumulate, has_shared;
  ExpertMaps maps;
};

// What waits for dinner alone, in one launch.
struct alignas(64) ExpertsMerged {
  ExpertsDfc2 dfc2;
  ExpertsDfc1 dfc1;
  ExpertsDx dx;
};
