// What the blocks of one launch wait for together.
#pragma once
#include "lib/ptx.cuh"

// All threads of all blocks meet; what they wrote before, all see after. For cooperative launches alone; the counter is 0 before, and
// serves one meeting.
PTX void grid_barrier(int* counter) {
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t* arrivals = reinterpret_cast<uint32_t*>(counter);
    __threadfence();
    red_release_add(arrivals, 1);
    wait_global_ge(arrivals, gridDim.x);
    __threadfence();
  }
  __syncthreads();
}

// Whether this block is the last of `blocks` to come here; what they wrote before, it sees then. All threads call it. The counter is 0 before.
PTX bool last_block(int* counter, int blocks) {
  STATIC_SHARED(int, arrived, 1);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();   // the others' writes go ahead of its arrival only by a fence of its own, behind the barrier that it saw them by
    *arrived = atomicAdd(counter, 1);
  }
  __syncthreads();
  bool last = *arrived == blocks - 1;
  __syncthreads();
  if (last) __threadfence();
  return last;
}

// The same of all blocks of a one-dimensional grid; leaves the counter at 0.
PTX bool last_block(int* counter) {
  bool last = last_block(counter, int(gridDim.x));
  if (last && threadIdx.x == 0) atomicExch(counter, 0);
  return last;
}
