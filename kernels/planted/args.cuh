#pragma once
#include "lib/ptx.cuh"

// Of the programs that write out[i] = i when they are right.
struct alignas(64) Planted {
  const int* source;      // [8192] source[i] = i
  const int* index;       // [count] i, but -1 at every tenth
  int* out;               // [count]
  int* parts;             // [blocks] holds what memory holds at first
  unsigned* counters;     // [2] 0 before
  int count;
};

// out = a * b, of small matrices.
struct alignas(64) PlantedProduct {
  TensorMap a_map, b_map;
  const void* a;
  const void* b;
  float* out;
};
