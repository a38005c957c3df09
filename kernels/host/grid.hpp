// Runs the blocks of a grid: each worker takes one after another, and lets others in beside one that polls for their work.
#pragma once
#include "host/report.hpp"
#include "host/tma.hpp"
#include <pthread.h>
#include <sched.h>

namespace emulate {
constexpr size_t kStack = 256 * 1024;
constexpr size_t kMargin = 1024;   // behind static arrays: looked through for what a block wrote there

inline void fiber_main() {
  arrived_on(self->context);
  if (!self->context.ended) hide_anew();   // one that ended is hidden still
  self->context.ended = false;
  observe(&self->block->threads);
  show();
  const Launch& launch = *worker->launch;
  launch.body();
  if (launch.dependent && !self->followed) fail(launch.at, "a thread ends that never waited for the launches ahead");
  publish(&self->block->live);     // seen only once the whole block has ended
  hide();
  self->done = self->context.ended = true;
  self->block->live--;
  leave();
  abort();
}

inline void reset_window(Block* b) {
  unpoison(b->window, kWindow);
  if (b->soiled) memset(b->window, 0xff, kWindow), std::fill(b->unfenced.begin(), b->unfenced.end(), 0);
  b->soiled = true;                // until the block has ended in order
  b->statics.clear();
  b->static_top = kFirstShared;
  // The dynamic part ends where pages fault, but for up to 1023 bytes of alignment.
  uint32_t bytes = worker->launch->shared_bytes;
  b->dynamic_base = (kWindow - bytes) / 1024 * 1024;
  b->dynamic_end = b->dynamic_base + bytes;
  poison(b->window, kWindow);
  unpoison(b->window + b->dynamic_base, bytes);
}

inline void reset_fiber(Fiber& f, Block* b, unsigned number) {
  uint3 size = worker->launch->block;
  f.thread_idx = {number % size.x, number / size.x % size.y, number / size.x / size.y};
  f.linear = number;
  f.lane = number % 32;
  f.block = b;
  f.warp = &b->warps[number / 32];
  f.group = &b->groups[number / 128];
  if (f.lane == 0) f.warp->first = &f;
  f.warp->lanes = f.lane + 1;
  f.done = f.followed = f.wgmma_fenced = false;
  f.wait = Wait::None;
  f.wait_at = kNowhere;
  f.copies.clear();
  f.unfenced.clear();
  f.wgmma_groups.clear();
  f.open_groups = 0;
  f.wgmma_issued = 0;
  if (!f.context.stack) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* map = mmap(nullptr, kStack + kPage, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (map == MAP_FAILED) fail(kNowhere, "no room for the stacks of %u threads", b->threads);
    mprotect(map, kPage, PROT_NONE);
    f.context.stack = static_cast<uint8_t*>(map) + kPage;
    f.context.stack_bytes = kStack;
  }
  prepare(f.context, fiber_main);
}

inline void start_block(Worker& w, uint64_t number) {
  Launch& l = *w.launch;
  if (w.spare.empty()) w.spare.push_back(new Block);
  Block* b = w.spare.back();       // its window and stacks are kept for the next
  w.spare.pop_back();
  b->idx = {unsigned(number % l.grid.x), unsigned(number / l.grid.x % l.grid.y), unsigned(number / l.grid.x / l.grid.y)};
  b->threads = b->live = l.block.x * l.block.y * l.block.z;
  if (!b->window) {
    b->window = map_guarded(kWindow);
    b->unfenced.resize(kWindow / kGranule);
  }
  if (!b->window) fail(kNowhere, "no room for a block's shared memory");
  reset_window(b);
  memset(b->barriers, 0, sizeof b->barriers);
  b->bulk.clear();
  b->copies = 0;
  unsigned warps = (b->threads + 31) / 32;
  b->warps.assign(warps, Warp{});
  b->groups.assign((warps + 3) / 4, Warpgroup{});
  if (b->fibers.size() < b->threads) b->fibers.resize(b->threads);
  for (unsigned i = 0; i < b->threads; i++) {
    reset_fiber(b->fibers[i], b, i);
    w.ready.push_back(&b->fibers[i]);
  }
  publish(&b->threads);
  w.active.push_back(b);
  w.busy = true;
}

// Puts back 0xFF where the block may have written, and finds where it may not.
inline void finish_block(Worker& w, Block* b) {
  observe(&b->live);
  unpoison(b->window, kWindow);
  uint8_t *margin = b->window + b->static_top, *dynamic = b->window + b->dynamic_base, *end = b->window + b->dynamic_end;
  auto expect_fresh = [&](uint8_t* from, uint8_t* to, const char* what) {
    for (uint8_t* p = from; p < to; p++)
      if (*p != 0xff) fail(kNowhere, "block (%u,%u,%u) wrote %ld bytes past the end of %s", b->idx.x, b->idx.y, b->idx.z, long(p - from), what);
  };
  expect_fresh(margin, std::min(margin + kMargin, dynamic), "static shared memory");
  expect_fresh(end, b->window + kWindow, "dynamic shared memory");
  memset(b->window + kFirstShared, 0xff, size_t(margin - b->window) - kFirstShared);
  memset(dynamic, 0xff, size_t(end - dynamic));
  for (unsigned i = 0; i < b->threads; i++)
    for (uint32_t granule : b->fibers[i].unfenced) b->unfenced[granule] = 0;
  b->soiled = false;
  w.spare.push_back(b);
}

inline bool next_block(Worker& w) {
  Launch& l = *w.launch;
  uint64_t number = l.next++;
  if (number >= l.blocks) return false;
  start_block(w, l.settings.seed == 1 ? l.blocks - 1 - number : number);
  return true;
}

// Whether no poll can ever end: every worker has polled in vain since any of them did anything else.
inline bool all_idle(Worker& w) {
  Launch& l = *w.launch;
  std::lock_guard<std::mutex> hold(l.lock);
  if (w.busy || w.polled_since != l.activity) {
    if (w.busy) l.activity++;
    w.busy = w.counted = false;
    w.polled_since = l.activity;
    return false;
  }
  if (l.idle_since != l.activity) l.idle_since = l.activity, l.idle = 0;
  if (!w.counted) l.idle++;
  w.counted = true;
  return l.idle == l.workers;
}

// What its blocks bring about by themselves, when no fiber is ready; false if there is nothing.
inline bool settle(Worker& w) {
  for (size_t i = 0; i < w.active.size(); i++) {
    Block* b = w.active[i];
    if (!b->live) {
      w.active.erase(w.active.begin() + long(i));
      finish_block(w, b);
      return w.busy = true;
    }
    if (land_something(b)) return w.busy = true;
  }
  return false;
}

// One step of a worker that has no fiber ready, before the launches ahead have ended: in few blocks, since each keeps its stacks meanwhile.
inline bool advance_early(Worker& w) {
  constexpr uint64_t kEarly = 2;
  return settle(w) || (w.launch->next < kEarly && next_block(w));
}

// One step of a worker that has no fiber ready; false when there is nothing left to do.
inline bool advance(Worker& w) {
  Launch& l = *w.launch;
  if (settle(w)) return true;
  if (w.active.empty()) {
    if (!next_block(w)) return false;
    // Blocks beside one another, in a shuffled run: one may then come between what another writes and what it counts.
    while (l.settings.seed > 1 && w.active.size() < 3 && random32() % 2 && next_block(w)) {}
    return true;
  }
  if (w.polling.empty()) report_deadlock(w);
  if (next_block(w)) return true;
  if (all_idle(w)) report_deadlock(w);
  if (!w.busy) sched_yield();      // whoever is polled for may need the processor
  w.ready.insert(w.ready.end(), w.polling.begin(), w.polling.end());
  w.polling.clear();
  return true;
}

// Workers stay, since sanitizers and speed both like their stacks kept.
inline std::mutex idle_lock;
inline std::vector<Worker*>& idle_workers() {
  static auto* all = new std::vector<Worker*>;
  return *all;
}

inline Worker* borrow_worker() {
  std::lock_guard<std::mutex> hold(idle_lock);
  if (idle_workers().empty()) return new Worker;
  Worker* w = idle_workers().back();
  idle_workers().pop_back();
  return w;
}

inline void run_worker(Launch* l, uint64_t number) {
  Internal hidden;
  worker = borrow_worker();
  self = nullptr;
  Worker& w = *worker;
  observe(l);
  w.launch = l;
  w.head = 0;
  w.ready.clear();
  w.polling.clear();
  w.busy = true;
  w.counted = false;
  w.random = 0x9e3779b97f4a7c15ull * (l->settings.seed * 64 + number + 1);
#if defined(__SANITIZE_THREAD__)
  w.scheduler.tsan = __tsan_get_current_fiber();
#endif
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t attributes;
  void* bottom;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &bottom, &w.scheduler.stack_bytes);
  pthread_attr_destroy(&attributes);
  w.scheduler.stack = static_cast<uint8_t*>(bottom);
#endif
  auto run = [&](bool (*otherwise)(Worker&)) {
    try {
      while (!l->failed) {
        if (Fiber* f = pick()) {
          self = f;
          switch_to(w.scheduler, f->context);
          self = nullptr;
        } else if (!otherwise(w)) {
          break;
        }
      }
    } catch (Failed) {}
  };
  if (l->dependent && number == 0) {
    run(advance_early);
    l->waiting.open();
    l->going.pass();
    observe(&l->ahead_ended);
    for (Block* b : w.active) wake(b, Wait::Launches, 0);
  }
  run(advance);
  w.spare.insert(w.spare.end(), w.active.begin(), w.active.end());   // of a launch that failed
  w.active.clear();
  {
    std::lock_guard<std::mutex> hold(l->lock);
    l->workers--;
    l->activity++;
  }
  publish(&l->next);
  std::lock_guard<std::mutex> hold(idle_lock);
  idle_workers().push_back(&w);
  worker = nullptr;
}
}
