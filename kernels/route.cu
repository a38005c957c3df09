// route, forward: in each (sample, expert), or each expert over the batch, the C largest weights stay; then the list of kept pairs of
// needed rows, expert by expert with rows ascending, the engines' tiles of it, and count, mean and M2 of each (sample, expert) column.
//
// weights [N, E] in place, chosen [N, K] -> row_pairs [N, K], pair_row and pair_weight [P], expert_offsets [E + 2], tiles, columns [B, E, 3].
// One cooperative launch of at most one block a multiprocessor, in three steps with all blocks meeting between them:
//   keep    a warp (or for many tokens a block) an expert of a sample: finds the C-th largest weight bit by bit, by counting; of equals
//           the first in order (t, b) stay, found the same way. Then the column's moments, around its mean.
//   count   each block how many pairs of each expert its stretch of rows has.
//   list    each block sums up what others have before it, and writes its stretch.
// Shared memory: under 1 KiB. No float atomics: the same bits on every run. Launched by src/gpu/route.rs.
#include "args/route.cuh"
#include "lib/grid.cuh"
#include "lib/reduce.cuh"

namespace route {
constexpr int kHeld = 10;                  // weights that a thread keeps in registers
constexpr int kWarpTokens = 32 * kHeld;    // so many rows or fewer: a warp is enough for them
constexpr int kBlockTokens = 256 * kHeld;  // of more, no thread keeps any

struct Warp {
  static constexpr int size = 32;
  PTX static int rank() { return threadIdx.x % 32; }
  PTX static int64_t first() { return int64_t(threadIdx.x / 32) * gridDim.x + blockIdx.x; }
  PTX static int64_t step() { return int64_t(gridDim.x) * (blockDim.x / 32); }
  PTX static int sum(int value) { return __reduce_add_sync(~0u, value); }
  PTX static double sum(double value) { return warp_sum(value); }
};

struct Block {
  static constexpr int size = 256;
  PTX static int rank() { return threadIdx.x; }
  PTX static int64_t first() { return blockIdx.x; }
  PTX static int64_t step() { return gridDim.x; }
  PTX static int sum(int value) { return block_sum(value); }
  PTX static double sum(double value) { return block_sum(value); }
};

// The rows that compete for one expert, in the order in which equals stay: number i is row(i).
struct Sample {
  static constexpr bool whole = false;
  const RouteForward& p;
  int64_t sample;
  PTX int rows() const { return p.tokens; }
  PTX int64_t row(int i) const { return int64_t(i) * p.token_stride + sample * p.sample_stride; }
};
struct Batch {
  static constexpr bool whole = true;
  const RouteForward& p;
  PTX int rows() const { return p.tokens * p.samples; }
  PTX int64_t row(int i) const { return int64_t(i / p.samples) * p.token_stride + int64_t(i % p.samples) * p.sample_stride; }
};

// The higher the larger the weight; 0 where not chosen, 1 for NaN.
PTX uint32_t rank_of(float weight) {
  if (weight < 0.0f) return 0;
  return weight == weight ? __float_as_uint(weight) + 2 : 1;
}
PTX float weight_of(uint32_t rank) {
  return rank > 1 ? __uint_as_float(rank - 2) : rank == 1 ? __uint_as_float(0x7fc00000) : 0.0f;
}

// Gives `take` each number below `count` that is this thread's, and which of its own it is: as many as it holds, else 0.
template <class Team, int Held, class Take> PTX void each(int count, Take take) {
  if constexpr (Held > 0) {
#pragma unroll
    for (int j = 0; j < Held; j++)
      if (Team::rank() + j * Team::size < count) take(Team::rank() + j * Team::size, j);
  } else {
    for (int64_t i = Team::rank(); i < count; i += Team::size) take(int(i), 0);
  }
}

// All that a thread holds, `load(number)`, or 0 past the last: nothing is made of any of it here, which would keep the next load waiting.
template <class Team, int Held, class T, class Load> PTX void load_all(int count, T (&to)[Held], Load load) {
#pragma unroll
  for (int j = 0; j < Held; j++) {
    to[j] = 0;
    if (Team::rank() + j * Team::size < count) to[j] = load(Team::rank() + j * Team::size);
  }
}

// Count, mean and M2 of the final weights of one expert in one sample, by threads that each read what they wrote: `weight(t, j)`.
template <class Team, int Held, class Weight> PTX void column(const Sample& of, int e, Weight weight) {
  const RouteForward& p = of.p;
  int count = 0;
  double sum = 0, squares = 0;   // a thread adds thousands of the same small number, whose roundings in f32 all go one way
  uint32_t counted = 0;          // of those that the thread holds
  auto counts = [&](int t) { return p.counted[of.row(t)]; };
  if constexpr (Held > 0) {
    unsigned char flags[Held];
    if (p.counted) load_all<Team, Held>(p.tokens, flags, counts);
    each<Team, Held>(p.tokens, [&](int, int j) { counted |= uint32_t(!p.counted || flags[j] != 0) << j; });
  }
  auto measure = [&](auto take) {
    each<Team, Held>(p.tokens, [&](int t, int j) {
      if (Held > 0 ? counted >> j & 1 : !p.counted || counts(t)) take(double(weight(t, j)));
    });
  };
  measure([&](double w) { count++; sum += w; });
  count = Team::sum(count);
  double mean = count > 0 ? Team::sum(sum) / count : 0.0;
  measure([&](double w) { squares += (w - mean) * (w - mean); });
  squares = Team::sum(squares);
  if (Team::rank() == 0) {
    float* to = p.columns + (of.sample * p.experts + e) * 3;
    to[0] = float(count);
    to[1] = float(mean);
    to[2] = float(squares);
  }
}

template <class Team, int Held, class Scope> PTX void keep(const RouteForward& p, const Scope& scope, int e) {
  const int rows = scope.rows();
  uint32_t ranks[Held > 0 ? Held : 1] = {};   // past the last row 0, which no count counts
  auto place = [&](int i) { return scope.row(i) * p.experts + e; };
  auto rank = [&](int i, int j) { return Held > 0 ? ranks[j] : rank_of(p.weights[place(i)]); };
  if constexpr (Held > 0) {
    float weights[Held];
    load_all<Team, Held>(rows, weights, [&](int i) { return p.weights[place(i)]; });
    each<Team, Held>(rows, [&](int, int j) { ranks[j] = rank_of(weights[j]); });
  }
  auto count = [&](auto counts) {
    int here = 0;
    if constexpr (Held > 0) {
#pragma unroll
      for (int j = 0; j < Held; j++) here += counts(ranks[j], Team::rank() + j * Team::size) ? 1 : 0;
    } else {
      each<Team, Held>(rows, [&](int i, int j) { here += counts(rank(i, j), i) ? 1 : 0; });
    }
    return Team::sum(here);
  };
  uint32_t least = 0;   // what ranks higher stays,
  int last = -1;        // and of what ranks the same, up to number `last`
  if (p.capacity > 0 && count([](uint32_t r, int) { return r > 0; }) > p.capacity) {
    for (int bit = 30; bit >= 0; bit--) {
      uint32_t trial = least | 1u << bit;
      if (count([=](uint32_t r, int) { return r >= trial; }) >= p.capacity) least = trial;
    }
    int left = p.capacity - count([=](uint32_t r, int) { return r > least; });   // at least one
    last = 0;
    for (int bit = 31 - __clz(rows); bit >= 0; bit--) {
      int trial = last + (1 << bit);
      if (trial < rows && count([=](uint32_t r, int i) { return r == least && i < trial; }) < left) last = trial;
    }
  }
  each<Team, Held>(rows, [&](int i, int j) {
    uint32_t r = rank(i, j);
    bool stays = r > least || (r == least && i <= last);
    p.kept[place(i)] = stays;
    if (!stays) p.weights[place(i)] = 0.0f;
    if constexpr (Held > 0) ranks[j] = stays ? r : 0;
  });
  if constexpr (!Scope::whole) {
    if (!p.columns) return;
    column<Team, Held>(scope, e, [&](int t, int j) { return Held > 0 ? weight_of(ranks[j]) : p.weights[place(t)]; });
  }
}

template <class Team, int Held> PTX void keep_all(const RouteForward& p) {
  if (p.batch_scope) {
    for (int64_t e = Team::first(); e < p.experts; e += Team::step()) keep<Team, Held>(p, Batch{p}, int(e));
  } else {
    for (int64_t item = Team::first(); item < int64_t(p.samples) * p.experts; item += Team::step())
      keep<Team, Held>(p, Sample{p, item / p.experts}, int(item % p.experts));
  }
}

template <class Team, int Held> PTX void columns(const RouteForward& p) {
  for (int64_t item = Team::first(); item < int64_t(p.samples) * p.experts; item += Team::step()) {
    Sample of{p, item / p.experts};
    int e = int(item % p.experts);
    [[maybe_unused]] float weights[Held > 0 ? Held : 1];
    auto load = [&](int t) { return p.weights[of.row(t) * p.experts + e]; };
    if constexpr (Held > 0) {
      load_all<Team, Held>(p.tokens, weights, load);
      column<Team, Held>(of, e, [&](int, int j) { return weights[j]; });
    } else {
      column<Team, Held>(of, e, [&](int t, int) { return load(t); });
    }
  }
}

// A block's stretch of the rows.
struct Stretch { int64_t first, end; };
PTX Stretch stretch(int64_t rows) {
  int64_t each = (rows + gridDim.x - 1) / gridDim.x, first = min(rows, each * int64_t(blockIdx.x));
  return {first, min(rows, first + each)};
}

constexpr int kAtOnce = 4;   // times 32 rows whose loads fly together

// The row of this lane in the j-th run of 32 from `first` on; past the last it is the last, so that what is read of it waits for no branch.
PTX int64_t row_of(int64_t first, int64_t end, int j) { return min(first + j * 32 + int(threadIdx.x) % 32, end - 1); }

// Whether (row, expert) is in the list, for this lane's row in each of the runs; number E is the shared expert.
PTX void read_listed(const RouteForward& p, int64_t first, int64_t end, int e, bool (&is_listed)[kAtOnce]) {
  unsigned char needed[kAtOnce], kept[kAtOnce];
#pragma unroll
  for (int j = 0; j < kAtOnce; j++) needed[j] = kept[j] = e < p.experts || p.shared_pairs;
  if (e < p.experts) {
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) kept[j] = p.kept[row_of(first, end, j) * p.experts + e];
  }
  if (p.needed) {
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) needed[j] = p.needed[row_of(first, end, j)];
  }
#pragma unroll
  for (int j = 0; j < kAtOnce; j++) is_listed[j] = first + j * 32 + int(threadIdx.x) % 32 < end && needed[j] && kept[j];
}

PTX void count_pairs(const RouteForward& p, Stretch rows) {
  for (int64_t i = rows.first * p.top_k + threadIdx.x; i < rows.end * p.top_k; i += blockDim.x) p.row_pairs[i] = -1;
  for (int e = threadIdx.x / 32; e <= p.experts; e += blockDim.x / 32) {
    int here = 0;
    for (int64_t first = rows.first; first < rows.end; first += 32 * kAtOnce) {
      bool is_listed[kAtOnce];
      read_listed(p, first, rows.end, e, is_listed);
#pragma unroll
      for (int j = 0; j < kAtOnce; j++) here += is_listed[j] ? 1 : 0;
    }
    here = __reduce_add_sync(~0u, here);
    if (threadIdx.x % 32 == 0) p.counts[int64_t(blockIdx.x) * (p.experts + 1) + e] = here;
  }
}

// Where this block's pairs of each expert begin; block 0 writes where every expert's do, and the tiles. Returns [E + 1].
PTX int* find_starts(const RouteForward& p) {
  int64_t lines = p.experts + 1, all = lines * gridDim.x;
  int* starts = p.counts + all + lines * blockIdx.x;
  int* totals = starts + all;
  for (int e = threadIdx.x / 32; e < lines; e += blockDim.x / 32) {
    int total = 0, before = 0;
    for (unsigned block = threadIdx.x % 32; block < gridDim.x; block += 32) {
      int count = p.counts[block * lines + e];
      total += count;
      if (block < blockIdx.x) before += count;
    }
    total = __reduce_add_sync(~0u, total);
    before = __reduce_add_sync(~0u, before);
    if (threadIdx.x % 32 == 0) {
      starts[e] = before;
      totals[e] = total;
    }
  }
  __syncthreads();
  int pairs = 0, tiles = 0;
  for (int64_t from = 0; from < lines; from += blockDim.x) {
    int64_t e = from + threadIdx.x;
    int total = e < lines ? totals[e] : 0;
    Scan scan = block_scan(total);
    int start = pairs + scan.before;
    pairs += scan.total;
    if (e < lines) starts[e] += start;
    if (blockIdx.x > 0) continue;
    int count = (total + p.tile_rows - 1) / p.tile_rows;
    scan = block_scan(count);
    if (e < lines) p.expert_offsets[e] = start;
    for (int i = 0; i < count; i++) {
      int* tile = p.tiles + 1 + 2 * (int64_t(tiles) + scan.before + i);
      tile[0] = int(e);
      tile[1] = start + i * p.tile_rows;
    }
    tiles += scan.total;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    p.expert_offsets[lines] = pairs;
    p.tiles[0] = tiles;
  }
  __syncthreads();
  return starts;
}

// The pairs of one expert among the 32 * kAtOnce rows from `first` on: all is read before any of it is written. Returns how many.
PTX int list_rows(const RouteForward& p, int64_t first, int64_t end, int e, int start) {
  int lane = threadIdx.x % 32, begin = start;
  bool is_listed[kAtOnce];
  float weight[kAtOnce];
  int choice[kAtOnce];
#pragma unroll
  for (int j = 0; j < kAtOnce; j++) {
    weight[j] = e < p.experts ? p.weights[row_of(first, end, j) * p.experts + e] : 1.0f;
    choice[j] = -1;
  }
  read_listed(p, first, end, e, is_listed);
  for (int k = 0; e < p.experts && k < p.top_k; k++) {
    int chosen[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) chosen[j] = p.chosen[row_of(first, end, j) * p.top_k + k];
#pragma unroll
    for (int j = 0; j < kAtOnce; j++)
      if (is_listed[j] && chosen[j] == e) choice[j] = k;
  }
#pragma unroll
  for (int j = 0; j < kAtOnce; j++) {
    int64_t row = first + j * 32 + lane;
    unsigned mask = __ballot_sync(~0u, is_listed[j]);
    int pair = is_listed[j] ? start + __popc(mask & ((1u << lane) - 1)) : -1;
    if (is_listed[j]) {
      p.pair_row[pair] = int(row);
      p.pair_weight[pair] = weight[j];
    }
    if (choice[j] >= 0) p.row_pairs[row * p.top_k + choice[j]] = pair;
    if (e == p.experts && p.shared_pairs && row < end) p.shared_pairs[row] = pair;
    start += __popc(mask);
  }
  return start - begin;
}

PTX void list_pairs(const RouteForward& p, Stretch rows, const int* starts) {
  for (int e = threadIdx.x / 32; e <= p.experts; e += blockDim.x / 32) {
    int start = starts[e];
    for (int64_t first = rows.first; first < rows.end; first += 32 * kAtOnce) start += list_rows(p, first, rows.end, e, start);
  }
}

PTX void forward(const RouteForward& p) {
  int64_t scope = p.batch_scope ? int64_t(p.tokens) * p.samples : p.tokens;
  if (scope <= kWarpTokens) keep_all<Warp, kHeld>(p);
  else if (scope <= kBlockTokens) keep_all<Block, kHeld>(p);
  else keep_all<Block, 0>(p);
  grid_barrier(p.counters);
  if (p.columns && p.batch_scope) {
    if (p.tokens <= kWarpTokens) columns<Warp, kHeld>(p);
    else if (p.tokens <= kBlockTokens) columns<Block, kHeld>(p);
    else columns<Block, 0>(p);
  }
  Stretch rows = stretch(int64_t(p.tokens) * p.samples);
  count_pairs(p, rows);
  grid_barrier(p.counters + 1);
  list_pairs(p, rows, find_starts(p));
}
}

KERNEL(route_forward, RouteForward, 256, 1, route::forward(p))
