// Shared memory: a window of the block's own, in which a 32-bit shared address is an offset, as on the GPU. All of it starts as 0xFF: NaN in
// every floating-point format, -1 as an index.
#pragma once
#include "host/schedule.hpp"

namespace emulate {
inline uint8_t* shared(uint32_t address, uint32_t bytes, uint32_t align, const char* what, Site at, Block* block = nullptr) {
  Internal hidden;
  Block& b = block ? *block : *self->block;
  bool inside = (address >= b.dynamic_base && address + bytes <= b.dynamic_end) ||
                (address >= kFirstShared && address + bytes <= b.static_top);
  if (!inside)
    fail(at, "%s: shared address 0x%x (+%u bytes) lies outside shared memory [0x%x,0x%x) and [0x%x,0x%x)", what, address, bytes,
         kFirstShared, b.static_top, b.dynamic_base, b.dynamic_end);
  if (address % align) fail(at, "%s: shared address 0x%x is not aligned to %u bytes", what, address, align);
  return b.window + address;
}

inline uint32_t shared_address(const void* p, Site at) {
  Internal hidden;
  ptrdiff_t offset = static_cast<const uint8_t*>(p) - self->block->window;
  if (offset < 0 || offset > ptrdiff_t(kWindow)) fail(at, "shared_u32: %p does not point to shared memory", p);
  return uint32_t(offset);
}

inline unsigned char* dynamic_shared() {
  Internal hidden;
  return self->block->window + self->block->dynamic_base;
}

// A static array: one place in the block's window for each declaration, which `key` names.
inline void* static_shared(const void* key, size_t bytes, size_t align, Site at) {
  Internal hidden;
  Block& b = *self->block;
  auto found = b.statics.find(key);
  if (found != b.statics.end()) return b.window + found->second;
  uint32_t base = uint32_t((b.static_top + align - 1) / align * align);
  size_t total = base + bytes - kFirstShared + worker->launch->shared_bytes;
  if (total > settings().shared_limit || base + bytes > b.dynamic_base)
    fail(at, "%zu bytes of shared memory, static and dynamic, where a block has %u", total, settings().shared_limit);
  b.static_top = uint32_t(base + bytes);
  unpoison(b.window + base, bytes);
  b.statics.emplace(key, base);
  return b.window + base;
}

// What threads write has to pass fence.proxy.async before wgmma reads it.
inline void mark_generic_write(Fiber* f, uint32_t address, uint32_t bytes) {
  Internal hidden;
  for (uint32_t g = address / kGranule; g <= (address + bytes - 1) / kGranule; g++) {
    f->block->unfenced[g] = uint16_t(f->linear + 1);
    f->unfenced.push_back(g);
  }
}

// Whether global memory is there, for the asynchronous engines, which read on a thread's behalf.
void check_global(const void* p, size_t bytes, const char* what, Site at);
}
