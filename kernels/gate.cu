// gate, forward: hidden = fc1(x), logits = fc2(act(hidden)) or fc2(x), softmax, and the K highest logits of each row.
//
// x [N, D] -> hidden [N, H], logits and probabilities [N, E], chosen [N, K], weights [N, E]; all but x and the parameters in f32.
// A block takes 64 rows: tiles of 64 columns of hidden, then of logits, each a sum over the whole depth in order, then a warp a row for
// softmax and choice. It reads back what it has written itself, so D, H, E and K have no limit. What reads x in bf16 or f16 runs on
// tensor cores (lib/tile_mma.cuh); what reads the hidden layer, which is f32, in scalar multiply-adds (lib/tile.cuh).
// Grid: any. Shared memory: 17 KiB, or 40 KiB. A row's bits depend on that row alone. Launched by src/gpu/gate.rs.
#include "args/gate.cuh"
#include "lib/activation.cuh"
#include "lib/reduce.cuh"
#include "lib/tile.cuh"
#include "lib/tile_mma.cuh"

namespace gate {
// The activated hidden layer, [rows, H].
struct Features {
  static constexpr bool deep = true;
  const float* hidden;
  int64_t first;
  int rows, width, activation;
  PTX float operator()(int line, int k) const {
    return first + line < rows ? activate(activation, hidden[(first + line) * width + k]).value : 0.0f;
  }
};

// Bytes of shared memory.
template <class T> constexpr int kShared = sizeof(T) == 2 ? tile_mma::kShared : tile::kShared * int(sizeof(float));

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

// Of the experts behind (rank, ~expert) in the order of choice, the first. One warp.
PTX uint64_t next_choice(const float* logits, int experts, uint64_t behind) {
  uint64_t best = 0;
  for (int e = threadIdx.x % 32; e < experts; e += 32) {
    uint64_t key = uint64_t(rank_of(logits[e])) << 32 | ~uint32_t(e);
    if (key < behind && key > best) best = key;
  }
  uint32_t rank = __reduce_max_sync(~0u, uint32_t(best >> 32));
  uint32_t other = __reduce_max_sync(~0u, uint32_t(best >> 32) == rank ? uint32_t(best) : 0u);
  return uint64_t(rank) << 32 | other;
}

// Softmax, choice and weights of one row, by one warp.
PTX void choose(const GateForward& p, int64_t row) {
  int lane = threadIdx.x % 32;
  const float* logits = p.logits + row * p.experts;
  float* probabilities = p.probabilities + row * p.experts;
  float* weights = p.weights + row * p.experts;
  int* chosen = p.chosen + row * p.top_k;
  float highest = __uint_as_float(0xff800000), total = 0.0f;
  for (int e = lane; e < p.experts; e += 32) highest = fmaxf(highest, logits[e]);
  highest = warp_max(highest);
  for (int e = lane; e < p.experts; e += 32) total += expf(logits[e] - highest);
  total = warp_sum(total);
  for (int e = lane; e < p.experts; e += 32) {
    probabilities[e] = expf(logits[e] - highest) / total;
    weights[e] = -1.0f;
  }
  __syncwarp();
  uint64_t key = ~uint64_t(0);
  float sum = 0.0f;
  for (int k = 0; k < p.top_k; k++) {
    key = next_choice(logits, p.experts, key);
    int e = int(~uint32_t(key));
    sum += probabilities[e];
    if (lane == 0) chosen[k] = e;
  }
  __syncwarp();
  if (p.routed && !p.routed[row]) return;
  for (int k = lane; k < p.top_k; k += 32) weights[chosen[k]] = probabilities[chosen[k]] / (p.renormalise ? sum : 1.0f);
}

template <class T> PTX void forward(const GateForward& p) {
  STATIC_SHARED(float4, shared, kShared<T> / 16);
  if (blockIdx.x == 0 && threadIdx.x < 16) p.counters[threadIdx.x] = 0;
  for (int64_t first = int64_t(blockIdx.x) * tile::kLines; first < p.rows; first += int64_t(gridDim.x) * tile::kLines) {
    tile::Rows<T> x{static_cast<const T*>(p.x), p.x_stride, first, p.rows};
    if (p.hidden_width > 0) {
      affine<T>(x, p.fc1_weight, p.fc1_bias, p.width, p.hidden_width, first, p.rows, p.hidden, shared);
      Features features{p.hidden, first, p.rows, p.hidden_width, p.activation};
      affine<T>(features, p.fc2_weight, p.fc2_bias, p.hidden_width, p.experts, first, p.rows, p.logits, shared);
    } else {
      affine<T>(x, p.fc2_weight, p.fc2_bias, p.width, p.experts, first, p.rows, p.logits, shared);
    }
    for (int64_t row = first + threadIdx.x / 32; row < first + tile::kLines && row < p.rows; row += tile::kThreads / 32) choose(p, row);
  }
}
}

KERNEL(gate_forward_f32, GateForward, 256, 2, gate::forward<float>(p))
KERNEL(gate_forward_bf16, GateForward, 256, 2, gate::forward<bf16>(p))
KERNEL(gate_forward_f16, GateForward, 256, 2, gate::forward<f16>(p))
