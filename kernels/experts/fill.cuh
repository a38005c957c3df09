#pragma once
#include "experts/finish.cuh"
#include "experts/schedule.cuh"

// The warpgroup that fills the ring. What is gathered, or a step that ends with an expert's pairs, comes by cp.async of all its threads,
// which announce their steps when they have landed: no earlier than they must, while there is a stage to fill, and no later than they can,
// while there is none. The rest comes by tensor maps, in boxes of 64 by 64 that the first thread asks for. Both write what wgmma reads:
// K-major as blocks of 64 of the product's rows or columns, MN-major as blocks of 64 of them by 64 of K.
namespace experts {
// Whether any of a launch's jobs has an operand that no map brings.
template <class... Jobs> constexpr bool kCopied = (!(Jobs::kAMapped && Jobs::kBMapped) || ...);

// Arrivals that fill a stage: the tensor maps', and one of each warp that copies.
template <bool Copies> constexpr int kArrivals = 1 + (Copies ? kFillers / 32 : 0);

// `kCopies`: whether the ring waits for all of the warpgroup's warps.
template <class T, class Job, bool kCopies> struct Fill {
  using Tile = typename Job::Blocks;
  using Stages = RingOf<Tile>;
  static constexpr int kGroups = Tile::kRows / 64;
  static constexpr bool kAMapped = Job::kAMapped, kBMapped = Job::kBMapped;
  // How many steps may be on their way by cp.async before the oldest is waited for. One stage is being multiplied meanwhile, another read.
  static constexpr int kLag = Stages::kStages - 2;
  const Stages& ring;
  int& step;                                     // over all tiles

  template <bool KMajor> PTX static void boxes(uint32_t to, const From& from, int count, uint32_t bar) {
#pragma unroll
    for (int i = 0; i < count; i++) {
      const int mn = from.mn + i * 64;
      tma_load_3d(to + i * kBox, from.map, KMajor ? from.k : mn, KMajor ? mn : from.k, from.z, bar);
    }
  }

  // The operands that maps bring. `whole`: also those whose last step ends within.
  PTX void map_operands(const Job& job, int k, bool second, bool whole) {
    constexpr int a = kAMapped ? Tile::kRows / 64 : 0, b = kBMapped ? Tile::kColumns / 64 : 0;
    constexpr bool a_k_major = decltype(Job::a)::k_major, b_k_major = decltype(Job::b)::k_major;
    const uint32_t to = ring.stage(step), b_to = to + Tile::kRows * 128, bar = ring.full(step);
    mbarrier_arrive_expect_tx(bar, whole ? (a + b) * kBox : 0);
    if (!whole) return;
    if constexpr (kAMapped) boxes<a_k_major>(to, job.a_from(k, second), a, bar);
    if constexpr (kBMapped && Job::kSplit) {
      boxes<b_k_major>(b_to, job.b_from(k, false), b / 2, bar);
      boxes<b_k_major>(b_to + b / 2 * kBox, job.b_from(k, true), b / 2, bar);
    } else if constexpr (kBMapped) {
      boxes<b_k_major>(b_to, job.b_from(k, second), b, bar);
    }
  }
  // Step number `number` of what finish reads: see Finish::extra.
  PTX void map_extras(const Job& job, int number) {
    if constexpr (Job::kParts) {
      constexpr int count = Job::kExtras;
      const int first = number * Stages::kBoxes, boxes = min(Stages::kBoxes, Tile::kColumns / 64 * count * kGroups - first);
      mbarrier_arrive_expect_tx(ring.full(step), boxes * kBox);
      for (int i = 0; i < boxes; i++) {
        const int n = first + i, map = n / kGroups % count, column = n / kGroups / count;
        const int first_column = job.tile.column + column * 64, first_pair = job.tile.pair + n % kGroups * 64;
        tma_load_3d(ring.stage(step) + i * kBox, &job.p.maps.pairs[map], first_column, first_pair, 0, ring.full(step));
      }
    }
  }

  // The oldest of so many steps that are on their way. cp.async writes as any store does: fenced, wgmma sees it.
  PTX void announce(int under_way) {
    if (under_way == 1) cp_async_wait<0>();
    else if (under_way == 2) cp_async_wait<1>();
    else if (under_way == 3) cp_async_wait<2>();
    else cp_async_wait<3>();
    fence_proxy_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(ring.full(step - under_way));
  }

  PTX void tile(Job& job) {
    const int once = ceil_div(job.depth, kStep<T>), steps = job.segments * once;
    constexpr int extra = Finish<T, Job>::begun(Job::kColumns);
    if constexpr (kCopies) {
      job.open();
      if constexpr (!kAMapped || Job::kTails) job.a.begin();
      if constexpr (!kBMapped || Job::kTails) job.b.begin();
    }
    int under_way = 0;
    for (int i = 0; i < steps + extra; i++, step++) {
      const bool second = i >= once;
      const int k = (second ? i - once : i) * kStep<T>;
      const bool whole = !Job::kTails || k + kStep<T> <= job.depth;
      if constexpr (kCopies)
        while (under_way == kLag || (under_way > 0 && !__all_sync(~0u, ring.is_empty(step)))) announce(under_way--);
      ring.wait_empty(step);
      if (threadIdx.x == 0) {
        if (i < steps) map_operands(job, k, second, whole);
        else map_extras(job, i - steps);
      }
      if constexpr (kCopies) {
        const uint32_t to = ring.stage(step);
        if (i < steps) {
          if (!kAMapped || (Job::kTails && !whole)) job.a.load(to, k, second);
          if (!kBMapped || (Job::kTails && !whole)) job.b.load(to + Tile::kRows * 128, k, second);
        }
        cp_async_commit();
        under_way++;
      }
    }
    if constexpr (kCopies)
      while (under_way > 0) announce(under_way--);
  }
};
}
