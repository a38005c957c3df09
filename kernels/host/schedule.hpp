// Who runs next. The seed chooses, so that a missing barrier shows in one order or another.
#pragma once
#include "host/machine.hpp"

namespace emulate {
// One step of the block's asynchronous work; false if there is none.
inline bool land_something(Block* block);

inline void make_ready(Fiber* fiber) {
  fiber->wait = Wait::None;
  worker->ready.push_back(fiber);
}

inline Fiber* pick() {
  Worker& w = *worker;
  size_t count = w.ready.size() - w.head;
  if (!count) return nullptr;
  if (settings().seed == 0) {                   // in the order of becoming ready
    Fiber* first = w.ready[w.head++];
    if (w.head == w.ready.size()) w.ready.clear(), w.head = 0;
    return first;
  }
  size_t i = w.head + (settings().seed == 1 ? count - 1 : random32() % count);
  Fiber* fiber = w.ready[i];
  w.ready[i] = w.ready.back();
  w.ready.pop_back();
  return fiber;
}

// Leaves the running fiber, which is on some list, waits to be woken, or has ended. It hands over to the next one directly: the scheduler
// runs only when none is ready.
inline void leave() {
  Fiber* from = self;
  if (settings().mode == 2 && random32() % 8 == 0) land_something(from->block);
  Fiber* to = pick();
  if (to == from) return;
  self = to;
  switch_to(from->context, to ? to->context : worker->scheduler);
}

inline void wait_here(Wait what, Site at, uint64_t which, uint32_t parity = 0) {
  self->wait = what;
  self->wait_at = at;
  self->wait_for = which;
  self->wait_parity = parity;
  leave();
}

inline void wake(Block* block, Wait what, uint64_t which) {
  for (unsigned i = 0; i < block->threads; i++) {
    Fiber& f = block->fibers[i];
    if (f.wait == what && f.wait_for == which) make_ready(&f);
  }
}

// Where the GPU might run another warp, a shuffled run sometimes does.
inline void shake() {
  Internal hidden;
  if (settings().seed > 1 && random32() % 4 == 0) {
    worker->ready.push_back(self);
    leave();
  }
}

// Until the launches ahead have ended.
inline void wait_for_launches_ahead(Site at) {
  Internal hidden;
  Launch& launch = *worker->launch;
  self->followed = true;
  if (!launch.ahead_ended) wait_here(Wait::Launches, at, 0);
  observe(&launch.ahead_ended);
}

// Until `there()`, which another block brings about: that block is let in beside this one.
template <class There> inline void poll(Site at, There there) {
  if (there()) return;
  if (!settings().cooperative && worker->launch->blocks > 1) fail(at, "a block waits for another in a launch that is not cooperative");
  do {
    Internal hidden;
    worker->polling.push_back(self);
    wait_here(Wait::Poll, at, 0);
  } while (!there());
  Internal hidden;
  self->wait = Wait::None;
  worker->busy = true;
}
}
