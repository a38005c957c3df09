// mbarriers and cp.async. When a copy lands is up to the mode, within what the instructions allow.
#pragma once
#include "host/half.hpp"
#include "host/warp.hpp"

namespace emulate {
// The 64 bits are opaque on the GPU too. Here, from the lowest: 1 of phase, 20 of arrivals to come, 20 of arrivals in each phase, 21 of
// bytes to come (signed), and 01, which tells a barrier from fresh memory.
inline uint64_t* mbarrier(Block* b, uint32_t address, Site at, bool fresh = false) {
  uint64_t* m = reinterpret_cast<uint64_t*>(shared(address, 8, 8, "mbarrier", at, b));
  if (!fresh && __atomic_load_n(m, __ATOMIC_RELAXED) >> 62 != 1) fail(at, "mbarrier 0x%x was never initialised", address);
  return m;
}

inline void mbarrier_init(uint32_t address, uint32_t count, Site at) {
  if (!count || count >= 1u << 20) fail(at, "mbarrier 0x%x: a count of %u", address, count);
  uint64_t state = 1ull << 62 | uint64_t(count) << 21 | uint64_t(count) << 1;
  __atomic_store_n(mbarrier(self->block, address, at, true), state, __ATOMIC_RELAXED);
}

// `bytes` to come are added, `arrivals` taken off; the phase ends when neither is left.
inline void mbarrier_change(Block* b, uint32_t address, int arrivals, int64_t bytes, Site at) {
  Internal hidden;
  uint64_t* m = mbarrier(b, address, at);
  uint64_t state = __atomic_load_n(m, __ATOMIC_RELAXED), phase = state & 1, total = state >> 21 & 0xfffff;
  int64_t pending = int64_t(state >> 1 & 0xfffff) - arrivals, to_come = (int64_t(state << 2) >> 43) + bytes;
  if (pending < 0) fail(at, "mbarrier 0x%x: more than %lu arrivals in one phase", address, (unsigned long)total);
  if (to_come >= 1 << 20 || to_come <= -(1 << 20)) fail(at, "mbarrier 0x%x: %ld bytes are out of its range", address, long(to_come));
  publish(reinterpret_cast<char*>(m) + phase);
  bool complete = pending == 0 && to_come == 0;
  if (complete) phase ^= 1, pending = int64_t(total);
  state = 1ull << 62 | (uint64_t(to_come) & 0x1fffff) << 41 | total << 21 | uint64_t(pending) << 1 | phase;
  __atomic_store_n(m, state, __ATOMIC_RELAXED);
  if (complete) wake(b, Wait::Mbarrier, address);
}

// Whether the phase of that parity has ended.
inline bool mbarrier_test(uint32_t address, uint32_t parity, Site at) {
  uint64_t* m = mbarrier(self->block, address, at);
  bool ended = (__atomic_load_n(m, __ATOMIC_RELAXED) & 1) != (parity & 1);
  if (ended) observe(reinterpret_cast<char*>(m) + (parity & 1));
  return ended;
}

inline void mbarrier_wait(uint32_t address, uint32_t parity, Site at) {
  Internal hidden;
  while (!mbarrier_test(address, parity, at)) wait_here(Wait::Mbarrier, at, address, parity & 1);
}

inline void land_copy(Fiber* f) {
  Internal hidden;
  Copy c = f->copies.front();
  f->copies.pop_front();
  f->block->copies--;
  switch (c.kind) {
    case Copy::Commit: f->open_groups--; return;
    case Copy::Arrive: mbarrier_change(f->block, c.to, 1, 0, c.at); return;
    case Copy::Data: break;
  }
  uint8_t* to = f->block->window + c.to;
  {
    ForKernel seen;
    memcpy(to, c.from, c.filled);
    memset(to + c.filled, 0, c.bytes - c.filled);
  }
  mark_generic_write(f, c.to, c.bytes);
}

inline void queue_copy(const Copy& c) {
  Internal hidden;
  self->copies.push_back(c);
  self->block->copies++;
  if (c.kind == Copy::Commit) self->open_groups++;
  if (settings().mode == 0)
    while (!self->copies.empty()) land_copy(self);
}

inline void cp_async(uint32_t to, const void* from, uint32_t bytes, uint32_t filled, Site at) {
  shared(to, bytes, bytes, "cp.async", at);
  if (filled > bytes) fail(at, "cp.async: a source of %u bytes exceeds %u", filled, bytes);
  if (uintptr_t(from) % bytes) fail(at, "cp.async: global address %p is not aligned to %u bytes", from, bytes);
  if (filled) check_global(from, filled, "cp.async", at);
  queue_copy({Copy::Data, to, bytes, filled, from, at});
  shake();
}

inline void cp_async_commit(Site at) { queue_copy({Copy::Commit, 0, 0, 0, nullptr, at}); }

inline void cp_async_wait(unsigned left) {
  while (self->open_groups > left) land_copy(self);
}

inline void cp_async_arrive(uint32_t bar, Site at) {
  mbarrier(self->block, bar, at);
  queue_copy({Copy::Arrive, bar, 0, 0, nullptr, at});
}

// Makes the thread's own writes visible to the asynchronous proxy, and those that it has seen through a barrier. What it has seen is not
// tracked: a thread with no writes of its own is taken to have seen all of them.
inline void fence_proxy_async() {
  Internal hidden;
  Block* b = self->block;
  auto clear = [&](Fiber& f) {
    for (uint32_t g : f.unfenced)
      if (b->unfenced[g] == f.linear + 1) b->unfenced[g] = 0;
    f.unfenced.clear();
  };
  if (!self->unfenced.empty()) return clear(*self);
  for (unsigned i = 0; i < b->threads; i++) clear(b->fibers[i]);
}
}
