// Launches, and the C interface of the emulation: defined once, for all kernels.
#pragma once
#include "host/grid.hpp"
#include "host/kernel.hpp"
#include <thread>

namespace emulate {
static thread_local Settings next_settings;       // of the launches of this thread
static thread_local std::string error;            // of its last

// A launch that has begun. The first blocks of a dependent one have run up to their wait, on a thread that is its own: no fiber can move.
struct Begun {
  Launch launch;
  std::thread first;
};

static Begun* begin(const char* name, const unsigned* grid, size_t shared_bytes, const void* args, bool dependent) {
  error.clear();
  auto refuse = [&](const std::string& why) {
    error = name + (": " + why);
    return nullptr;
  };
  auto found = kernels().find(name);
  if (found == kernels().end()) return refuse("there is no such kernel");
  const Kernel& kernel = found->second;
  if (!kernel.threads || kernel.threads > 1024) return refuse("a block has 1 to 1024 threads");
  if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 0x7fffffff || grid[1] > 0xffff || grid[2] > 0xffff)
    return refuse("a grid has at least one block, and at most 2^31 - 1, 65,535 and 65,535 along its three dimensions");
  if (shared_bytes > std::min(next_settings.shared_limit, kMaxShared)) return refuse("more shared memory than a block may have");
  catch_faults();
  auto begun = std::make_unique<Begun>();
  Launch& l = begun->launch;
  l.kernel = found->first.c_str();
  l.at = kernel.at;
  l.grid = {grid[0], grid[1], grid[2]};
  l.block = {kernel.threads, 1, 1};
  l.shared_bytes = uint32_t(shared_bytes);
  l.body = kernel.bind(args);
  l.settings = next_settings;
  if (kThreadSanitizer) l.settings.mode = 0;      // a copy that lands late would be charged to the wrong thread
  l.blocks = uint64_t(grid[0]) * grid[1] * grid[2];
  uint64_t workers = l.settings.os_threads ? l.settings.os_threads : std::max(1u, std::thread::hardware_concurrency());
  l.workers = unsigned(std::min(workers, l.blocks));
  l.dependent = dependent;
  publish(&l);
  if (dependent) {
    begun->first = std::thread(run_worker, &l, 0);
    l.waiting.pass();
  }
  return begun.release();
}

// Runs what is left of it, now that the launches ahead have ended; or else nothing more of it.
static int end(Begun* begun, bool run) {
  std::unique_ptr<Begun> owned(begun);
  Launch& l = begun->launch;
  if (!run) l.failed = true;
  l.ahead_ended = true;
  publish(&l.ahead_ended);
  publish(&l);
  std::vector<std::thread> others;
  for (unsigned i = 1, n = l.workers; i < n && run; i++) others.emplace_back(run_worker, &l, i);
  l.going.open();
  if (l.dependent) begun->first.join();
  else run_worker(&l, 0);
  for (auto& other : others) other.join();
  observe(&l.next);
  error = l.error;
  return l.failed ? 1 : 0;
}
}

extern "C" {
// How this thread's launches run from now on.
void emulate_configure(unsigned os_threads, uint64_t seed, int mode, unsigned shared_limit, int cooperative) {
  emulate::next_settings = {os_threads, seed, mode, shared_limit, cooperative != 0};
}

// A launch that is to be ended once; none if it is refused, and emulate_error() says why until this thread's next launch. A dependent one
// is begun before the launch ahead of it is ended: its first blocks run at once, up to where they wait.
void* emulate_begin(const char* kernel, const unsigned* grid, size_t shared_bytes, const void* args, int dependent) {
  return emulate::begin(kernel, grid, shared_bytes, args, dependent != 0);
}
// Runs it to its end, or (`run` is 0) leaves it where it stands. 0, or 1: it failed, and emulate_error() says why.
int emulate_end(void* launch, int run) { return emulate::end(static_cast<emulate::Begun*>(launch), run != 0); }
const char* emulate_error() { return emulate::error.c_str(); }

// What the kernel of that number was registered with; 0 past the last.
int emulate_kernel(int number, const char** name, unsigned* threads, size_t* args_bytes) {
  auto& all = emulate::kernels();
  if (number < 0 || size_t(number) >= all.size()) return 0;
  auto at = std::next(all.begin(), number);
  *name = at->first.c_str();
  *threads = at->second.threads;
  *args_bytes = at->second.args_bytes;
  return 1;
}

void* emulate_malloc(size_t bytes) { return emulate::allocate(bytes); }
int emulate_free(void* at) { return emulate::release(at); }

// As cuTensorMapEncodeTiled, which needs a driver, with a part of its checks: 16-byte alignment, boxes of at most 256, a row of at most
// 128 bytes when swizzled. `element` is the size of one in bytes. 0 is success.
int emulate_tensor_map(void* out, unsigned element, unsigned rank, const void* base, const uint64_t* dims, const uint64_t* strides,
                       const uint32_t* box, int swizzle_128) {
  emulate::TensorMapFields t{};
  bool fine = (element == 2 || element == 4) && rank >= 1 && rank <= 5 && uintptr_t(base) % 16 == 0 && base;
  for (unsigned i = 0; fine && i < rank; i++) {
    fine = dims[i] >= 1 && dims[i] <= 1ull << 32 && box[i] >= 1 && box[i] <= 256;
    t.dim[i] = uint32_t(dims[i]);
    t.box[i] = uint16_t(box[i]);
    if (i + 1 < rank) {
      fine = fine && strides[i] % 16 == 0 && strides[i] < 1ull << 40;
      t.stride[i] = strides[i];
    }
  }
  if (!fine || box[0] * element % 16 || (swizzle_128 && box[0] * element > 128)) return 1;
  t.magic = emulate::kTensorMap;
  t.element = uint8_t(element);
  t.rank = uint8_t(rank);
  t.swizzle = swizzle_128 ? emulate::kSwizzle128 : 0;
  t.base = uintptr_t(base);
  memset(out, 0, 128);
  memcpy(out, &t, sizeof t);
  return 0;
}
}
