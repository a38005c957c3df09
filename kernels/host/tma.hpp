// Tensor maps, and the loads that they describe.
#pragma once
#include "host/async.hpp"
#include <array>

namespace emulate {
// What lies in the 128 bytes, which are opaque with the CUDA driver too.
struct TensorMapFields {
  uint32_t magic;
  uint8_t element, rank, swizzle;
  uint64_t base, stride[4];
  uint32_t dim[5];
  uint16_t box[5];
};
static_assert(sizeof(TensorMapFields) <= 128);
constexpr uint32_t kTensorMap = 0x50414d54;
constexpr uint8_t kSwizzle128 = 3;

inline uint32_t swizzle_128(uint32_t address) { return address ^ ((address >> 7 & 7) << 4); }

// A box whose first element has the coordinates `first`; what lies outside the tensor comes as zeros and counts among the bytes.
struct TmaLoad {
  TensorMapFields map;
  Block* block;
  uint32_t to, row_bytes, rows, bar;
  std::array<int, 5> first;
  Site at;

  void operator()() const {
    for (uint32_t r = 0; r < rows; r++) row(r);
    mbarrier_change(block, bar, 0, -int64_t(row_bytes) * rows, at);
  }

  void row(uint32_t r) const {
    const uint8_t* from = reinterpret_cast<const uint8_t*>(map.base);
    bool inside = true;
    uint32_t rest = r;
    for (unsigned i = 1; i < map.rank; i++) {
      int64_t x = int64_t(first[i]) + rest % map.box[i];
      rest /= map.box[i];
      inside = inside && x >= 0 && x < int64_t(map.dim[i]);
      from += x * int64_t(map.stride[i - 1]);
    }
    for (uint32_t o = 0; o < row_bytes; o += kGranule) {
      uint32_t out = map.swizzle == kSwizzle128 ? swizzle_128(to + r * 128 + o) : to + r * row_bytes + o;
      for (uint32_t e = 0; e < kGranule; e += map.element) {
        int64_t x = int64_t(first[0]) + (o + e) / map.element;
        ForKernel seen;
        if (inside && x >= 0 && x < int64_t(map.dim[0])) memcpy(block->window + out + e, from + x * map.element, map.element);
        else memset(block->window + out + e, 0, map.element);
      }
      block->unfenced[out / kGranule] = 0;
    }
  }
};

inline void tma_load(uint32_t to, const void* map, const std::array<int, 5>& first, unsigned rank, uint32_t bar, Site at) {
  Internal hidden;
  TensorMapFields t;
  memcpy(&t, map, sizeof t);
  if (t.magic != kTensorMap) fail(at, "TMA: this is no tensor map");
  if (t.rank != rank) fail(at, "TMA: a map of %u dimensions used with %u coordinates", t.rank, rank);
  uint32_t row_bytes = t.box[0] * t.element, rows = 1;
  for (unsigned i = 1; i < rank; i++) rows *= t.box[i];
  // The instruction asks for 128 bytes of alignment; the swizzle's pattern repeats each 1024.
  shared(to, row_bytes * rows, t.swizzle == kSwizzle128 ? 1024 : 128, "TMA", at);
  mbarrier(self->block, bar, at);
  TmaLoad load{t, self->block, to, row_bytes, rows, bar, first, at};
  if (settings().mode == 0) load();
  else self->block->bulk.push_back(load);
}

inline bool land_something(Block* b) {
  bool at_random = settings().mode == 2;
  if (size_t count = b->bulk.size()) {
    size_t i = at_random ? random32() % count : 0;
    auto load = std::move(b->bulk[i]);
    b->bulk.erase(b->bulk.begin() + long(i));
    load();
    return true;
  }
  if (!b->copies) return false;
  size_t start = at_random ? random32() % b->threads : 0;
  for (size_t k = 0; k < b->threads; k++) {
    Fiber& f = b->fibers[(start + k) % b->threads];
    if (f.copies.empty()) continue;
    size_t steps = at_random ? 1 + random32() % 8 : f.copies.size();
    while (steps-- && !f.copies.empty()) land_copy(&f);
    return true;
  }
  return false;
}
}
