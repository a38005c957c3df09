// What AddressSanitizer and ThreadSanitizer are told about fibers, so that both check the kernels and not the emulation.
#pragma once
#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace emulate {
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddressSanitizer = true;
inline void poison(void* at, size_t bytes) { __asan_poison_memory_region(at, bytes); }
inline void unpoison(void* at, size_t bytes) { __asan_unpoison_memory_region(at, bytes); }
#else
constexpr bool kAddressSanitizer = false;
inline void poison(void*, size_t) {}
inline void unpoison(void*, size_t) {}
#endif

// ThreadSanitizer takes each fiber for a thread and is shown the order that barriers and collectives make between them: it then finds races
// even in runs whose result happens to be right. The emulation's own state is shared by fibers that never run at the same time, without
// locks, so its accesses are hidden, and those that it makes on a kernel's behalf are shown again.
#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
inline void publish(void* tag) { __tsan_release(tag); }
inline void observe(void* tag) { __tsan_acquire(tag); }
int& hidden();                    // how deep the running fiber is in the emulation; itself never seen
#define UNSEEN __attribute__((no_sanitize("thread")))
UNSEEN inline void hide() {
  if (hidden()++ == 0) AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0);
}
UNSEEN inline void show() {
  if (--hidden() == 0) AnnotateIgnoreReadsEnd("", 0), AnnotateIgnoreWritesEnd("", 0);
}
// The first thing that a new fiber does.
UNSEEN inline void hide_anew() {
  hidden() = 0;
  hide();
}
struct ForKernel {
  int depth;
  UNSEEN ForKernel() : depth(hidden()) { while (hidden()) show(); }
  UNSEEN ~ForKernel() { while (hidden() < depth) hide(); }
};
#else
constexpr bool kThreadSanitizer = false;
struct ForKernel { ForKernel() {} };
inline void publish(void*) {}
inline void observe(void*) {}
inline void hide() {}
inline void hide_anew() {}
inline void show() {}
#endif
struct Internal {
  Internal() { hide(); }
  ~Internal() { show(); }
};
}
