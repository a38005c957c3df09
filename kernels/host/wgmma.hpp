// wgmma: D[64][N] (+)= A[64][16] * B[16][N] of a warpgroup, from operands in shared memory with the 128-byte swizzle.
#pragma once
#include "host/tensor.hpp"

namespace emulate {
inline const uint8_t* read_async(Block* b, uint32_t address, Site at) {
  const uint8_t* p = shared(address, kGranule, kGranule, "wgmma", at, b);
  Internal hidden;
  if (uint16_t writer = b->unfenced[address / kGranule])
    fail(at, "wgmma reads shared 0x%x, which thread %u wrote with no fence.proxy.async since", address, writer - 1u);
  return p;
}

// The operand of 16 (k) by `mn` elements that `desc` describes, into out[i * step_mn + k * step_k].
template <float (*To)(uint16_t)>
inline void wgmma_operand(Block* b, uint64_t desc, int mn, bool mn_major, float* out, int step_mn, int step_k, Site at) {
  uint32_t start = uint32_t(desc & 0x3fff) << 4, leading = uint32_t(desc >> 16 & 0x3fff) << 4, stride = uint32_t(desc >> 32 & 0x3fff) << 4;
  if (desc >> 62 != 1) fail(at, "wgmma: only the 128-byte swizzle is emulated");
  if (desc >> 49 & 7 || start >> 7 & 7) fail(at, "wgmma: operand at 0x%x does not start on a row that is a multiple of 8 (1024 bytes)", start);
  uint16_t part[8];
  auto fetch = [&](uint32_t linear) {
    const uint8_t* from = read_async(b, swizzle_128(linear), at);
    ForKernel seen;
    memcpy(part, from, 16);
  };
  if (!mn_major) {                                // rows of MN, 128 bytes each; k runs along them
    for (int i = 0; i < mn; i++)
      for (int c = 0; c < 2; c++) {
        fetch(start + uint32_t(i % 8) * 128 + uint32_t(i / 8) * stride + uint32_t(c) * 16);
        for (int e = 0; e < 8; e++) out[i * step_mn + (c * 8 + e) * step_k] = To(part[e]);
      }
  } else {                                        // rows of k, 128 bytes each; 64 of MN run along them
    for (int k = 0; k < 16; k++)
      for (int i = 0; i < mn; i += 8) {
        fetch(start + uint32_t(i % 64) * 2 + uint32_t(i / 64) * leading + uint32_t(k % 8) * 128 + uint32_t(k / 8) * stride);
        for (int e = 0; e < 8; e++) out[(i + e) * step_mn + k * step_k] = To(part[e]);
      }
  }
}

template <int N, float (*To)(uint16_t)>
inline void wgmma_run(Block* block, float* const* d, uint64_t desc_a, uint64_t desc_b, bool scale_d, bool trans_a, bool trans_b, Site at) {
  static thread_local float a[64 * 16], b[16 * N];
  wgmma_operand<To>(block, desc_a, 64, trans_a, a, 16, 1, at);
  wgmma_operand<To>(block, desc_b, N, trans_b, b, 1, N, at);
  for (int r = 0; r < 64; r++) {
    float sum[N];
    int first = r / 16 * 32 + r % 8 * 4, half = r % 16 / 8 * 2;     // four threads hold this row
    auto held = [&](int n) -> float& { return d[first + n % 8 / 2][n / 8 * 4 + half + n % 2]; };
    for (int n = 0; n < N; n++) sum[n] = scale_d ? held(n) : 0.0f;
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < N; n++) sum[n] += a[r * 16 + k] * b[k * N + n];
    for (int n = 0; n < N; n++) held(n) = sum[n];
  }
}

// Runs the oldest one that all four warps have issued.
inline bool wgmma_step(Warpgroup& group) {
  if (group.queue.empty() || group.queue.front().here < 128) return false;
  Wgmma op = std::move(group.queue.front());
  group.queue.pop_front();
  group.first_queued++;
  op.run(op.d);
  group.done++;
  return true;
}

// The four warps need not be there together: it runs once all have issued it, or, in the modes that let work land late, when one waits.
template <int N, float (*To)(uint16_t)>
inline void wgmma(float* d, uint64_t desc_a, uint64_t desc_b, bool scale_d, bool trans_a, bool trans_b, const char* name, Site at) {
  Internal hidden;
  if (!self->wgmma_fenced) fail(at, "%s with no wgmma.fence since the accumulator was last free to be touched", name);
  Warpgroup& group = *self->group;
  Block* block = self->block;
  publish(&group);
  size_t i = size_t(self->wgmma_issued++ - group.first_queued);
  if (i == group.queue.size()) {
    auto run = [=](float* const* all) { wgmma_run<N, To>(block, all, desc_a, desc_b, scale_d, trans_a, trans_b, at); };
    group.queue.push_back({run, 0, desc_a, desc_b, name, {}});
  }
  Wgmma& op = group.queue[i];
  if (op.a != desc_a || op.b != desc_b || op.name != name) fail(at, "%s: the threads of a warpgroup give different operands", name);
  op.d[self->linear % 128] = d;
  if (++op.here < 128) return;
  if (settings().mode == 0) {
    observe(&group);
    while (wgmma_step(group)) {}
    publish(&group);
  }
  wake(block, Wait::Wgmma, uint64_t(&group - block->groups.data()));
}

inline void wgmma_commit() {
  Internal hidden;
  self->wgmma_groups.push_back(self->wgmma_issued);
}

inline void wgmma_wait(unsigned left, Site at) {
  Internal hidden;
  Warpgroup& group = *self->group;
  auto& groups = self->wgmma_groups;
  if (groups.size() > left) {
    size_t ending = groups.size() - left;
    uint64_t target = groups[ending - 1];
    groups.erase(groups.begin(), groups.begin() + long(ending));
    observe(&group);
    while (group.done < target)
      if (!wgmma_step(group)) wait_here(Wait::Wgmma, at, uint64_t(&group - self->block->groups.data()));
    publish(&group);
  }
  observe(&group);
  self->wgmma_fenced = false;
}
}
