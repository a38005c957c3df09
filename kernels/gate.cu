// gate, forward: hidden = fc1(x), logits = fc2(act(hidden)) or fc2(x), softmax, and the K highest logits of each row.
//
// x [N, D] -> hidden [N, H], logits and probabilities [N, E], chosen [N, K], weights [N, E]; all but x and the parameters in f32.
// joined: bf16 or f16, a hidden layer, at most 32 experts. Each block takes 16 to 128 rows, so many that all multiprocessors have alike,
//         and up to 256 columns of hidden at once on tensor cores, so that x is read once. Their activations never leave registers: each
//         is multiplied there by fc2's f32 weights for every expert; four lanes, then four warps are summed in order. Then four lanes a row
//         for softmax and choice.
// apart:  whatever else. A block takes 64 rows: tiles of 64 columns of hidden, then of logits, each a sum over the whole depth in order,
//         then a warp a row for softmax and choice. It reads back what it has written itself, so D, H, E and K have no limit. What reads x
//         in bf16 or f16 runs on tensor cores (lib/tile_mma.cuh), all else in scalar multiply-adds (lib/tile.cuh).
// Grid: any. Shared memory: 96 KiB, of f32 17 KiB. A row's bits depend on that row alone. Launched by src/gpu/gate.rs.
#include "args/gate.cuh"
#include "lib/activation.cuh"
#include "lib/reduce.cuh"
#include "lib/tile.cuh"
#include "lib/tile_mma.cuh"
#include "lib/tile_wide.cuh"

namespace gate {
using Features = tile::Activated<tile::Rows<float>>;

// A tile of a b^T: by tensor cores where both are of 16 bits, which lose nothing in f32 sums.
template <class T, class To> PTX void multiply(const tile::Rows<T>& a, const tile::Rows<T>& b, int depth, void* shared, To to) {
  if constexpr (sizeof(T) == 2) {
    tile_mma::multiply(a, b, depth, shared, to);
  } else {
    float sums[4][4];
    tile::multiply(a, b, depth, static_cast<float*>(shared), sums);
    tile::each(sums, to);
  }
}
template <class T, class To> PTX void multiply(const Features& a, const tile::Rows<T>& b, int depth, void* shared, To to) {
  float sums[4][4];
  tile::multiply(a, b, depth, static_cast<float*>(shared), sums);
  tile::each(sums, to);
}

// to [rows, columns] = a weight^T + bias, for the 64 rows from `first` on.
template <class T, class A>
PTX void affine(const A& a, const void* weight, const void* bias, int depth, int columns, int64_t first, int rows, float* to, void* shared) {
  const T* w = static_cast<const T*>(weight);
  const T* b = static_cast<const T*>(bias);
  for (int64_t start = 0; start < columns; start += tile::kLines) {
    multiply(a, tile::Rows<T>{w, depth, start, columns}, depth, shared, [&](int line, int other, float sum) {
      int64_t row = first + line, column = start + other;
      if (row < rows && column < columns) to[row * columns + column] = sum + (b ? to_float(b[column]) : 0.0f);
    });
  }
  __syncthreads();   // the block reads them back
}

// A number that is the higher the higher z is; 0 for NaN, and the same for both zeros.
PTX uint32_t rank_of(float z) {
  if (z != z) return 0;
  uint32_t bits = __float_as_uint(z == 0.0f ? 0.0f : z);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Of the experts behind (rank, ~expert) in the order of choice, the first. So many lanes a row.
template <int Lanes> PTX uint64_t next_choice(const float* logits, int experts, uint64_t behind) {
  uint64_t best = 0;
  for (int e = threadIdx.x % Lanes; e < experts; e += Lanes) {
    uint64_t key = uint64_t(rank_of(logits[e])) << 32 | ~uint32_t(e);
    if (key < behind && key > best) best = key;
  }
  return lanes_max<Lanes>(best);
}

// Softmax, choice and weights of one row, by so many lanes of a warp; nothing is written of one that is not `real`.
template <int Lanes> PTX void choose(const GateForward& p, const float* logits, int64_t row, bool real) {
  int lane = threadIdx.x % Lanes;
  float* probabilities = p.probabilities + row * p.experts;
  float* weights = p.weights + row * p.experts;
  int* chosen = p.chosen + row * p.top_k;
  float highest = __uint_as_float(0xff800000), total = 0.0f;
  for (int e = lane; e < p.experts; e += Lanes) highest = fmaxf(highest, logits[e]);
  highest = lanes_max<Lanes>(highest);
  for (int e = lane; e < p.experts; e += Lanes) total += expf(logits[e] - highest);
  total = lanes_sum<Lanes>(total);
  auto probability = [&](int e) { return expf(logits[e] - highest) / total; };
  for (int e = lane; real && e < p.experts; e += Lanes) {
    probabilities[e] = probability(e);
    weights[e] = -1.0f;
  }
  uint64_t key = ~uint64_t(0);
  float sum = 0.0f;
  for (int k = 0; k < p.top_k; k++) {
    key = next_choice<Lanes>(logits, p.experts, key);
    int e = int(~uint32_t(key));
    sum += probability(e);
    if (real && lane == 0) chosen[k] = e;
  }
  __syncwarp();
  if (!real || (p.routed && !p.routed[row])) return;
  for (int k = lane; k < p.top_k; k += Lanes) weights[chosen[k]] = probability(chosen[k]) / (p.renormalise ? sum : 1.0f);
}

template <class T> PTX void apart(const GateForward& p, void* shared) {
  for (int64_t first = int64_t(blockIdx.x) * tile::kLines; first < p.rows; first += int64_t(gridDim.x) * tile::kLines) {
    tile::Rows<T> x{static_cast<const T*>(p.x), p.x_stride, first, p.rows};
    if (p.hidden_width > 0) {
      affine<T>(x, p.fc1_weight, p.fc1_bias, p.width, p.hidden_width, first, p.rows, p.hidden, shared);
      Features features{{p.hidden, p.hidden_width, first, p.rows}, p.activation};
      affine<T>(features, p.fc2_weight, p.fc2_bias, p.hidden_width, p.experts, first, p.rows, p.logits, shared);
    } else {
      affine<T>(x, p.fc2_weight, p.fc2_bias, p.width, p.experts, first, p.rows, p.logits, shared);
    }
    for (int64_t row = first + threadIdx.x / 32; row < first + tile::kLines && row < p.rows; row += tile::kThreads / 32)
      choose<32>(p, p.logits + row * p.experts, row, true);
  }
}

using tile_wide::Sums, tile_wide::kColumns;
constexpr int kMostExperts = 32;
static_assert(kMostExperts * (kColumns + 4 * tile_wide::kRows) * int(sizeof(float)) <= tile_wide::kShared, "fc2's columns and the parts");
static_assert(tile_mma::kShared <= tile_wide::kShared && tile::kShared < tile_wide::kShared, "what stays apart needs less");

// Some rows of a block, and columns of the hidden layer from `start` on.
struct Share {
  int64_t first, end;
  int start, down;
};

// Outside of hidden `sums` are 0.
template <class T> PTX void add_bias(const GateForward& p, const Share& at, Sums& sums) {
  const T* bias = static_cast<const T*>(p.fc1_bias);
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int column = at.start + Sums::column(j) + half * 8 + lane % 4 * 2;
      float b[2];
#pragma unroll
      for (int c = 0; c < 2; c++) b[c] = bias && column + c < p.hidden_width ? to_float(bias[column + c]) : 0.0f;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (i >= at.down) continue;
#pragma unroll
        for (int r = 0; r < 4; r++) {
          bool inside = at.first + Sums::row(i) + lane / 4 + r / 2 * 8 < at.end && column + r % 2 < p.hidden_width;
          sums.of[i][j][half][r] = inside ? sums.of[i][j][half][r] + b[r % 2] : 0.0f;
        }
      }
    }
}

// Every sum's activation, which is 0 of 0. Others than relu go by way of shared memory, each thread its own: their code is long, and would
// be there once for each of 128 registers.
PTX void activate_all(int activation, int down, Sums& sums) {
  DYNAMIC_SHARED(smem);
  float* own = reinterpret_cast<float*>(smem) + threadIdx.x;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (i >= down) continue;
    if (activation == 0) {
#pragma unroll
      for (int v = 0; v < 32; v++) sums.of[i][v / 8][v / 4 % 2][v % 4] = activate(0, sums.of[i][v / 8][v / 4 % 2][v % 4]).value;
      continue;
    }
#pragma unroll
    for (int v = 0; v < 32; v++) own[v * tile::kThreads] = sums.of[i][v / 8][v / 4 % 2][v % 4];
#pragma unroll 2
    for (int v = 0; v < 32; v++) own[v * tile::kThreads] = activate(activation, own[v * tile::kThreads]).value;
#pragma unroll
    for (int v = 0; v < 32; v++) sums.of[i][v / 8][v / 4 % 2][v % 4] = own[v * tile::kThreads];
  }
  __syncthreads();                       // shared memory is everybody's again
}

// What the columns in `sums` give to each logit, in parts [4, rows, E] of the four warps that share a row.
template <class T> PTX void weigh(const GateForward& p, const Share& at, int across, const Sums& sums, float* fc2, float* parts) {
  const T* weight = static_cast<const T*>(p.fc2_weight);
  int lane = threadIdx.x % 32, h = at.start + int(threadIdx.x);
#pragma unroll 1                         // else some versions of the compiler spill
  for (int e = 0; e < p.experts; e++)
    fc2[e * kColumns + threadIdx.x] = h < p.hidden_width ? to_float(weight[int64_t(e) * p.hidden_width + h]) : 0.0f;
  __syncthreads();
#pragma unroll 1
  for (int e = 0; e < p.experts; e++) {
    float logits[4][2] = {};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (j >= across) continue;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float2 w = *reinterpret_cast<const float2*>(fc2 + e * kColumns + Sums::column(j) + half * 8 + lane % 4 * 2);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int r = 0; r < 4; r++)
            if (i < at.down) logits[i][r / 2] += sums.of[i][j][half][r] * (r % 2 ? w.y : w.x);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int r = 0; r < 2; r++) {
        if (i >= at.down) continue;
        float sum = lanes_sum<4>(logits[i][r]);
        int row = (int(threadIdx.x) / 64 * at.down * 32) + Sums::row(i) + lane / 4 + r * 8;
        if (lane % 4 == 0) parts[row * p.experts + e] = sum;
      }
  }
  __syncthreads();
}

template <class T> PTX void joined(const GateForward& p) {
  DYNAMIC_SHARED(smem);
  float* fc2 = reinterpret_cast<float*>(smem);
  float* parts = fc2 + p.experts * kColumns;
  int tiles = (p.rows - 1) / 16 + 1, turns = (tiles - 1) / (8 * int(gridDim.x)) + 1, each = (tiles - 1) / (int(gridDim.x) * turns) + 1;
  const T* bias = static_cast<const T*>(p.fc2_bias);
  for (int64_t first = int64_t(blockIdx.x) * each * 16; first < p.rows; first += int64_t(gridDim.x) * each * 16) {
    Share at{first, min(int64_t(p.rows), first + each * 16), 0, (each + 1) / 2};
    int count = int(at.end - first) * p.experts, apart = at.down * 32 * p.experts;
    for (; at.start < p.hidden_width; at.start += kColumns) {
      Sums sums;
      int across = (min(p.hidden_width - at.start, kColumns) + 63) / 64;
      tile::Rows<T> x{static_cast<const T*>(p.x), p.x_stride, first, int(at.end)};
      tile::Rows<T> fc1{static_cast<const T*>(p.fc1_weight), p.width, at.start, p.hidden_width};
      tile_wide::multiply(x, fc1, p.width, at.down, across, sums);
      add_bias<T>(p, at, sums);
      sums.write(p.hidden, first, at.end, at.start, p.hidden_width, at.down);
      activate_all(p.activation, at.down, sums);
      weigh<T>(p, at, across, sums, fc2, parts);
      for (int i = threadIdx.x; i < count; i += tile::kThreads) {
        float logit = at.start > 0 ? p.logits[first * p.experts + i] : 0.0f;
        for (int warp = 0; warp < 4; warp++) logit += parts[warp * apart + i];
        if (at.start + kColumns >= p.hidden_width && bias) logit += to_float(bias[i % p.experts]);
        p.logits[first * p.experts + i] = parts[i] = logit;
      }
      __syncthreads();                   // parts are the logits now; or the next columns' steps come in their place
    }
    for (int64_t row = first + threadIdx.x / 4; row < first + at.down * 32; row += tile::kThreads / 4) {
      bool real = row < at.end;
      int64_t own = real ? row : first;
      choose<4>(p, parts + (own - first) * p.experts, own, real);
    }
    __syncthreads();                     // the next rows' steps come in their place
  }
}

template <class T> PTX void forward(const GateForward& p) {
  DYNAMIC_SHARED(smem);
  if (blockIdx.x == 0 && threadIdx.x < 16) p.counters[threadIdx.x] = 0;
  if constexpr (sizeof(T) == 2) {
    if (p.hidden_width > 0 && p.experts <= kMostExperts) joined<T>(p);
    else apart<T>(p, smem);
  } else {
    apart<T>(p, smem);
  }
}
}

KERNEL(gate_forward_f32, GateForward, 256, 2, gate::forward<float>(p))
KERNEL(gate_forward_bf16, GateForward, 256, 1, gate::forward<bf16>(p))
KERNEL(gate_forward_f16, GateForward, 256, 1, gate::forward<f16>(p))
