// Barriers of a block, and the meeting of a warp's lanes.
#pragma once
#include "host/schedule.hpp"

namespace emulate {
inline void barrier(unsigned id, unsigned threads, bool wait, Site at) {
  Internal hidden;
  Block& b = *self->block;
  if (id > 15) fail(at, "barrier %u: there are 16", id);
  if (threads % 32 || threads == 0 || threads > (b.threads + 31) / 32 * 32)
    fail(at, "barrier %u: a count of %u threads, which has to be a multiple of 32 within the block's %u", id, threads, b.threads);
  Barrier& s = b.barriers[id];
  if (s.here && s.expected != threads) fail(at, "barrier %u: arrives with a count of %u, others with %u", id, threads, s.expected);
  s.expected = threads;
  char* tag = &s.tags[s.rounds % 2];
  publish(tag);
  unsigned full = threads < b.threads ? threads : b.threads;   // the last warp may be partial
  if (++s.here == full) {
    s.here = 0;
    s.rounds++;
    wake(&b, Wait::Barrier, id);
  } else if (wait) {
    wait_here(Wait::Barrier, at, id);
  }
  if (wait) observe(tag);
}

// The lanes of `mask` meet; each brings a pointer, and the last to come runs `body` on all of them.
template <class Body> inline void collective(unsigned mask, const char* name, void* mine, Site at, Body body) {
  Internal hidden;
  Warp& w = *self->warp;
  if (!(mask >> self->lane & 1)) fail(at, "%s: lane %u is not in its own mask 0x%08x", name, self->lane, mask);
  mask &= w.lanes == 32 ? ~0u : (1u << w.lanes) - 1;
  Rendezvous* r = nullptr;
  for (Rendezvous& open : w.open)
    if (open.mask == mask) r = &open;           // lanes of other masks may be waiting too
  if (!r) {
    w.open.push_back({mask, 0, name, at, &w.tags[w.rounds++ % 64], {}});
    r = &w.open.back();
  }
  if (strcmp(r->name, name)) fail(at, "lanes diverge: %s here, %s at line %d", name, r->name, r->at.line);
  r->here |= 1u << self->lane;
  r->slot[self->lane] = mine;
  char* tag = r->tag;
  publish(tag);
  if (r->here != mask) {
    wait_here(Wait::Collective, at, reinterpret_cast<uint64_t>(name));
    observe(tag);
    return;
  }
  Rendezvous full = *r;
  w.open.erase(w.open.begin() + (r - w.open.data()));
  observe(tag);
  body(full.slot);
  for (unsigned l = 0; l < 32; l++)
    if ((mask >> l & 1) && l != self->lane) make_ready(w.first + l);
  if (settings().seed) {
    worker->ready.push_back(self);
    leave();
  }
}
}
