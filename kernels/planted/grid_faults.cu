// Programs of several blocks that write out[i] = i, each once right and once with a fault.
#include "planted/args.cuh"

namespace grid_faults {
// Whether the block is the last of all to come here. Each thread's writes before it are seen by the last block.
PTX bool last_block(unsigned* counter, bool reset) {
  STATIC_SHARED(unsigned, last, 1);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    *last = atomicAdd(counter, 1u) == gridDim.x - 1;
    if (*last && reset) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return *last;
}
// An element-wise loop that does not stop at the last element.
template <bool Right> PTX void tail(const Planted& p) {
  int blocks = (p.count + 127) / 128;
  for (int b = int(blockIdx.x); b < blocks; b += int(gridDim.x)) {
    int i = b * 128 + int(threadIdx.x);
    if (!Right || i < p.count) p.out[i] = i;
  }
}
// An index that may be -1, for none.
template <bool Right> PTX void gather(const Planted& p) {
  for (int i = int(blockIdx.x) * 128 + int(threadIdx.x); i < p.count; i += int(gridDim.x) * 128) {
    int64_t from = p.index[i];
    p.out[i] = !Right || from >= 0 ? p.source[from * 8] / 8 : i;
  }
}
// What the last block does with every block's part: it has to set the counter back for the next launch.
template <bool Right> PTX void last_block_reset(const Planted& p) {
  if (threadIdx.x == 0) p.parts[blockIdx.x] = int(blockIdx.x);
  if (!last_block(p.counters, Right)) return;
  for (int i = int(threadIdx.x); i < p.count; i += 128) p.out[i] = i < int(gridDim.x) ? p.parts[i] : i;
}
// A part that is written after its block has been counted.
template <bool Right> PTX void last_block_early(const Planted& p) {
  if (Right && threadIdx.x == 5) p.parts[blockIdx.x] = int(blockIdx.x);
  bool last = last_block(p.counters, true);
  if (!Right && threadIdx.x == 5) p.parts[blockIdx.x] = int(blockIdx.x);
  if (!last) return;
  for (int i = int(threadIdx.x); i < p.count; i += 128) p.out[i] = i < int(gridDim.x) ? p.parts[i] : i;
}
// All blocks meet. The last to leave sets the counters back, for the next launch.
template <bool Wait, bool Reset> PTX void meet(const Planted& p) {
  __syncthreads();
  if (threadIdx.x == 0) {
    red_release_add(p.counters, 1);
    if (Wait) wait_global_ge(p.counters, gridDim.x);
    if (Reset && atomicAdd(p.counters + 1, 1u) == gridDim.x - 1) p.counters[0] = p.counters[1] = 0;
  }
  __syncthreads();
}
template <bool Wait, bool Reset> PTX void grid_barrier(const Planted& p) {
  int next = int((blockIdx.x + 1) % gridDim.x);
  if (threadIdx.x == 0) p.parts[blockIdx.x] = int(blockIdx.x);
  meet<Wait, Reset>(p);
  for (int i = next * 128 + int(threadIdx.x); i < p.count; i += int(gridDim.x) * 128) p.out[i] = i - next + p.parts[next];
}
// A barrier that one block does not come to.
template <bool Right> PTX void grid_absent(const Planted& p) {
  if (Right || blockIdx.x != 1) meet<true, true>(p);
  for (int i = int(blockIdx.x) * 128 + int(threadIdx.x); i < p.count; i += int(gridDim.x) * 128) p.out[i] = i;
}
}

KERNEL(right_tail, Planted, 128, 1, grid_faults::tail<true>(p))
KERNEL(fault_tail, Planted, 128, 1, grid_faults::tail<false>(p))
KERNEL(right_gather, Planted, 128, 1, grid_faults::gather<true>(p))
KERNEL(fault_gather, Planted, 128, 1, grid_faults::gather<false>(p))
KERNEL(right_last_block_reset, Planted, 128, 1, grid_faults::last_block_reset<true>(p))
KERNEL(fault_last_block_reset, Planted, 128, 1, grid_faults::last_block_reset<false>(p))
KERNEL(right_last_block_early, Planted, 128, 1, grid_faults::last_block_early<true>(p))
KERNEL(fault_last_block_early, Planted, 128, 1, grid_faults::last_block_early<false>(p))
KERNEL(right_grid_wait, Planted, 128, 1, grid_faults::grid_barrier<true, true>(p))
KERNEL(fault_grid_wait, Planted, 128, 1, grid_faults::grid_barrier<false, true>(p))
KERNEL(right_grid_reset, Planted, 128, 1, grid_faults::grid_barrier<true, true>(p))
KERNEL(fault_grid_reset, Planted, 128, 1, grid_faults::grid_barrier<true, false>(p))
KERNEL(right_grid_absent, Planted, 128, 1, grid_faults::grid_absent<true>(p))
KERNEL(fault_grid_absent, Planted, 128, 1, grid_faults::grid_absent<false>(p))
