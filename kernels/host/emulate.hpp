// Run CUDA kernels on the CPU: the execution model.
//
// Every CUDA thread is a fiber. All fibers of a block run on one OS thread and
// hand over to each other only where the GPU would make them wait for each
// other (barriers, warp collectives, mbarriers, polling loads), so a plain load or
// store is a plain C++ load or store. The blocks of a grid are shared out over
// OS threads.
//
// What is checked while it runs: shared addresses (bounds, alignment), use of
// fresh memory (all of it starts as NaN), deadlock, mismatched barriers,
// diverged collectives, pages around device buffers. The order in which fibers
// run and the moment at which asynchronous work lands are chosen by a seed.
#pragma once
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif
#if defined(EMULATE_UCONTEXT)
#include <ucontext.h>
#endif

struct uint3 { unsigned x, y, z; };

namespace emulate {

// ---------------------------------------------------------------- sites, failure
// Where in the kernel source a call stands; a defaulted last argument of every
// function that can wait or fail.
struct Site {
  const char* file; int line;
  static constexpr Site here(const char* f = __builtin_FILE(), int l = __builtin_LINE()) { return {f, l}; }
};

// Failure ends the launch: the message is kept and every fiber abandoned.
[[noreturn]] void fail(Site at, const char* format, ...) __attribute__((format(printf, 2, 3)));

// ---------------------------------------------------------------- context switch
struct Context {
  void* sp = nullptr;
  uint8_t* stack = nullptr; size_t stack_bytes = 0;   // empty for an OS thread's own stack
  void* tsan = nullptr; bool ended = false;           // ThreadSanitizer's name for it
  void* fake = nullptr;                               // AddressSanitizer's side stack
#if defined(EMULATE_UCONTEXT)
  ucontext_t uc;
#endif
};

#if !defined(EMULATE_UCONTEXT)
#if !defined(__x86_64__)
#error "no hand-written switch for this machine: build with -DEMULATE_UCONTEXT"
#endif
extern "C" void emulate_switch(void** save_sp, void* load_sp);
// System V x86-64: only these six registers and the stack pointer outlive a call.
asm(R"(.text
.weak emulate_switch
.type emulate_switch,@function
emulate_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulate_switch,.-emulate_switch
)");
#endif

inline void arrived_on(Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(to.fake, nullptr, nullptr);
#endif
  (void)to;
}
inline void switch_to(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake, to.stack, to.stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(EMULATE_UCONTEXT)
  swapcontext(&from.uc, &to.uc);
#else
  emulate_switch(&from.sp, to.sp);
#endif
  arrived_on(from);
}
inline void prepare(Context& c, void (*entry)()) {   // entry never returns
#if defined(EMULATE_UCONTEXT)
  getcontext(&c.uc);
  c.uc.uc_stack.ss_sp = c.stack; c.uc.uc_stack.ss_size = c.stack_bytes; c.uc.uc_link = nullptr;
  makecontext(&c.uc, entry, 0);
#else
  void** top = reinterpret_cast<void**>(c.stack + c.stack_bytes);
  top[-1] = nullptr;                                 // entry's return address
  top[-2] = reinterpret_cast<void*>(entry);
  c.sp = top - 8;                                    // six registers below
#endif
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(c.stack, c.stack_bytes);
  c.fake = nullptr;
#endif
#if defined(__SANITIZE_THREAD__)
  if (!c.ended) c.tsan = __tsan_create_fiber(0);  // (an abandoned one is lost: it cannot be ended)
#endif
}

// Happens-before edges for ThreadSanitizer, which then finds races between fibers.
// The emulator's own state is shared by all fibers without locks (they never run at the
// same time), so its accesses are hidden; those made for the kernel are shown again.
#if defined(__SANITIZE_THREAD__)
extern "C" { void AnnotateIgnoreReadsBegin(const char*, int); void AnnotateIgnoreReadsEnd(const char*, int);
             void AnnotateIgnoreWritesBegin(const char*, int); void AnnotateIgnoreWritesEnd(const char*, int); }
inline void publish(void* at) { __tsan_release(at); }
inline void observe(void* at) { __tsan_acquire(at); }
int& hidden();                                   // how deep the current fiber is in the emulator
inline void hide() { if (hidden()++ == 0) { AnnotateIgnoreReadsBegin("", 0); AnnotateIgnoreWritesBegin("", 0); } }
inline void show() { if (--hidden() == 0) { AnnotateIgnoreReadsEnd("", 0); AnnotateIgnoreWritesEnd("", 0); } }
struct ForKernel {
  int depth;
  ForKernel() : depth(hidden()) { while (hidden()) show(); }
  ~ForKernel() { while (hidden() < depth) hide(); }
};
#else
struct ForKernel { ForKernel() {} };
inline void publish(void*) {}
inline void observe(void*) {}
inline void hide() {}
inline void show() {}
#endif
struct Internal { Internal() { hide(); } ~Internal() { show(); } };

// ---------------------------------------------------------------- settings
struct Settings {
  unsigned os_threads = 0;        // 0: as many as the machine has
  uint64_t seed = 0;              // 0 forward, 1 backward, others shuffled
  int async = 0;                  // 0 lands at issue, 1 as late as allowed, 2 at random
  unsigned resident = 1024;       // blocks one OS thread may hold while others poll
  double stall_seconds = 10;      // polling this long without progress is a deadlock
};
inline thread_local Settings settings;           // of the thread that launches; a launch keeps a copy

// ---------------------------------------------------------------- the machine
constexpr uint32_t kWindow = 228 * 1024;        // shared memory with the system's first KiB
constexpr uint32_t kFirstShared = 1024;
constexpr uint32_t kMaxShared = 227 * 1024;     // what one block may have on sm_90
constexpr size_t kStack = 256 * 1024;
constexpr uint32_t kGranule = 16;

struct Block; struct Warp; struct Warpgroup; struct Worker;

struct Copy {                                   // a cp.async, a group's end or an arrival
  enum Kind : uint8_t { Data, Commit, Arrive } kind;
  uint32_t dst, bytes, filled; const void* src; Site at;
};

struct Fiber {                                  // one CUDA thread
  Context context;
  uint3 thread_idx; unsigned linear, lane;
  Block* block; Warp* warp; Warpgroup* group;
  bool done; int hidden = 0;
  const char* waits_for; Site waits_at; uint64_t wait_a, wait_b;   // for wake-ups and reports
  std::deque<Copy> copies; unsigned open_groups;
  std::vector<uint32_t> unfenced;               // granules written since the last proxy fence
  uint64_t wgmma_issued; std::vector<uint64_t> wgmma_groups; bool wgmma_fenced;
};

// (tags: addresses for happens-before edges; one for each round, or a thread that wakes late
// would seem to have seen what others did after that round)
struct Rendezvous { unsigned mask, here; const char* name; Site at; char* tag; void* slot[32]; };
struct Warp { std::vector<Rendezvous> open; Fiber* first; unsigned lanes, rounds; char tags[64]; };
struct Barrier { unsigned expected, here, rounds; char tags[2]; };

struct Wgmma { std::function<void(float* const*)> run; unsigned here; uint64_t a, b; const char* name; float* d[128]; };
struct Warpgroup { std::deque<Wgmma> queue; uint64_t first_queued, done; };

struct Launch {
  const char* kernel; uint3 grid, block; uint32_t smem; std::function<void()> body; Settings settings; std::string error;
  std::atomic<uint64_t> next{0}; uint64_t blocks;
  std::atomic<bool> failed{false}; std::atomic<uint64_t> progress{0};
};

struct Block {
  uint3 idx; uint64_t linear; unsigned threads, live;
  uint8_t* window = nullptr; uint32_t static_top, dynamic_base, dynamic_end;
  std::vector<Fiber> fibers; std::vector<Warp> warps; std::vector<Warpgroup> groups;
  Barrier barriers[16];
  std::vector<std::function<void()>> bulk;      // TMA loads on their way
  size_t copies;                                // cp.async entries on their way
  std::vector<uint16_t> unfenced;               // per granule: 1 + thread of an unfenced write
  std::unordered_map<const void*, uint32_t> statics;
};

struct Worker {
  Context scheduler; Launch* launch; uint64_t random;
  std::vector<Fiber*> ready, polling; size_t head = 0;
  std::vector<Block*> active, spare;
};

inline __thread Worker* worker = nullptr;
inline __thread Fiber* self = nullptr;
#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"))) inline int& hidden() { static __thread int scheduler; return self ? self->hidden : scheduler; }
#endif
inline std::mutex error_lock;
inline thread_local std::string error_text;      // of the thread that launched

inline uint32_t random32() {
  uint64_t& s = worker->random;
  s ^= s << 13; s ^= s >> 7; s ^= s << 17;
  return uint32_t(s >> 16);
}

// ---------------------------------------------------------------- scheduling
inline void make_ready(Fiber* f) { f->waits_for = nullptr; worker->ready.push_back(f); }

inline Fiber* pick() {
  Worker& w = *worker;
  size_t n = w.ready.size() - w.head;
  if (!n) return nullptr;
  Fiber* f;
  if (worker->launch->settings.seed == 0) {                      // in order of becoming ready
    f = w.ready[w.head++];
    if (w.head == w.ready.size()) { w.ready.clear(); w.head = 0; }
  } else {                                       // the last, or any
    size_t i = w.head + (worker->launch->settings.seed == 1 ? n - 1 : random32() % n);
    f = w.ready[i]; w.ready[i] = w.ready.back(); w.ready.pop_back();
  }
  return f;
}

bool land_something(Block* b);                   // one step of pending asynchronous work

// Leaves the current fiber (which is on some list, waits for a wake-up, or is done).
inline void leave() {
  Fiber* from = self;
  if (worker->launch->settings.async == 2 && random32() % 8 == 0) land_something(from->block);
  Fiber* to = pick();
  if (to == from) return;
  self = to;
  switch_to(from->context, to ? to->context : worker->scheduler);
}
inline void wait_here(const char* what, Site at, uint64_t a = 0, uint64_t b = 0) {
  self->waits_for = what; self->waits_at = at; self->wait_a = a; self->wait_b = b;
  leave();
}
// Lets the others run: for loops that poll global memory, and for shaking the order.
inline void poll_yield() { Internal hidden; worker->polling.push_back(self); leave(); }
inline void shake() {
  Internal hidden;
  if (worker->launch->settings.seed > 1 && random32() % 4 == 0) { worker->ready.push_back(self); leave(); }
}

[[noreturn]] inline void fail(Site at, const char* format, ...) {
  char text[4096];
  va_list args; va_start(args, format); vsnprintf(text, sizeof text, format, args); va_end(args);
  const char* file = strrchr(at.file, '/') ? strrchr(at.file, '/') + 1 : at.file;
  char head[256] = "";
  if (self) snprintf(head, sizeof head, "%s: block (%u,%u,%u) thread (%u,%u,%u)", worker->launch->kernel,
                     self->block->idx.x, self->block->idx.y, self->block->idx.z,
                     self->thread_idx.x, self->thread_idx.y, self->thread_idx.z);
  else snprintf(head, sizeof head, "%s", worker ? worker->launch->kernel : "launch");
  { std::lock_guard<std::mutex> hold(error_lock);
    std::string& kept = worker ? worker->launch->error : error_text;
    if (kept.empty()) kept = std::string(head) + " at " + file + ":" + std::to_string(at.line) + ": " + text; }
  if (!worker) { fprintf(stderr, "%s\n", error_text.c_str()); abort(); }
  worker->launch->failed = true;
  if (self) { Fiber* from = self; self = nullptr; switch_to(from->context, worker->scheduler); }
  throw 0;                                       // only from the scheduler itself
}

// ---------------------------------------------------------------- shared memory
inline uint8_t* shared(uint32_t address, uint32_t bytes, uint32_t align, const char* what, Site at, Block* b = nullptr) {
  Internal hidden;
  if (!b) b = self->block;
  bool inside = (address >= b->dynamic_base && address + bytes <= b->dynamic_end) ||
                (address >= kFirstShared && address + bytes <= b->static_top);
  if (!inside) fail(at, "%s: shared address 0x%x (+%u bytes) lies outside shared memory [0x%x,0x%x) and [0x%x,0x%x)", what,
                    address, bytes, kFirstShared, b->static_top, b->dynamic_base, b->dynamic_end);
  if (address % align) fail(at, "%s: shared address 0x%x is not aligned to %u bytes", what, address, align);
  return b->window + address;
}
inline uint32_t shared_address(const void* p, Site at = Site::here()) {
  Internal hidden;
  ptrdiff_t offset = static_cast<const uint8_t*>(p) - self->block->window;
  if (offset < 0 || offset > ptrdiff_t(kWindow)) fail(at, "shared_address: %p does not point to shared memory", p);
  return uint32_t(offset);
}
inline void* dynamic_shared() { Internal hidden; return self->block->window + self->block->dynamic_base; }
// A static __shared__ array: one place in the block's window for each declaration.
inline void* static_shared(const void* key, size_t bytes, size_t align, Site at) {
  Internal hidden;
  Block& b = *self->block;
  auto found = b.statics.find(key);
  if (found != b.statics.end()) return b.window + found->second;
  uint32_t base = uint32_t((b.static_top + align - 1) / align * align);
  if (base + bytes > b.dynamic_base) fail(at, "static and dynamic shared memory together exceed %u bytes", kMaxShared);
  b.static_top = uint32_t(base + bytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(b.window + base, bytes);
#endif
  b.statics.emplace(key, base);
  return b.window + base;
}
// Writes through the generic proxy need fence.proxy.async before wgmma or TMA read them.
inline void mark_generic_write(Fiber* f, uint32_t address, uint32_t bytes) {
  Internal hidden;
  for (uint32_t g = address / kGranule; g <= (address + bytes - 1) / kGranule; g++) {
    f->block->unfenced[g] = uint16_t(f->linear + 1); f->unfenced.push_back(g);
  }
}

// ---------------------------------------------------------------- barriers
inline void wake(Block* b, const char* what, uint64_t a) {
  for (unsigned i = 0; i < b->threads; i++) {
    Fiber& f = b->fibers[i];
    if (f.waits_for == what && f.wait_a == a) make_ready(&f);
  }
}
inline const char kBarrier[] = "barrier", kCollective[] = "collective", kMbarrier[] = "mbarrier", kWgmma[] = "wgmma";

inline void barrier(unsigned id, unsigned threads, bool wait, Site at) {
  Internal hidden;
  Block& b = *self->block;
  if (id > 15) fail(at, "barrier %u: there are 16", id);
  if (threads % 32 || threads == 0 || threads > (b.threads + 31) / 32 * 32)
    fail(at, "barrier %u: thread count %u must be a multiple of 32 within the block's %u", id, threads, b.threads);
  Barrier& s = b.barriers[id];
  if (s.here && s.expected != threads)
    fail(at, "barrier %u: arrives with a count of %u, others with %u", id, threads, s.expected);
  s.expected = threads;
  char* tag = &s.tags[s.rounds % 2];
  publish(tag);
  unsigned full = threads < b.threads ? threads : b.threads;   // a last, partial warp
  if (++s.here == full) { s.here = 0; s.rounds++; wake(&b, kBarrier, id); if (wait) observe(tag); return; }
  if (wait) { wait_here(kBarrier, at, id); observe(tag); }
}

// The lanes in `mask` meet; each brings a pointer, and the last to come runs `body`.
template <class Body>
inline void collective(unsigned mask, const char* name, void* mine, Site at, Body body) {
  Internal hidden;
  Warp& w = *self->warp;
  if (!(mask >> self->lane & 1)) fail(at, "%s: lane %u is not in its own mask 0x%08x", name, self->lane, mask);
  mask &= w.lanes == 32 ? ~0u : (1u << w.lanes) - 1;
  Rendezvous* r = nullptr;
  for (Rendezvous& o : w.open) if (o.mask == mask) r = &o;   // (other masks may be waiting too)
  if (!r) { w.open.push_back({mask, 0, name, at, &w.tags[w.rounds++ % 64], {}}); r = &w.open.back(); }
  if (strcmp(r->name, name)) fail(at, "lanes diverge: %s here, %s at line %d", name, r->name, r->at.line);
  r->here |= 1u << self->lane; r->slot[self->lane] = mine;
  char* tag = r->tag;
  publish(tag);
  if (r->here == mask) {
    Rendezvous full = *r;
    w.open.erase(w.open.begin() + (r - w.open.data()));
    observe(tag);
    body(full.slot);
    for (unsigned l = 0; l < 32; l++) if ((mask >> l & 1) && l != self->lane) make_ready(w.first + l);
    if (worker->launch->settings.seed) { worker->ready.push_back(self); leave(); }
  } else {
    wait_here(kCollective, at, uint64_t(self->warp - self->block->warps.data()), reinterpret_cast<uint64_t>(name));
    observe(tag);
  }
}

// ---------------------------------------------------------------- running a grid
inline void fiber_main() {
  arrived_on(self->context);
  if (!self->context.ended) { self->hidden = 0; hide(); }   // (one that ended is still hidden)
  self->context.ended = false;
  observe(&self->block->threads);
  show();
  worker->launch->body();
  publish(&self->block->live);                   // (its end is seen only once the whole block has ended)
  hide();
  self->done = self->context.ended = true; self->block->live--;
  leave();                                       // never comes back
  abort();
}

inline void start_block(Worker& w, uint64_t linear) {
  Launch& l = *w.launch;
  Block* b;
  if (w.spare.empty()) b = new Block; else { b = w.spare.back(); w.spare.pop_back(); }
  b->linear = linear;
  b->idx = {unsigned(linear % l.grid.x), unsigned(linear / l.grid.x % l.grid.y), unsigned(linear / l.grid.x / l.grid.y)};
  b->threads = b->live = l.block.x * l.block.y * l.block.z;
  if (!b->window) {
    size_t guard = 1 << 20;
    uint8_t* p = static_cast<uint8_t*>(mmap(nullptr, kWindow + 2 * guard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    mprotect(p + guard, kWindow, PROT_READ | PROT_WRITE);
    b->window = p + guard;
    b->unfenced.resize(kWindow / kGranule + 1);
  }
  // The dynamic part ends at the guard pages (but for up to 1023 bytes of alignment).
  b->dynamic_base = (kWindow - l.smem) / 1024 * 1024; b->dynamic_end = b->dynamic_base + l.smem;
  b->static_top = kFirstShared; b->statics.clear();
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(b->window, kWindow);
#endif
  memset(b->window, 0xff, kWindow);              // NaN in every format, -1 as an index
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(b->window, kWindow);
  __asan_unpoison_memory_region(b->window + b->dynamic_base, l.smem);
#endif
  std::fill(b->unfenced.begin(), b->unfenced.end(), 0);
  memset(b->barriers, 0, sizeof b->barriers);
  b->bulk.clear(); b->copies = 0;
  unsigned warps = (b->threads + 31) / 32;
  if (b->fibers.size() < b->threads) b->fibers.resize(b->threads);   // stacks are kept for later blocks
  b->warps.assign(warps, Warp{}); b->groups.assign((warps + 3) / 4, Warpgroup{});
  for (unsigned i = 0; i < b->threads; i++) {
    Fiber& f = b->fibers[i];
    f.thread_idx = {i % l.block.x, i / l.block.x % l.block.y, i / l.block.x / l.block.y};
    f.linear = i; f.lane = i % 32; f.block = b; f.warp = &b->warps[i / 32]; f.group = &b->groups[i / 128];
    if (f.lane == 0) f.warp->first = &f;
    f.warp->lanes = f.lane + 1;
    f.done = false; f.waits_for = nullptr; f.copies.clear(); f.open_groups = 0; f.unfenced.clear();
    f.wgmma_issued = 0; f.wgmma_groups.clear(); f.wgmma_fenced = false;
    if (!f.context.stack) {
      uint8_t* p = static_cast<uint8_t*>(mmap(nullptr, kStack + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      mprotect(p, 4096, PROT_NONE);
      f.context.stack = p + 4096; f.context.stack_bytes = kStack;
    }
    prepare(f.context, fiber_main);
    w.ready.push_back(&f);
  }
  publish(&b->threads);
  w.active.push_back(b);
}

[[noreturn]] inline void report_deadlock(Worker& w) {
  std::string text = "deadlock:";
  char line[512];
  for (Block* b : w.active) {
    unsigned done = 0;
    for (unsigned i = 0; i < b->threads;) {
      Fiber& f = b->fibers[i];
      unsigned j = i + 1;
      if (f.done) { done++; i++; continue; }
      while (j < b->threads && !b->fibers[j].done && b->fibers[j].waits_for == f.waits_for && b->fibers[j].wait_a == f.wait_a &&
             b->fibers[j].waits_at.line == f.waits_at.line) j++;
      char what[256] = "polls";
      if (f.waits_for == kBarrier) snprintf(what, sizeof what, "wait at barrier %lu (%u of %u there)", (unsigned long)f.wait_a, b->barriers[f.wait_a].here, b->barriers[f.wait_a].expected);
      else if (f.waits_for == kMbarrier) {
        uint64_t m; memcpy(&m, b->window + f.wait_a, 8);
        snprintf(what, sizeof what, "wait for parity %lu of mbarrier 0x%lx (phase %lu, %lu arrivals and %ld bytes to come)", (unsigned long)f.wait_b,
                 (unsigned long)f.wait_a, (unsigned long)(m & 1), (unsigned long)(m >> 1 & 0xfffff), long(int64_t(m << 2) >> 43));
      } else if (f.waits_for == kCollective) snprintf(what, sizeof what, "wait in %s for other lanes", reinterpret_cast<const char*>(f.wait_b));
      else if (f.waits_for == kWgmma) snprintf(what, sizeof what, "wait for a wgmma that not all of the warpgroup issued");
      if (text.size() < 2500) {
        snprintf(line, sizeof line, "\n  block (%u,%u,%u) threads %u-%u %s at line %d", b->idx.x, b->idx.y, b->idx.z, i, j - 1, what, f.waits_at.line);
        text += line;
      }
      i = j;
    }
    if (done && text.size() < 2500) { snprintf(line, sizeof line, "\n  block (%u,%u,%u): %u threads have returned", b->idx.x, b->idx.y, b->idx.z, done); text += line; }
  }
  fail(Site{"", 0}, "%s", text.c_str());
}

inline std::vector<Worker*>& idle_workers() { static auto* v = new std::vector<Worker*>; return *v; }   // kept for their blocks' stacks
inline std::mutex idle_lock;

inline void run_worker(Launch* l, uint64_t number) {
  Internal hidden;
  {
    std::lock_guard<std::mutex> hold(idle_lock);
    if (idle_workers().empty()) worker = new Worker; else { worker = idle_workers().back(); idle_workers().pop_back(); }
  }
  Worker& w = *worker; self = nullptr;
  observe(l);
  w.launch = l; w.ready.clear(); w.head = 0; w.polling.clear(); w.active.clear();
  w.random = 0x9e3779b97f4a7c15ull * (worker->launch->settings.seed * 64 + number + 1);
#if defined(__SANITIZE_THREAD__)
  w.scheduler.tsan = __tsan_get_current_fiber();
#endif
#if defined(__SANITIZE_ADDRESS__)
  pthread_attr_t attr; void* bottom; size_t bytes;
  pthread_getattr_np(pthread_self(), &attr); pthread_attr_getstack(&attr, &bottom, &bytes); pthread_attr_destroy(&attr);
  w.scheduler.stack = static_cast<uint8_t*>(bottom); w.scheduler.stack_bytes = bytes;
#endif
  auto stalled_since = std::chrono::steady_clock::now(); uint64_t seen = ~0ull;
  auto next_block = [&] {
    uint64_t i = l->next++;
    if (i >= l->blocks) return false;
    if (worker->launch->settings.seed == 1) i = l->blocks - 1 - i;
    start_block(w, i);
    return true;
  };
  auto finish = [&](Block* b) {
    for (uint32_t i = b->dynamic_end; i < kWindow; i++) {
#if defined(__SANITIZE_ADDRESS__)
      break;
#endif
      if (b->window[i] != 0xff) { self = nullptr; fail(Site{"", 0}, "block (%u,%u,%u) wrote past the end of dynamic shared memory (0x%x)", b->idx.x, b->idx.y, b->idx.z, i); }
    }
    observe(&b->live);
    w.spare.push_back(b);
    l->progress++;
  };
  try {
    while (!l->failed) {
      if (Fiber* f = pick()) {
        self = f; switch_to(w.scheduler, f->context); self = nullptr;
        continue;
      }
      bool moved = false;
      for (size_t i = 0; i < w.active.size();) {
        Block* b = w.active[i];
        if (!b->live) { w.active.erase(w.active.begin() + i); finish(b); moved = true; continue; }
        if (land_something(b)) { moved = true; break; }
        i++;
      }
      if (moved) continue;
      if (w.active.empty()) { if (next_block()) continue; break; }
      if (!w.polling.empty()) {                  // polling for another block's work: let it in
        if (w.active.size() < worker->launch->settings.resident) next_block();
        if (l->progress != seen) { seen = l->progress; stalled_since = std::chrono::steady_clock::now(); }
        if (std::chrono::duration<double>(std::chrono::steady_clock::now() - stalled_since).count() > worker->launch->settings.stall_seconds) report_deadlock(w);
        std::vector<Fiber*> again; again.swap(w.polling);
        for (Fiber* f : again) w.ready.push_back(f);
        continue;
      }
      report_deadlock(w);
    }
  } catch (int) {}
  if (l->failed) { for (Block* b : w.active) w.spare.push_back(b); w.active.clear(); }
  publish(&l->next);
  std::lock_guard<std::mutex> hold(idle_lock);
  idle_workers().push_back(&w);
  self = nullptr; worker = nullptr;
}

// ---------------------------------------------------------------- device memory
// Each buffer ends at pages that fault (but for < 16 bytes of alignment) and starts as NaN.
constexpr size_t kGuard = 1 << 20;
struct Buffer { size_t bytes, mapped; uint8_t* map; };
inline std::mutex buffers_lock;
inline std::map<uintptr_t, Buffer> buffers;

inline const char* buffer_around(const void* p) {
  static thread_local char text[160];
  std::lock_guard<std::mutex> hold(buffers_lock);
  for (auto& [base, b] : buffers)
    if (uintptr_t(p) >= uintptr_t(b.map) && uintptr_t(p) < uintptr_t(b.map) + b.mapped) {
      snprintf(text, sizeof text, "%ld bytes from the start of a buffer of %zu bytes", long(uintptr_t(p) - base), b.bytes);
      return text;
    }
  ptrdiff_t offset = static_cast<const uint8_t*>(p) - self->block->window;
  if (offset > -(1 << 20) && offset < (1 << 20) + ptrdiff_t(kWindow)) { snprintf(text, sizeof text, "beside shared memory (address %ld)", long(offset)); return text; }
  offset = static_cast<const uint8_t*>(p) - self->context.stack;
  if (offset >= -4096 && offset < 0) return "the emulated thread's stack is full";
  return "in no buffer";
}
// A check for the asynchronous engines, which read on a thread's behalf.
inline void check_global(const void* p, size_t bytes, const char* what, Site at) {
  std::lock_guard<std::mutex> hold(buffers_lock);
  auto next = buffers.upper_bound(uintptr_t(p));
  if (buffers.empty()) return;                   // a host that brings its own memory
  if (next == buffers.begin() || uintptr_t(p) + bytes > std::prev(next)->first + std::prev(next)->second.bytes)
    fail(at, "%s: %zu bytes at global address %p lie outside every buffer", what, bytes, p);
}

inline void on_fault(int number, siginfo_t* info, void*) {
  if (!worker || !self) { signal(number, SIG_DFL); return; }
  fail(Site{"", 0}, "memory fault at %p, %s", info->si_addr, buffer_around(info->si_addr));
}

// ---------------------------------------------------------------- kernels by name
struct Kernel { std::function<std::function<void()>(const void*)> bind; unsigned threads; size_t args_bytes; };
inline std::map<std::string, Kernel>& kernels() { static std::map<std::string, Kernel> k; return k; }

struct Register {
  template <class Args> Register(const char* name, void (*f)(const Args), unsigned threads) {
    auto bind = [f](const void* args) {
      auto copy = std::make_shared<Args>(*static_cast<const Args*>(args));
      return std::function<void()>([f, copy] { f(*copy); });
    };
    kernels()[name] = {bind, threads, sizeof(Args)};
  }
};

inline int launch(const char* name, const unsigned grid[3], size_t smem, const void* args) {
  error_text.clear();
  auto refuse = [&](std::string why) { error_text = std::string(name) + ": " + why; return 1; };
  auto found = kernels().find(name);
  if (found == kernels().end()) return refuse("no such kernel");
  uint64_t threads = found->second.threads, blocks = uint64_t(grid[0]) * grid[1] * grid[2];
  if (!threads || threads > 1024 || !blocks) return refuse("a block has 1 to 1024 threads, a grid at least one block");
  if (smem > kMaxShared) return refuse("more dynamic shared memory than a block may have");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  static bool handled = [] {
    struct sigaction a {}; a.sa_sigaction = on_fault; a.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &a, nullptr); sigaction(SIGBUS, &a, nullptr);
    return true;
  }();
  (void)handled;
#endif
  Launch l; l.settings = settings;
#if defined(__SANITIZE_THREAD__)
  l.settings.async = 0;                          // work that lands later would be charged to the wrong thread
#endif
  l.kernel = found->first.c_str(); l.grid = {grid[0], grid[1], grid[2]}; l.block = {unsigned(threads), 1, 1};
  l.smem = uint32_t(smem); l.blocks = blocks; l.body = found->second.bind(args);
  publish(&l);
  unsigned n = settings.os_threads ? settings.os_threads : std::max(1u, std::thread::hardware_concurrency());
  n = unsigned(std::min<uint64_t>(n, blocks));
  std::vector<std::thread> others;
  for (unsigned i = 1; i < n; i++) others.emplace_back(run_worker, &l, i);
  run_worker(&l, 0);
  for (auto& t : others) t.join();
  observe(&l.next);
  error_text = l.error;
  return l.failed ? 1 : 0;
}
}  // namespace emulate

// ---------------------------------------------------------------- the C interface
extern "C" {
inline int emulate_launch(const char* kernel, const unsigned* grid, size_t smem, const void* args) {
  return emulate::launch(kernel, grid, smem, args);
}
inline const char* emulate_error() { return emulate::error_text.c_str(); }
inline void emulate_configure(unsigned os_threads, uint64_t seed, int async) {
  emulate::settings.os_threads = os_threads; emulate::settings.seed = seed; emulate::settings.async = async;
}
inline void* emulate_malloc(size_t bytes) {
  size_t padded = (bytes + 15) / 16 * 16, pages = (padded + 4095) / 4096 * 4096, mapped = pages + 2 * emulate::kGuard;
  uint8_t* map = static_cast<uint8_t*>(mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (map == MAP_FAILED) return nullptr;
  mprotect(map + emulate::kGuard, pages, PROT_READ | PROT_WRITE);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(map, mapped);    // an earlier mapping may have left its marks
#endif
  memset(map + emulate::kGuard, 0xff, pages);
  uint8_t* base = map + emulate::kGuard + pages - padded;
  std::lock_guard<std::mutex> hold(emulate::buffers_lock);
  emulate::buffers[uintptr_t(base)] = {bytes, mapped, map};
  return base;
}
inline int emulate_free(void* p) {               // 1: something wrote beside the buffer
  std::lock_guard<std::mutex> hold(emulate::buffers_lock);
  auto at = emulate::buffers.find(uintptr_t(p));
  if (at == emulate::buffers.end()) return 2;
  emulate::Buffer b = at->second;
  uint8_t* end = b.map + b.mapped - emulate::kGuard;
  int bad = 0;
  for (uint8_t* q = b.map + emulate::kGuard; q < end; q++)
    if ((q < p || q >= static_cast<uint8_t*>(p) + b.bytes) && *q != 0xff) bad = 1;
  munmap(b.map, b.mapped);
  emulate::buffers.erase(at);
  return bad;
}
}
#define KERNEL(name, Args, threads, blocks, ...) \
  static void name(const Args p) { __VA_ARGS__; } \
  static emulate::Register register_##name{#name, name, threads};
#define HOPPER_KERNEL(...) KERNEL(__VA_ARGS__)
#define DYNAMIC_SHARED(name) unsigned char* name = static_cast<unsigned char*>(emulate::dynamic_shared())
#define STATIC_SHARED(T, name, n)                                                                     \
  static const char name##_key = 0;                                                                   \
  T* name = static_cast<T*>(emulate::static_shared(&name##_key, sizeof(T) * (n), alignof(T), emulate::Site::here()))
