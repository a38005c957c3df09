// route, backward: from all gradients on weights, probabilities and logits to dlogits [N, E], one warp a row.
//
// dweight of a kept pair = the experts' parts of it + <dy, fc2_bias of its expert> (+ dweights, where the weight is not 0);
// through the division by the chosen probabilities' sum where the layer renormalises; + dprobabilities; through softmax; + dlogits_in.
// Grid: any. No shared memory: a row of dlogits holds what is in between. The same bits on every run. Launched by src/gpu/route.rs.
#include "args/route.cuh"
#include "lib/reduce.cuh"
#include "lib/vector.cuh"

namespace route_backward {
template <class T> PTX float dot(const T* a, const T* b, int width) {
  constexpr int n = kLanes<T>;
  int lane = threadIdx.x % 32;
  float sum = 0.0f;
  if (width % n == 0 && aligned_16(a) && aligned_16(b)) {
#pragma unroll 2                                   // four, as compilers choose, cost more registers than there are
    for (int64_t d = lane * n; d < width; d += 32 * n) {
      float left[n], right[n];
      load_16(a + d, left);
      load_16(b + d, right);
#pragma unroll
      for (int i = 0; i < n; i++) sum += left[i] * right[i];
    }
  } else {
    for (int64_t d = lane; d < width; d += 32) sum += to_float(a[d]) * to_float(b[d]);
  }
  return warp_sum(sum);
}

// The gradient on the weight of a row's pair, but for that of `dweights`.
template <class T> PTX float of_pair(const RouteBackward& p, int64_t row, int pair, int e) {
  float sum = 0.0f;
  for (int i = threadIdx.x % 32; i < p.parts; i += 32) sum += p.dweight_parts[int64_t(pair) * p.parts + i];
  sum = warp_sum(sum);
  if (!p.fc2_bias) return sum;
  return sum + dot(static_cast<const T*>(p.dy) + row * p.dy_stride, static_cast<const T*>(p.fc2_bias) + int64_t(e) * p.width, p.width);
}

template <class T> PTX void backward_row(const RouteBackward& p, int64_t row) {
  int lane = threadIdx.x % 32;
  int64_t first = row * p.experts;
  const float* probabilities = p.probabilities + first;
  const int* chosen = p.chosen + row * p.top_k;
  float* d = p.dlogits + first;   // first the gradients on probabilities
  float total = 1.0f, common = 0.0f, mean = 0.0f;
  for (int e = lane; e < p.experts; e += 32) d[e] = 0.0f;
  if (p.renormalise) {
    total = 0.0f;
    for (int k = 0; k < p.top_k; k++) total += probabilities[chosen[k]];
  }
  __syncwarp();
  for (int k = 0; k < p.top_k; k++) {
    int e = chosen[k], pair = p.row_pairs[row * p.top_k + k];
    float g = pair >= 0 ? of_pair<T>(p, row, pair, e) : 0.0f;
    // A weight of 0 was dropped, or is 0 by itself: then its probability takes every gradient away below.
    if (p.dweights && p.weights[first + e] != 0.0f) g += p.dweights[first + e];
    // The share is divided first: that of a single choice is then exactly 1, and its gradient exactly 0.
    if (p.renormalise) common += g * (probabilities[e] / total);
    if (lane == 0) d[e] = g;
  }
  __syncwarp();
  if (p.renormalise)
    for (int k = lane; k < p.top_k; k += 32) d[chosen[k]] = (d[chosen[k]] - common) / total;
  __syncwarp();
  for (int e = lane; e < p.experts; e += 32) {
    if (p.dprobabilities) d[e] += p.dprobabilities[first + e];
    mean += probabilities[e] * d[e];
  }
  mean = warp_sum(mean);
  for (int e = lane; e < p.experts; e += 32) {
    float g = probabilities[e] * (d[e] - mean);
    d[e] = p.dlogits_in ? g + p.dlogits_in[first + e] : g;
  }
}

template <class T> PTX void backward(const RouteBackward& p) {
  int64_t warps = blockDim.x / 32;
  for (int64_t row = blockIdx.x * warps + threadIdx.x / 32; row < p.rows; row += gridDim.x * warps) backward_row<T>(p, row);
}
}

KERNEL(route_backward_f32, RouteBackward, 256, 3, route_backward::backward<float>(p))
KERNEL(route_backward_bf16, RouteBackward, 256, 3, route_backward::backward<bf16>(p))
KERNEL(route_backward_f16, RouteBackward, 256, 3, route_backward::backward<f16>(p))
