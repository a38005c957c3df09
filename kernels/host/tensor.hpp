// ldmatrix, stmatrix and mma.sync: a warp's fragments gathered into matrices, multiplied, and scattered again.
#pragma once
#include "host/tma.hpp"

namespace emulate {
inline void ldmatrix_x4(uint32_t* out, uint32_t address, bool transpose, Site at) {
  struct Slot {
    uint32_t row[4];
    uint32_t* out;
  } slot;
  memcpy(slot.row, shared(address, 16, 16, "ldmatrix", at), 16);
  slot.out = out;
  collective(~0u, transpose ? "ldmatrix.trans" : "ldmatrix", &slot, at, [=](void** all) {
    auto row = [&](int r) { return static_cast<Slot*>(all[r])->row; };
    auto half = [&](int r, int c) { return row(r)[c / 2] >> (c % 2 * 16) & 0xffff; };
    for (int l = 0; l < 32; l++)
      for (int m = 0; m < 4; m++) {
        int r = 8 * m + l % 4 * 2;
        static_cast<Slot*>(all[l])->out[m] = transpose ? half(r, l / 4) | half(r + 1, l / 4) << 16 : row(8 * m + l / 4)[l % 4];
      }
  });
}

// Each lane writes its own words when it goes on: until lanes have met again, another may not see them.
inline void stmatrix_x4(uint32_t address, const std::array<uint32_t, 4>& words, Site at) {
  struct Slot {
    uint32_t row, to[4];
  } slot{address, {}};
  shared(address, 16, 16, "stmatrix", at);
  collective(~0u, "stmatrix", &slot, at, [](void** all) {
    for (int l = 0; l < 32; l++)
      for (int m = 0; m < 4; m++) static_cast<Slot*>(all[l])->to[m] = static_cast<Slot*>(all[8 * m + l / 4])->row + uint32_t(l % 4 * 4);
  });
  for (size_t m = 0; m < 4; m++) {
    memcpy(self->block->window + slot.to[m], &words[m], 4);
    mark_generic_write(self, slot.to[m], 4);
  }
}

// D[16][8] += A[16][K] * B[K][8]. `load_a` and `load_b` put a lane's registers where they belong; g = lane / 4 and t = lane % 4.
template <int K, class LoadA, class LoadB>
inline void mma_m16n8(float* d, const uint32_t* a, const uint32_t* b, const char* name, Site at, LoadA load_a, LoadB load_b) {
  struct Slot {
    float* d;
    const uint32_t *a, *b;
  } slot{d, a, b};
  collective(~0u, name, &slot, at, [=](void** all) {
    float ma[16][K], mb[K][8];
    for (int l = 0; l < 32; l++) {
      auto* s = static_cast<Slot*>(all[l]);
      load_a(ma, s->a, l / 4, l % 4);
      load_b(mb, s->b, l / 4, l % 4);
    }
    for (int l = 0; l < 32; l++)
      for (int i = 0; i < 4; i++) {
        int r = l / 4 + i / 2 * 8, c = l % 4 * 2 + i % 2;
        float& sum = static_cast<Slot*>(all[l])->d[i];
        for (int k = 0; k < K; k++) sum += ma[r][k] * mb[k][c];
      }
  });
}

template <float (*To)(uint16_t)>
inline void mma_m16n8k16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1, const char* name, Site at) {
  uint32_t b[2] = {b0, b1};
  mma_m16n8<16>(
      d, a, b, name, at,
      [](float (*m)[16], const uint32_t* v, int g, int t) {
        for (int i = 0; i < 4; i++)
          for (int h = 0; h < 2; h++) m[g + i % 2 * 8][t * 2 + h + i / 2 * 8] = To(uint16_t(v[i] >> h * 16));
      },
      [](float (*m)[8], const uint32_t* v, int g, int t) {
        for (int i = 0; i < 2; i++)
          for (int h = 0; h < 2; h++) m[t * 2 + h + i * 8][g] = To(uint16_t(v[i] >> h * 16));
      });
}

// Of f32 operands it takes the upper 19 bits.
inline void mma_m16n8k8_tf32(float* d, const uint32_t* a, uint32_t b0, uint32_t b1, Site at) {
  uint32_t b[2] = {b0, b1};
  auto cut = [](uint32_t v) { return __uint_as_float(v & 0xffffe000); };
  mma_m16n8<8>(
      d, a, b, "mma.tf32", at,
      [=](float (*m)[8], const uint32_t* v, int g, int t) {
        for (int i = 0; i < 4; i++) m[g + i % 2 * 8][t + i / 2 * 4] = cut(v[i]);
      },
      [=](float (*m)[8], const uint32_t* v, int g, int t) {
        for (int i = 0; i < 2; i++) m[t + i * 4][g] = cut(v[i]);
      });
}
}
