// Device memory: each buffer ends at pages that fault (but for less than 16 bytes of alignment) and starts as 0xFF.
#pragma once
#include "host/machine.hpp"
#include <stdio.h>
#include <sys/mman.h>
#include <map>

namespace emulate {
constexpr size_t kPage = 4096;
constexpr size_t kGuard = 1 << 20;
// Beyond it a buffer's pages come into being as zeros when they are touched, so that a test may have more of them than the machine.
constexpr size_t kSparse = 64 << 20;

struct Buffer {
  uint8_t *start, *end;            // of the pages that do not fault
  size_t bytes;
};
inline std::mutex buffers_lock;
inline std::map<uint8_t*, Buffer> buffers;

inline uint8_t* map_guarded(size_t pages) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* map = mmap(nullptr, pages + 2 * kGuard, PROT_NONE, flags, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  uint8_t* start = static_cast<uint8_t*>(map) + kGuard;
  unpoison(start, pages);          // an earlier mapping may have left its marks
  if (mprotect(start, pages, PROT_READ | PROT_WRITE) == 0) return start;
  munmap(map, pages + 2 * kGuard);
  return nullptr;
}

inline void* allocate(size_t bytes) {
  if (bytes > size_t(1) << 46) return nullptr;
  size_t padded = (bytes + 15) / 16 * 16, pages = (padded + kPage - 1) / kPage * kPage;
  uint8_t* start = map_guarded(pages);
  if (!start) return nullptr;
  uint8_t *end = start + pages, *base = end - padded;
  if (bytes <= kSparse) memset(start, 0xff, pages);
  else memset(start, 0xff, size_t(base - start)), memset(base + bytes, 0xff, padded - bytes);
  std::lock_guard<std::mutex> hold(buffers_lock);
  buffers[base] = {start, end, bytes};
  return base;
}

// 0; 1: something was written beside it; 2: it is no buffer.
inline int release(void* at) {
  std::lock_guard<std::mutex> hold(buffers_lock);
  uint8_t* base = static_cast<uint8_t*>(at);
  auto found = buffers.find(base);
  if (found == buffers.end()) return 2;
  Buffer b = found->second;
  auto untouched = [](uint8_t* from, uint8_t* to) {
    while (from < to && *from == 0xff) from++;
    return from == to;
  };
  bool clean = untouched(b.start, base) && untouched(base + b.bytes, b.end);
  munmap(b.start - kGuard, size_t(b.end - b.start) + 2 * kGuard);
  buffers.erase(found);
  return clean ? 0 : 1;
}

// What an address that faulted lies beside.
inline std::string around(const uint8_t* p) {
  char text[160];
  {
    std::lock_guard<std::mutex> hold(buffers_lock);
    for (auto& [base, b] : buffers)
      if (p >= b.start - kGuard && p < b.end + kGuard) {
        snprintf(text, sizeof text, "%ld bytes from the start of a buffer of %zu bytes", long(p - base), b.bytes);
        return text;
      }
  }
  const Block& block = *self->block;
  if (p >= block.window - kGuard && p < block.window + kWindow + kGuard) {
    long offset = long(p - block.window) - long(block.dynamic_base);
    snprintf(text, sizeof text, "%ld bytes from the start of %u bytes of dynamic shared memory", offset, block.dynamic_end - block.dynamic_base);
    return text;
  }
  if (p < self->context.stack && p >= self->context.stack - kPage) return "the emulated thread's stack is full";
  return "in no buffer";
}

void check_global(const void* p, size_t bytes, const char* what, Site at) {
  std::unique_lock<std::mutex> hold(buffers_lock);
  uint8_t* from = const_cast<uint8_t*>(static_cast<const uint8_t*>(p));
  auto next = buffers.upper_bound(from);
  bool inside = next != buffers.begin() && from + bytes <= std::prev(next)->first + std::prev(next)->second.bytes;
  hold.unlock();                   // a failing fiber never comes back to do it
  if (!inside) fail(at, "%s: %zu bytes at global address %p lie outside every buffer", what, bytes, p);
}
}
