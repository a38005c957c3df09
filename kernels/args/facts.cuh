#pragma once
#include "lib/ptx.cuh"

// Of the kernels that try one fact of the hardware each; none uses all of it.
struct alignas(64) FactProbe {
  TensorMap a_map;
  TensorMap b_map;
  const void* a;
  const void* b;
  void* out;
  unsigned* counters;   // 0 before
  int count;
  int x, y, z;          // where a box begins
};
