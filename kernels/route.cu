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
constexpr int kWarpTokens = 512;   // so many rows or fewer: a warp is enough for them

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
struct Scope {
  const RouteForward& p;
  int rows;
  int64_t sample;   // or -1: the whole batch
  PTX int64_t row(int i) const {
    if (sample >= 0) return int64_t(i) * p.token_stride + sample * p.sample_stride;
    return int64_t(i / p.samples) * p.token_stride + int64_t(i % p.samples) * p.sample_stride;
  }
};

// The higher the larger the weight; 0 where not chosen, 1 for NaN.
PTX uint32_t rank_of(float weight) {
  if (weight < 0.0f) return 0;
  return weight == weight ? __float_as_uint(weight) + 2 : 1;
}

template <class Team> PTX void keep(const RouteForward& p, const Scope& scope, int e) {
  auto rank = [&](int i) { return rank_of(p.weights[scope.row(i) * p.experts + e]); };
  auto count = [&](auto counts) {
    int here = 0;
    for (int64_t i = Team::rank(); i < scope.rows; i += Team::size) here += counts(rank(int(i)), int(i)) ? 1 : 0;
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
    for (int bit = 31 - __clz(scope.rows); bit >= 0; bit--) {
      int trial = last + (1 << bit);
      if (trial < scope.rows && count([=](uint32_t r, int i) { return r == least && i < trial; }) < left) last = trial;
    }
  }
  for (int64_t i = Team::rank(); i < scope.rows; i += Team::size) {
    int64_t at = scope.row(int(i)) * p.experts + e;
    uint32_t r = rank_of(p.weights[at]);
    bool stays = r > least || (r == least && i <= last);
    p.kept[at] = stays;
    if (!stays) p.weights[at] = 0.0f;
  }
}

// Count, mean and M2 of the final weights of one expert in one sample, by threads that each read what they wrote.
template <class Team> PTX void column(const RouteForward& p, int64_t sample, int e) {
  int count = 0;
  double sum = 0, squares = 0;   // a thread adds thousands of the same small number, whose roundings in f32 all go one way
  auto each = [&](auto take) {
    for (int64_t t = Team::rank(); t < p.tokens; t += Team::size) {
      int64_t row = t * p.token_stride + sample * p.sample_stride;
      if (!p.counted || p.counted[row]) take(double(p.weights[row * p.experts + e]));
    }
  };
  each([&](double w) { count++; sum += w; });
  count = Team::sum(count);
  double mean = count > 0 ? Team::sum(sum) / count : 0.0;
  each([&](double w) { squares += (w - mean) * (w - mean); });
  squares = Team::sum(squares);
  if (Team::rank() == 0) {
    float* to = p.columns + (sample * p.experts + e) * 3;
    to[0] = float(count);
    to[1] = float(mean);
    to[2] = float(squares);
  }
}

template <class Team> PTX void keep_all(const RouteForward& p) {
  for (int64_t item = Team::first(); item < (p.batch_scope ? 1 : int64_t(p.samples)) * p.experts; item += Team::step()) {
    int64_t sample = item / p.experts;
    int e = int(item % p.experts);
    keep<Team>(p, Scope{p, p.batch_scope ? p.tokens * p.samples : p.tokens, p.batch_scope ? -1 : sample}, e);
    if (p.columns && !p.batch_scope) column<Team>(p, sample, e);
  }
}

template <class Team> PTX void columns(const RouteForward& p) {
  for (int64_t item = Team::first(); item < int64_t(p.samples) * p.experts; item += Team::step())
    column<Team>(p, item / p.experts, int(item % p.experts));
}

// A block's stretch of the rows.
struct Stretch { int64_t first, end; };
PTX Stretch stretch(int64_t rows) {
  int64_t each = (rows + gridDim.x - 1) / gridDim.x, first = min(rows, each * int64_t(blockIdx.x));
  return {first, min(rows, first + each)};
}

// Whether (row, expert) is in the list; number E is the shared expert.
PTX bool listed(const RouteForward& p, int64_t row, int e) {
  if (p.needed && !p.needed[row]) return false;
  return e == p.experts ? p.shared_pairs != nullptr : p.kept[row * p.experts + e] != 0;
}

PTX void count_pairs(const RouteForward& p, Stretch rows) {
  for (int64_t i = rows.first * p.top_k + threadIdx.x; i < rows.end * p.top_k; i += blockDim.x) p.row_pairs[i] = -1;
  for (int e = threadIdx.x / 32; e <= p.experts; e += blockDim.x / 32) {
    int here = 0;
    for (int64_t row = rows.first + threadIdx.x % 32; row < rows.end; row += 32) here += listed(p, row, e) ? 1 : 0;
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

PTX void write_pair(const RouteForward& p, int64_t row, int e, int pair) {
  p.pair_row[pair] = int(row);
  p.pair_weight[pair] = e == p.experts ? 1.0f : p.weights[row * p.experts + e];
  for (int k = 0; e < p.experts && k < p.top_k; k++)
    if (p.chosen[row * p.top_k + k] == e) p.row_pairs[row * p.top_k + k] = pair;
}

PTX void list_pairs(const RouteForward& p, Stretch rows, const int* starts) {
  int lane = threadIdx.x % 32;
  for (int e = threadIdx.x / 32; e <= p.experts; e += blockDim.x / 32) {
    int start = starts[e];
    for (int64_t first = rows.first; first < rows.end; first += 32) {
      int64_t row = first + lane;
      bool is_listed = row < rows.end && listed(p, row, e);
      unsigned mask = __ballot_sync(~0u, is_listed);
      int pair = is_listed ? start + __popc(mask & ((1u << lane) - 1)) : -1;
      if (is_listed) write_pair(p, row, e, pair);
      if (e == p.experts && p.shared_pairs && row < rows.end) p.shared_pairs[row] = pair;
      start += __popc(mask);
    }
  }
}

PTX void forward(const RouteForward& p) {
  if (p.batch_scope ? int64_t(p.tokens) * p.samples > kWarpTokens : p.tokens > kWarpTokens) keep_all<Block>(p);
  else keep_all<Warp>(p);
  grid_barrier(p.counters);
  if (p.columns && p.batch_scope) {
    if (p.tokens > kWarpTokens) columns<Block>(p);
    else columns<Warp>(p);
  }
  Stretch rows = stretch(int64_t(p.tokens) * p.samples);
  count_pairs(p, rows);
  grid_barrier(p.counters + 1);
  list_pairs(p, rows, find_starts(p));
}
}

KERNEL(route_forward, RouteForward, 256, 1, route::forward(p))
