// One tile of a product of two row-major matrices of bf16 or f16, by mma.sync: 64 x 64 sums in f32 over a depth, by a block of 256 threads.
//
// Both operands are tile::Rows. Three steps of 32 in depth are on their way while a fourth is multiplied: 16 bytes at a time where
// pointers and strides allow it, else element by element. Each warp has 16 x 32 of the sums.
#pragma once
#include "lib/tile.cuh"
#include "lib/vector.cuh"

namespace tile_mma {
constexpr int kDepth = 32, kStages = 4;
constexpr int kPitch = 2 * kDepth + 16;                        // bytes: eight rows lie on different banks
constexpr int kOperand = tile::kLines * kPitch;                // bytes of one operand of one step
constexpr int kShared = kStages * 2 * kOperand;                // bytes of shared memory

// 8 elements of a line from k on; 0 outside.
template <class T> PTX void load(const tile::Rows<T>& from, bool wide, int depth, int line, int k, uint32_t to) {
  int inside = from.first + line < from.lines ? min(max(depth - k, 0), 8) : 0;
  const T* at = from.values + (inside > 0 ? (from.first + line) * from.stride + k : 0);
  if (wide) {
    cp_async_16(to, at, inside * 2);
  } else {
    auto word = [&](int i) {
      return uint32_t(i < inside ? at[i].bits : 0) | uint32_t(i + 1 < inside ? at[i + 1].bits : 0) << 16;
    };
    st_shared_16(to, make_uint4(word(0), word(2), word(4), word(6)));
  }
}

template <class T> PTX bool is_wide(const tile::Rows<T>& from) { return from.stride % 8 == 0 && aligned_16(from.values); }

// to(line of a, line of b, sum) for each of this thread's sums. `shared` holds kShared bytes, 16-byte aligned.
template <class T, class To>
PTX void multiply(const tile::Rows<T>& a, const tile::Rows<T>& b, int depth, void* shared, To to) {
  int lane = threadIdx.x % 32, a_line = threadIdx.x / 32 % 4 * 16, b_line = threadIdx.x / 128 * 32;
  int steps = (depth + kDepth - 1) / kDepth;
  bool a_wide = is_wide(a), b_wide = is_wide(b);
  uint32_t base = shared_u32(shared);
  auto issue = [&](int step) {
    uint32_t stage = base + step % kStages * (2 * kOperand);
    if (step < steps) {
      int line = threadIdx.x / 4, across = threadIdx.x % 4, k = step * kDepth + across * 8;
      load(a, a_wide, depth, line, k, stage + line * kPitch + across * 16);
      load(b, b_wide, depth, line, k, stage + kOperand + line * kPitch + across * 16);
    }
    cp_async_commit();
  };
  float sums[4][4];
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) sums[j][i] = 0.0f;
  for (int step = 0; step < kStages - 1; step++) issue(step);
  for (int step = 0; step < steps; step++) {
    cp_async_wait<kStages - 2>();
    __syncthreads();                     // the step has landed for all, and the one before is done with
    issue(step + kStages - 1);
    uint32_t stage = base + step % kStages * (2 * kOperand);
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t u[4], v[4];
      ldmatrix_x4(u, stage + (a_line + lane % 16) * kPitch + (k + lane / 16 * 8) * 2);
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        ldmatrix_x4(v, stage + kOperand + (b_line + j * 8 + lane / 16 * 8 + lane % 8) * kPitch + (k + lane / 8 % 2 * 8) * 2);
        mma_m16n8k16(sums[j], u, v[0], v[1], T{});
        mma_m16n8k16(sums[j + 1], u, v[2], v[3], T{});
      }
    }
  }
  cp_async_wait<0>();
  __syncthreads();                       // so that the next tile may write to shared memory
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < 4; i++) to(a_line + lane / 4 + i / 2 * 8, b_line + j * 8 + lane % 4 * 2 + i % 2, sums[j][i]);
}
}
