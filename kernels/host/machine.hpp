// The emulated machine. Every CUDA thread is a fiber; all fibers of a block run on one OS thread and hand over to each other only where the
// GPU would make them wait for each other (barriers, warp collectives, mbarriers, polling loads), so a plain load or store is a plain C++
// load or store. The blocks of a grid are shared out over OS threads ("workers").
#pragma once
#include "host/context.hpp"
#include "host/site.hpp"
#include <string.h>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

struct uint3 { unsigned x, y, z; };

namespace emulate {
constexpr uint32_t kWindow = 228 * 1024;        // a multiprocessor's shared memory on sm_90
constexpr uint32_t kFirstShared = 1024;         // the system's own share of it, which no address may lie in
constexpr uint32_t kMaxShared = kWindow - kFirstShared;
constexpr uint32_t kGranule = 16;               // bytes: what cp.async and wgmma move at least

struct Block;
struct Warp;
struct Warpgroup;

// A cp.async, the end of a group of them, or the arrival that follows them.
struct Copy {
  enum Kind : uint8_t { Data, Commit, Arrive } kind;
  uint32_t to, bytes, filled;
  const void* from;
  Site at;
};

// What a fiber waits for.
enum class Wait : uint8_t { None, Barrier, Collective, Mbarrier, Wgmma, Poll, Launches };

// One CUDA thread.
struct Fiber {
  Context context;
  uint3 thread_idx;
  unsigned linear, lane;
  Block* block;
  Warp* warp;
  Warpgroup* group;
  bool done, followed;                          // followed: it has waited for the launches ahead
  int hidden = 0;
  Wait wait;
  Site wait_at;
  uint64_t wait_for;                            // which barrier, mbarrier, warp or warpgroup
  uint32_t wait_parity;
  std::deque<Copy> copies;
  unsigned open_groups;                         // of cp.async
  std::vector<uint32_t> unfenced;               // granules written since the last proxy fence
  uint64_t wgmma_issued;
  std::vector<uint64_t> wgmma_groups;           // for each open group, how many had been issued when it was closed
  bool wgmma_fenced;
};

// Lanes of a warp on their way into one collective. `tag` names it to ThreadSanitizer: each round needs its own, or a fiber that wakes late
// would seem to have seen what the others did after that round.
struct Rendezvous {
  unsigned mask, here;
  const char* name;
  Site at;
  char* tag;
  void* slot[32];
};

struct Warp {
  std::vector<Rendezvous> open;
  Fiber* first;
  unsigned lanes, rounds;
  char tags[64];
};

struct Barrier {
  unsigned expected, here, rounds;
  char tags[2];
};

struct Wgmma {
  std::function<void(float* const*)> run;
  unsigned here;
  uint64_t a, b;
  const char* name;
  float* d[128];
};

struct Warpgroup {
  std::deque<Wgmma> queue;
  uint64_t first_queued, done;
};

struct Block {
  uint3 idx;
  unsigned threads, live;
  uint8_t* window = nullptr;                    // shared memory, between pages that fault
  uint32_t static_top, dynamic_base, dynamic_end;
  bool soiled = true;                           // the window does not hold 0xFF all over
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Warpgroup> groups;
  Barrier barriers[16];
  std::vector<std::function<void()>> bulk;      // TMA loads on their way
  size_t copies;                                // cp.async on their way
  std::vector<uint16_t> unfenced;               // of each granule: 1 + the thread that wrote it without a proxy fence since
  std::unordered_map<const void*, uint32_t> statics;
};

// Shut until somebody opens it.
struct Gate {
  std::mutex lock;
  std::condition_variable changed;
  bool is_open = false;

  void open() {
    std::lock_guard<std::mutex> hold(lock);
    is_open = true;
    changed.notify_all();
  }
  void pass() {
    std::unique_lock<std::mutex> hold(lock);
    changed.wait(hold, [this] { return is_open; });
  }
};

struct Launch {
  const char* kernel;
  Site at;                                      // its KERNEL line
  uint3 grid, block;
  uint32_t shared_bytes;
  std::function<void()> body;
  Settings settings;
  uint64_t blocks;
  std::atomic<uint64_t> next{0};                // block to run
  std::atomic<bool> failed{false};
  bool dependent = false;                       // its first blocks run up to their wait for the launches ahead before these have ended
  bool ahead_ended = false;
  Gate waiting, going;                          // the first blocks have come so far; they may go on
  std::mutex lock;                              // of what follows
  std::string error;
  unsigned workers = 0;                         // that have not ended
  uint64_t activity = 0;                        // rises when a worker has nothing left but polls
  uint64_t idle_since = 0;                      // the activity since which
  unsigned idle = 0;                            // so many workers polled in vain
};

struct Worker {
  Context scheduler;
  Launch* launch;
  uint64_t random;
  std::vector<Fiber*> ready, polling;
  size_t head = 0;                              // of `ready`
  std::vector<Block*> active, spare;
  bool busy;                                    // something but vain polls happened
  uint64_t polled_since;
  bool counted;                                 // among the launch's idle ones
};

inline __thread Worker* worker = nullptr;
inline __thread Fiber* self = nullptr;

inline const Settings& settings() { return worker->launch->settings; }

inline uint32_t random32() {
  uint64_t& s = worker->random;
  s ^= s << 13;
  s ^= s >> 7;
  s ^= s << 17;
  return uint32_t(s >> 16);
}

#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"))) inline int& hidden() {
  static __thread int scheduler;
  return self ? self->hidden : scheduler;
}
#endif
}
