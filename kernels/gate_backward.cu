// gate, backward: from dlogits [N, E] to dhidden [N, H], the gate's share of dx [N, D], and the gradients of its parameters.
//
// rows:    dhidden = dlogits fc2 * act'(hidden), dx = dhidden fc1; or dx = dlogits fc2 of a linear gate. A block takes 64 rows. Or joined:
//          with parameters in bf16 or f16 and a hidden layer of at most 1152 a block takes 16 to 128 rows, so many that all multiprocessors
//          have alike and that dhidden stays in shared memory; fc1 passes by it, 256 columns at once.
// weights: dfc1 = dhidden^T x, dfc2 = dlogits^T act(hidden), or dlogits^T x. A block takes a tile of 64 x 64 sums, or in 16 bits of 64 x 128,
//          over a split of the rows; the first tile across sums up the bias's gradient too, of what passes by of dhidden or dlogits. The last
//          of a tile's splits adds their parts in order.
// With parameters in bf16 or f16 products run on tensor cores, of values cut into bf16 parts (lib/tile_split.cuh): gradients are f32, and
// lose 2^-17 of themselves. In f32 they run in scalar multiply-adds (lib/tile.cuh).
// Grid: any. Shared memory: 17 KiB in f32, else 96 KiB (rows) or 60 KiB (weights). The same bits on every run, whatever the order of blocks.
// Launched by src/gpu/gate.rs.
#include "args/gate.cuh"
#include "lib/activation.cuh"
#include "lib/grid.cuh"
#include "lib/tile.cuh"
#include "lib/tile_resident.cuh"
#include "lib/tile_split.cuh"

namespace gate_backward {
// How products are made of parameters or x in T; `lines`, where that is asked for, as lib/tile.cuh has them.
template <class T> struct Product {
  using LineSums = tile::LineSums<2>;
  template <class A, class B, int N, class... Lines>
  static PTX void multiply(const A& a, const B& b, int depth, void* shared, float (&sums)[N][4], Lines&... lines) {
    tile_split::multiply(a, b, depth, shared, sums, lines...);
  }
  template <int N, class To> static PTX void each(float (&sums)[N][4], To to) { tile_split::each(sums, to); }
};
template <> struct Product<float> {
  using LineSums = tile::LineSums<1>;
  template <class A, class B, class... Lines>
  static PTX void multiply(const A& a, const B& b, int depth, void* shared, float (&sums)[4][4], Lines&... lines) {
    tile::multiply(a, b, depth, static_cast<float*>(shared), sums, lines...);
  }
  template <class To> static PTX void each(float (&sums)[4][4], To to) { tile::each(sums, to); }
};

template <class T> PTX void rows_apart(const GateBackwardRows& p, void* shared) {
  using Way = Product<T>;
  const T* fc1 = static_cast<const T*>(p.fc1_weight);
  const T* fc2 = static_cast<const T*>(p.fc2_weight);
  for (int64_t first = int64_t(blockIdx.x) * tile::kLines; first < p.rows; first += int64_t(gridDim.x) * tile::kLines) {
    float sums[4][4];
    tile::Rows<float> dlogits{p.dlogits, p.experts, first, p.rows}, dhidden{p.dhidden, p.hidden_width, first, p.rows};
    for (int64_t start = 0; start < p.hidden_width; start += tile::kLines) {
      Way::multiply(dlogits, tile::Columns<T>{fc2, p.hidden_width, start, p.hidden_width}, p.experts, shared, sums);
      Way::each(sums, [&](int line, int other, float sum) {
        int64_t row = first + line, h = start + other, at = row * p.hidden_width + h;
        if (row < p.rows && h < p.hidden_width) p.dhidden[at] = sum * activate(p.activation, p.hidden[at]).slope;
      });
    }
    __syncthreads();   // the block reads dhidden back
    for (int64_t start = 0; start < p.width; start += tile::kLines) {
      if (p.hidden_width > 0) Way::multiply(dhidden, tile::Columns<T>{fc1, p.width, start, p.width}, p.hidden_width, shared, sums);
      else Way::multiply(dlogits, tile::Columns<T>{fc2, p.width, start, p.width}, p.experts, shared, sums);
      Way::each(sums, [&](int line, int other, float sum) {
        int64_t row = first + line, d = start + other;
        if (row < p.rows && d < p.width) static_cast<T*>(p.dx)[row * p.width + d] = narrow<T>(sum);
      });
    }
  }
}

using tile_resident::Resident;
[[maybe_unused]] constexpr int kWidest = Resident::kBytes / 64;   // the widest hidden layer of which 16 rows are resident
static_assert(tile_split::shared_bytes(tile::kLines) <= tile_wide::kShared, "what stays apart needs less");

// 8 rows of one column at a time. Every thread needs all of dlogits: from shared memory, [E, lines] where fc1 is to pass by, if it has room.
template <class T> PTX void fill(const GateBackwardRows& p, const Resident& to, int64_t first, int64_t end) {
  DYNAMIC_SHARED(smem);
  float* room = reinterpret_cast<float*>(smem + Resident::kBytes);
  const T* fc2 = static_cast<const T*>(p.fc2_weight);
  const float* dlogits = p.dlogits + first * p.experts;
  int rows = int(end - first), all = to.lines * p.experts;
  bool has_room = all <= Resident::kStages * Resident::kStage / int(sizeof(float));
  for (int i = threadIdx.x; has_room && i < all; i += tile::kThreads)
    room[i % p.experts * to.lines + i / p.experts] = i < rows * p.experts ? dlogits[i] : 0.0f;
  __syncthreads();
  for (int item = threadIdx.x; item < to.depth * (to.lines / 8); item += tile::kThreads) {
    int h = item % to.depth, line = item / to.depth * 8, experts = h < p.hidden_width ? p.experts : 0;
    float hidden[8], sums[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      bool inside = line + i < rows && h < p.hidden_width;
      hidden[i] = inside ? p.hidden[(first + line + i) * p.hidden_width + h] : 0.0f;
      sums[i] = 0.0f;
    }
    auto sum_up = [&](auto dlogit) {
#pragma unroll 4
      for (int e = 0; e < experts; e++) {
        float w = to_float(fc2[int64_t(e) * p.hidden_width + h]);
#pragma unroll
        for (int i = 0; i < 8; i++) sums[i] += dlogit(e, i) * w;
      }
    };
    if (has_room) sum_up([&](int e, int i) { return room[e * to.lines + line + i]; });
    else sum_up([&](int e, int i) { return dlogits[min(line + i, rows - 1) * p.experts + e]; });
#pragma unroll
    for (int i = 0; i < 8; i++) {
      bool inside = line + i < rows && h < p.hidden_width;
      float d = inside ? sums[i] * activate(p.activation, hidden[i]).slope : 0.0f;
      if (inside) p.dhidden[(first + line + i) * p.hidden_width + h] = d;
      to.set(smem, line + i, h, d);
    }
  }
  __syncthreads();                       // the product's steps come in the place of dlogits
}

template <class T> PTX void rows_joined(const GateBackwardRows& p) {
  int width = (p.hidden_width + 63) / 64 * 64, most = min(8, Resident::kBytes / (64 * width));
  int tiles = (p.rows - 1) / 16 + 1, turns = (tiles - 1) / (most * int(gridDim.x)) + 1, each = (tiles - 1) / (int(gridDim.x) * turns) + 1;
  int down = (each + 1) / 2;
  Resident dhidden{width, each * 16};
  tile::Rows<T> fc1{static_cast<const T*>(p.fc1_weight), p.width, 0, p.hidden_width};
  for (int64_t first = int64_t(blockIdx.x) * each * 16; first < p.rows; first += int64_t(gridDim.x) * each * 16) {
    int64_t end = min(int64_t(p.rows), first + each * 16);
    fill<T>(p, dhidden, first, end);
    for (int start = 0; start < p.width; start += Resident::kColumns) {
      tile_wide::Sums sums;
      tile_resident::multiply(dhidden, fc1, p.width, down, start, sums);
      sums.write(static_cast<T*>(p.dx), first, end, start, p.width, down);
    }
  }
}

template <class T> PTX void rows(const GateBackwardRows& p) {
  DYNAMIC_SHARED(smem);
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < p.tiles; i += int64_t(gridDim.x) * blockDim.x) p.counters[i] = 0;
  if constexpr (sizeof(T) == 2) {
    if (p.hidden_width > 0 && p.hidden_width <= kWidest) rows_joined<T>(p);
    else rows_apart<T>(p, smem);
  } else {
    rows_apart<T>(p, smem);
  }
}

// One linear map: the gradient on its outputs, [N, outputs], and where its parameters' gradients go.
struct Map {
  const float* dy;
  int outputs, inputs;
  void* weight;
  void* bias;
  PTX int tiles_across(int columns) const { return (inputs - 1) / columns + 1; }
  PTX int tiles(int columns) const { return weight ? ((outputs - 1) / tile::kLines + 1) * tiles_across(columns) : 0; }
};

// A tile's sums become gradients in G. All that they are added to is read before any is written, which a read would wait for.
template <class G, class Way, int N>
PTX void put(const GateBackwardWeights& p, const Map& map, int line, int column, float (&sums)[N][4], float bias) {
  G* weight = static_cast<G*>(map.weight) + int64_t(line) * map.inputs + column;
  G* biases = static_cast<G*>(map.bias);
  int own = line + int(threadIdx.x);
  bool has_bias = biases && column == 0 && threadIdx.x < tile::kLines && own < map.outputs;
  auto inside = [&](int i, int j) { return line + i < map.outputs && column + j < map.inputs; };
  if (p.accumulate) {
    float before[N][4], before_bias = has_bias ? to_float(biases[own]) : 0.0f;
    Way::each(before, [&](int i, int j, float& to) { to = inside(i, j) ? to_float(weight[int64_t(i) * map.inputs + j]) : 0.0f; });
#pragma unroll
    for (int i = 0; i < 4 * N; i++) sums[i / 4][i % 4] += before[i / 4][i % 4];
    bias += before_bias;
  }
  Way::each(sums, [&](int i, int j, float sum) {
    if (inside(i, j)) weight[int64_t(i) * map.inputs + j] = narrow<G>(sum);
  });
  if (has_bias) biases[own] = narrow<G>(bias);
}

// The sums of all splits, if this block is the last of them. Thread t's sums lie 256 apart in a part, and behind them those for the biases.
template <int N> PTX bool add_splits(const GateBackwardWeights& p, int tile, int split, float (&sums)[N][4], float& bias) {
  constexpr int size = tile::kLines * (16 * N + 1);
  float* parts = p.parts + int64_t(tile) * p.splits * size + threadIdx.x;
  auto part = [&](int s, int i) -> float& { return parts[int64_t(s) * size + i * tile::kThreads]; };
  bool has_bias = threadIdx.x < tile::kLines;
#pragma unroll
  for (int i = 0; i < 4 * N; i++) part(split, i) = sums[i / 4][i % 4];
  if (has_bias) part(split, 4 * N) = bias;
  if (!last_block(p.counters + tile, p.splits)) return false;
#pragma unroll
  for (int i = 0; i < 4 * N; i++) sums[i / 4][i % 4] = 0.0f;
  bias = 0.0f;
  for (int s = 0; s < p.splits; s++) {
#pragma unroll
    for (int i = 0; i < 4 * N; i++) sums[i / 4][i % 4] += part(s, i);
    if (has_bias) bias += part(s, 4 * N);
  }
  return true;
}

template <class T> PTX void weights(const GateBackwardWeights& p) {
  DYNAMIC_SHARED(smem);
  using Way = Product<T>;
  constexpr int N = sizeof(T) == 2 ? 8 : 4, columns = 16 * N;
  bool two_maps = p.hidden_width > 0;
  auto fc1 = [&] { return Map{p.dhidden, p.hidden_width, p.width, p.dfc1_weight, p.dfc1_bias}; };
  auto fc2 = [&] { return Map{p.dlogits, p.experts, two_maps ? p.hidden_width : p.width, p.dfc2_weight, p.dfc2_bias}; };
  int of_fc1 = two_maps ? fc1().tiles(columns) : 0, items = (of_fc1 + fc2().tiles(columns)) * p.splits;
  int stretch = (p.rows - 1) / p.splits + 1;
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    int tile = item / p.splits, split = item % p.splits;
    Map map = tile < of_fc1 ? fc1() : fc2();
    int number = tile < of_fc1 ? tile : tile - of_fc1, across = map.tiles_across(columns);
    int line = number / across * tile::kLines, column = number % across * columns;
    int64_t row = min(int64_t(p.rows), int64_t(split) * stretch);
    int depth = int(min(int64_t(p.rows), row + stretch) - row);
    tile::Columns<float> dy{map.dy + row * map.outputs, map.outputs, line, map.outputs};
    tile::Columns<T> x{static_cast<const T*>(p.x) + row * p.x_stride, p.x_stride, column, map.inputs};
    tile::Columns<float> hidden{p.hidden + row * p.hidden_width, p.hidden_width, column, map.inputs};
    float sums[N][4];
    typename Way::LineSums lines;
    if (tile < of_fc1 || !two_maps) Way::multiply(dy, x, depth, smem, sums, lines);
    else Way::multiply(dy, tile::Activated<tile::Columns<float>>{hidden, p.activation}, depth, smem, sums, lines);
    float bias = map.bias && column == 0 ? lines.total(reinterpret_cast<float*>(smem)) : 0.0f;
    if (p.splits > 1 && !add_splits(p, tile, split, sums, bias)) continue;
    if (p.gradient_f32) put<float, Way>(p, map, line, column, sums, bias);
    else put<T, Way>(p, map, line, column, sums, bias);
  }
}
}

KERNEL(gate_backward_rows_f32, GateBackwardRows, 256, 2, gate_backward::rows<float>(p))
KERNEL(gate_backward_rows_bf16, GateBackwardRows, 256, 1, gate_backward::rows<bf16>(p))
KERNEL(gate_backward_rows_f16, GateBackwardRows, 256, 1, gate_backward::rows<f16>(p))
KERNEL(gate_backward_weights_f32, GateBackwardWeights, 256, 2, gate_backward::weights<float>(p))
KERNEL(gate_backward_weights_bf16, GateBackwardWeights, 256, 2, gate_backward::weights<bf16>(p))
KERNEL(gate_backward_weights_f16, GateBackwardWeights, 256, 2, gate_backward::weights<f16>(p))
