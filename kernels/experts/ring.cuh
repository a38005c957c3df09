#pragma once
#include "experts/load.cuh"

// The stages through which one warpgroup hands operands to the two or three that multiply. A stage is filled, then read by all their warps;
// then it is empty again. Steps are numbered over all tiles of a block, and every role counts them alike.
namespace experts {
constexpr int kFillers = 128;                     // threads
constexpr int kBox = 64 * 128;                    // bytes that one tensor-map load brings: 64 rows of 64 elements

template <int Lines, int Multipliers> struct Ring {    // warps
  static constexpr int kStage = Lines * 128, kBoxes = kStage / kBox, kStages = Lines > 256 ? 4 : 6;
  static constexpr int kBars = kStages * kStage, kBytes = kBars + 128;
  uint32_t base;

  PTX static uint32_t number(int step) { return uint32_t(step) % kStages; }
  PTX static uint32_t round(int step) { return uint32_t(step) / kStages & 1; }
  PTX uint32_t stage(int step) const { return base + number(step) * kStage; }
  PTX uint32_t full(int step) const { return base + kBars + number(step) * 8; }
  PTX uint32_t empty(int step) const { return full(step) + kStages * 8; }
  // By one thread; the block meets before anyone uses it. `arrivals`: of the fillers, for each stage.
  PTX void init(int arrivals) const {
    for (int s = 0; s < kStages; s++) {
      mbarrier_init(full(s), arrivals);
      mbarrier_init(empty(s), Multipliers);
    }
    mbarrier_init_fence();
  }
  PTX bool is_empty(int step) const { return mbarrier_test_wait(empty(step), round(step) ^ 1); }
  PTX void wait_empty(int step) const { mbarrier_wait(empty(step), round(step) ^ 1); }
  PTX void wait_full(int step) const { mbarrier_wait(full(step), round(step)); }
  // By a warp that has read the stage; `loaded`: by loads too, where tensor maps may write next.
  PTX void release(int step, bool loaded) const {
    if (loaded) fence_reads();
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty(step));
  }
};
template <class Tile> using RingOf = Ring<Tile::kRows + Tile::kColumns, Tile::kRows / 16>;
}
