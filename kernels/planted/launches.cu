// Programs of two launches, one ahead of a dependent one, that write out[i] = i together, the latter once right and once with a fault.
// What no launch wrote is -1 at first.
#include "planted/args.cuh"

namespace launches {
template <class Do> PTX void each(const Planted& p, Do act) {
  for (int i = int(blockIdx.x) * 128 + int(threadIdx.x); i < p.count; i += int(gridDim.x) * 128) act(i);
}
PTX void write_parts(const Planted& p) {
  each(p, [&](int i) { p.parts[i] = i; });
}
// The launch ahead: it lets the next one come up as soon as all its blocks are there, or only by its end.
PTX void ahead_writes(const Planted& p) {
  wait_for_launches_ahead();
  write_parts(p);
}
PTX void ahead_is_silent(const Planted& p) {
  griddepcontrol_wait();
  write_parts(p);
}
PTX void ahead_reads(const Planted& p) {
  wait_for_launches_ahead();
  each(p, [&](int i) { p.out[i] = p.parts[i] == -1 ? i : -2; });
}
// Reads what the launch ahead writes.
template <bool Right> PTX void reads(const Planted& p) {
  STATIC_SHARED(int, early, 1);
  if (Right) wait_for_launches_ahead();
  if (threadIdx.x == 0) *early = p.parts[p.count - 1];
  if (!Right) wait_for_launches_ahead();
  __syncthreads();
  each(p, [&](int i) { p.out[i] = *early == p.count - 1 ? p.parts[i] : -2; });
}
// Writes what the launch ahead reads.
template <bool Right> PTX void writes(const Planted& p) {
  if (Right) wait_for_launches_ahead();
  write_parts(p);
  if (!Right) wait_for_launches_ahead();
}
// One warp waits for all, and no barrier holds the others back.
template <bool Right> PTX void one_waits(const Planted& p) {
  if (Right || threadIdx.x < 32) wait_for_launches_ahead();
  each(p, [&](int i) { p.out[i] = p.parts[i]; });
}
// Threads that have nothing to do end at once, and with them the launch, were there no others.
template <bool Right> PTX void idle_end(const Planted& p) {
  if (Right) wait_for_launches_ahead();
  if (threadIdx.x >= 64) return;
  wait_for_launches_ahead();
  for (int i = int(blockIdx.x) * 64 + int(threadIdx.x); i < p.count; i += int(gridDim.x) * 64) p.out[i] = p.parts[i];
}
// What needs no memory but its own comes before the wait: a barrier, shared memory, an mbarrier.
template <bool Right> PTX void early(const Planted& p) {
  DYNAMIC_SHARED(smem);
  uint32_t bar = shared_u32(smem);
  int* own = reinterpret_cast<int*>(smem) + 4;
  if (threadIdx.x == 0) {
    mbarrier_init(bar, 128);
    mbarrier_init_fence();
  }
  own[threadIdx.x] = int(threadIdx.x);
  __syncthreads();
  if (Right) wait_for_launches_ahead();
  mbarrier_arrive(bar);
  mbarrier_wait(bar, 0);
  each(p, [&](int i) { p.out[i] = p.parts[i] + own[127 - threadIdx.x] + own[threadIdx.x] - 127; });
  if (!Right) wait_for_launches_ahead();
}
}

EARLY_HOPPER_KERNEL(right_ahead_writes, Planted, 128, 1, launches::ahead_writes(p))
EARLY_HOPPER_KERNEL(right_ahead_is_silent, Planted, 128, 1, launches::ahead_is_silent(p))
EARLY_HOPPER_KERNEL(right_ahead_reads, Planted, 128, 1, launches::ahead_reads(p))
EARLY_HOPPER_KERNEL(right_dependent_reads, Planted, 128, 1, launches::reads<true>(p))
EARLY_HOPPER_KERNEL(fault_dependent_reads, Planted, 128, 1, launches::reads<false>(p))
EARLY_HOPPER_KERNEL(right_dependent_writes, Planted, 128, 1, launches::writes<true>(p))
EARLY_HOPPER_KERNEL(fault_dependent_writes, Planted, 128, 1, launches::writes<false>(p))
EARLY_HOPPER_KERNEL(right_dependent_one_waits, Planted, 128, 1, launches::one_waits<true>(p))
EARLY_HOPPER_KERNEL(fault_dependent_one_waits, Planted, 128, 1, launches::one_waits<false>(p))
EARLY_HOPPER_KERNEL(right_dependent_idle_end, Planted, 128, 1, launches::idle_end<true>(p))
EARLY_HOPPER_KERNEL(fault_dependent_idle_end, Planted, 128, 1, launches::idle_end<false>(p))
EARLY_HOPPER_KERNEL(right_dependent_early, Planted, 128, 1, launches::early<true>(p))
EARLY_HOPPER_KERNEL(fault_dependent_early, Planted, 128, 1, launches::early<false>(p))
KERNEL(right_dependent_by_macro, Planted, 128, 1, launches::reads<true>(p))
