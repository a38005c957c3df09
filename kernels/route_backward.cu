// route, backward: from all gradients on weights, probabilities and logits to dlogits [N, E], one warp a row.
//
// dweight of a kept pair = the experts' parts of it + <dy, fc2_bias of its expert> (+ dweights, where the weight is not 0);
// through the division by the chosen probabilities' sum where the layer renormalises; + dprobabilities; through softmax; + dlogits_in.
// The dot products of four choices are summed side by side, so that dy is read once and as many loads are on their way.
// Grid: any. No shared memory: a row of dlogits holds what is in between. The same bits on every run. Launched by src/gpu/route.rs.
#include "args/route.cuh"
#include "lib/reduce.cuh"
#include "lib/vector.cuh"

namespace route_backward {
constexpr int kAtOnce = 4;   // choices of a row whose dot products are summed side by side: they read dy once

// sums[k] = <dy, b[k]> of the choices that have a pair; a warp's lanes have the same bits.
template <class T> PTX void dots(const T* dy, const T* (&b)[kAtOnce], int width, bool wide, float (&sums)[kAtOnce]) {
  constexpr int n = kLanes<T>;
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kAtOnce; k++) sums[k] = 0.0f;
  if (wide) {
#pragma unroll 1
    for (int64_t d = lane * n; d < width; d += 32 * n) {
      float left[n], right[n];
      uint4 words[kAtOnce];
      load_16(dy + d, left);
#pragma unroll
      for (int k = 0; k < kAtOnce; k++)
        if (b[k]) words[k] = *reinterpret_cast<const uint4*>(b[k] + d);
#pragma unroll
      for (int k = 0; k < kAtOnce; k++) {
        if (!b[k]) continue;
        unpack_16<T>(words[k], right);
#pragma unroll
        for (int i = 0; i < n; i++) sums[k] += left[i] * right[i];
      }
    }
  } else {
    for (int64_t d = lane; d < width; d += 32)
#pragma unroll
      for (int k = 0; k < kAtOnce; k++)
        if (b[k]) sums[k] += to_float(dy[d]) * to_float(b[k][d]);
  }
#pragma unroll
  for (int k = 0; k < kAtOnce; k++) sums[k] = warp_sum(sums[k]);
}

// The gradients on the weights of a row's choices from number `first` on, but for those of `dweights`: 0 of what has no pair.
template <class T> PTX void of_pairs(const RouteBackward& p, int64_t row, int first, float (&g)[kAtOnce]) {
  const T* dy = static_cast<const T*>(p.dy) + row * p.dy_stride;
  const T* biases = static_cast<const T*>(p.fc2_bias);
  const T* bias[kAtOnce];
  const float* parts[kAtOnce];
  float of_bias[kAtOnce];
#pragma unroll
  for (int k = 0; k < kAtOnce; k++) {
    int64_t at = row * p.top_k + first + k;
    int pair = first + k < p.top_k ? p.row_pairs[at] : -1;
    parts[k] = pair >= 0 ? p.dweight_parts + int64_t(pair) * p.parts : nullptr;
    bias[k] = biases && pair >= 0 ? biases + int64_t(p.chosen[at]) * p.width : nullptr;
    g[k] = 0.0f;
  }
  for (int i = threadIdx.x % 32; i < p.parts; i += 32)
#pragma unroll
    for (int k = 0; k < kAtOnce; k++)
      if (parts[k]) g[k] += parts[k][i];
#pragma unroll
  for (int k = 0; k < kAtOnce; k++) g[k] = warp_sum(g[k]);
  if (!biases) return;
  // A row without pairs has no need of dy; the whole warp finds so.
  bool any = false;
#pragma unroll
  for (int k = 0; k < kAtOnce; k++) any |= bias[k] != nullptr;
  if (!any) return;
  bool wide = p.width % kLanes<T> == 0 && aligned_16(dy) && aligned_16(biases);
  dots(dy, bias, p.width, wide, of_bias);
#pragma unroll
  for (int k = 0; k < kAtOnce; k++) g[k] += of_bias[k];
}

template <class T> PTX void backward_row(const RouteBackward& p, int64_t row) {
  int lane = threadIdx.x % 32;
  int64_t first_logit = row * p.experts;
  const float* probabilities = p.probabilities + first_logit;
  const int* chosen = p.chosen + row * p.top_k;
  float* d = p.dlogits + first_logit;   // first the gradients on probabilities
  float total = 1.0f, common = 0.0f, mean = 0.0f;
  for (int e = lane; e < p.experts; e += 32) d[e] = 0.0f;
  if (p.renormalise) {
    total = 0.0f;
    for (int k = 0; k < p.top_k; k++) total += probabilities[chosen[k]];
  }
  __syncwarp();
  for (int first = 0; first < p.top_k; first += kAtOnce) {
    float of_pair[kAtOnce];
    of_pairs<T>(p, row, first, of_pair);
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) {
      if (first + k >= p.top_k) continue;
      int e = chosen[first + k];
      float g = of_pair[k];
      // A weight of 0 was dropped, or is 0 by itself: then its probability takes every gradient away below.
      if (p.dweights && p.weights[first_logit + e] != 0.0f) g += p.dweights[first_logit + e];
      // The share is divided first: that of a single choice is then exactly 1, and its gradient exactly 0.
      if (p.renormalise) common += g * (probabilities[e] / total);
      if (lane == 0) d[e] = g;
    }
  }
  __syncwarp();
  if (p.renormalise)
    for (int k = lane; k < p.top_k; k += 32) d[chosen[k]] = (d[chosen[k]] - common) / total;
  __syncwarp();
  for (int e = lane; e < p.experts; e += 32) {
    if (p.dprobabilities) d[e] += p.dprobabilities[first_logit + e];
    mean += probabilities[e] * d[e];
  }
  mean = warp_sum(mean);
  for (int e = lane; e < p.experts; e += 32) {
    float g = probabilities[e] * (d[e] - mean);
    d[e] = p.dlogits_in ? g + p.dlogits_in[first_logit + e] : g;
  }
}

template <class T> PTX void backward(const RouteBackward& p) {
  int64_t warps = blockDim.x / 32;
  for (int64_t row = blockIdx.x * warps + threadIdx.x / 32; row < p.rows; row += gridDim.x * warps) backward_row<T>(p, row);
}
}

KERNEL(route_backward_f32, RouteBackward, 256, 2, route_backward::backward<float>(p))
KERNEL(route_backward_bf16, RouteBackward, 256, 3, route_backward::backward<bf16>(p))
KERNEL(route_backward_f16, RouteBackward, 256, 2, route_backward::backward<f16>(p))
