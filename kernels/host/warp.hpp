// CUDA's warp functions and atomics.
#pragma once
#include "host/cuda.hpp"

namespace emulate {
// `source` says of a lane whose value it takes.
template <class T, class Source> inline T shuffle(unsigned mask, T value, const char* name, Site at, Source source) {
  struct Slot {
    T in, out;
    int from;
  } slot{value, value, source(int(self->lane))};
  collective(mask, name, &slot, at, [&](void** all) {
    for (int l = 0; l < 32; l++) {
      Slot* to = static_cast<Slot*>(all[l]);
      if (!to) continue;
      Slot* from = static_cast<Slot*>(all[to->from]);
      if (!from) fail(at, "%s: lane %d reads lane %d, which does not take part", name, l, to->from);
      to->out = from->in;
    }
  });
  return slot.out;
}

template <class T, class Join> inline T reduce(unsigned mask, T value, const char* name, Site at, Join join) {
  T slot = value;
  collective(mask, name, &slot, at, [&](void** all) {
    bool any = false;
    T sum{};
    for (int l = 0; l < 32; l++)
      if (all[l]) {
        T v = *static_cast<T*>(all[l]);
        sum = any ? join(sum, v) : v;
        any = true;
      }
    for (int l = 0; l < 32; l++)
      if (all[l]) *static_cast<T*>(all[l]) = sum;
  });
  return slot;
}

// Blocks may run on different OS threads.
template <class T, class Next> inline T atomic(T* p, Next next) {
  shake();
  T old, now;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  do {
    now = next(old);
  } while (!__atomic_compare_exchange(p, &old, &now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
}

#define EMULATE_AT emulate::Site at = emulate::Site::here()
inline void __syncwarp(unsigned mask = ~0u, EMULATE_AT) {
  emulate::collective(mask, "__syncwarp", nullptr, at, [](void**) {});
}
template <class T> inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, EMULATE_AT) {
  return emulate::shuffle(mask, v, "__shfl_sync", at, [=](int l) { return (l & ~(width - 1)) | (from & (width - 1)); });
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32, EMULATE_AT) {
  return emulate::shuffle(mask, v, "__shfl_xor_sync", at, [=](int l) { return ((l ^ with) & ~(width - 1)) > (l | (width - 1)) ? l : l ^ with; });
}
template <class T> inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, EMULATE_AT) {
  return emulate::shuffle(mask, v, "__shfl_up_sync", at, [=](int l) { return l - int(by) < (l & ~(width - 1)) ? l : l - int(by); });
}
template <class T> inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, EMULATE_AT) {
  return emulate::shuffle(mask, v, "__shfl_down_sync", at, [=](int l) { return l + int(by) > (l | (width - 1)) ? l : l + int(by); });
}

#define EMULATE_REDUCE(name, T, result) \
  inline T name(unsigned mask, T v, EMULATE_AT) { return emulate::reduce(mask, v, #name, at, [](T a, T b) { return T(result); }); }
EMULATE_REDUCE(__reduce_add_sync, unsigned, a + b)
EMULATE_REDUCE(__reduce_add_sync, int, a + b)
EMULATE_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
EMULATE_REDUCE(__reduce_max_sync, int, a > b ? a : b)
EMULATE_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
EMULATE_REDUCE(__reduce_min_sync, int, a < b ? a : b)
EMULATE_REDUCE(__reduce_or_sync, unsigned, a | b)
#undef EMULATE_REDUCE

inline unsigned __ballot_sync(unsigned mask, int vote, EMULATE_AT) {
  unsigned mine = vote ? 1u << emulate::self->lane : 0u;
  return emulate::reduce(mask, mine, "__ballot_sync", at, [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int vote, EMULATE_AT) { return __ballot_sync(mask, vote, at) != 0; }
inline int __all_sync(unsigned mask, int vote, EMULATE_AT) { return __ballot_sync(mask, !vote, at) == 0; }
#undef EMULATE_AT

template <class T> inline T atomicAdd(T* p, T v) { return emulate::atomic(p, [=](T old) { return T(old + v); }); }
template <class T> inline T atomicMax(T* p, T v) { return emulate::atomic(p, [=](T old) { return old > v ? old : v; }); }
template <class T> inline T atomicMin(T* p, T v) { return emulate::atomic(p, [=](T old) { return old < v ? old : v; }); }
template <class T> inline T atomicExch(T* p, T v) { return emulate::atomic(p, [=](T) { return v; }); }
template <class T> inline T atomicCAS(T* p, T is, T v) { return emulate::atomic(p, [=](T old) { return old == is ? v : old; }); }
