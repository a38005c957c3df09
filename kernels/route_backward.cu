// route, backward: from all gradients on weights, probabilities and logits to dlogits [N, E], one warp a row.
//
// dweight of a kept pair = the experts' parts of it + <dy, fc2_bias of its expert> (+ dweights, where the weight is not 0);
// through the division by the chosen probabilities' sum where the layer renormalises; + dprobabilities; through softmax; + dlogits_in.
// The dot products of four choices are summed side by side, so that dy is read once and as many loads are on their way.
// What is in between the lanes hold, one expert each; of more than 32, the row of dlogits.
// Grid: any. No shared memory. The same bits on every run. Launched by src/gpu/route.rs.
#include "args/route.cuh"
#include "lib/reduce.cuh"
#include "lib/vector.cuh"

namespace route_backward {
constexpr int kAtOnce = 4;   // choices of a row whose dot products are summed side by side: they read dy once

// sums[k] = <dy, biases[experts[k]]>, or 0 of expert -1; a warp's lanes have the same bits.
template <class T>
PTX void dots(const T* dy, const T* biases, const int (&experts)[kAtOnce], int width, bool wide, float (&sums)[kAtOnce]) {
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
        if (experts[k] >= 0) words[k] = *reinterpret_cast<const uint4*>(biases + int64_t(experts[k]) * width + d);
#pragma unroll
      for (int k = 0; k < kAtOnce; k++) {
        if (experts[k] < 0) continue;
        unpack_16<T>(words[k], right);
#pragma unroll
        for (int i = 0; i < n; i++) sums[k] += left[i] * right[i];
      }
    }
  } else {
    for (int64_t d = lane; d < width; d += 32)
#pragma unroll
      for (int k = 0; k < kAtOnce; k++)
        if (experts[k] >= 0) sums[k] += to_float(dy[d]) * to_float(biases[int64_t(experts[k]) * width + d]);
  }
#pragma unroll
  for (int k = 0; k < kAtOnce; k++) sums[k] = warp_sum(sums[k]);
}

// The gradients on the weights of a row's choices from number `first` on, but for those of `dweights`: 0 of what has no pair.
template <class T> PTX void of_pairs(const RouteBackward& p, int64_t row, int first, float (&g)[kAtOnce]) {
  const T* dy = static_cast<const T*>(p.dy) + row * p.dy_stride;
  const T* biases = static_cast<const T*>(p.fc2_bias);
  const float* parts[kAtOnce];
  float of_bias[kAtOnce];
  int pairs[kAtOnce], experts[kAtOnce];
#pragma unroll
  for (int k = 0; k < kAtOnce; k++) {
    int64_t at = row * p.top_k + min(first + k, p.top_k - 1);
    pairs[k] = p.row_pairs[at];
    experts[k] = p.chosen[at];
  }
#pragma unroll
  for (int k = 0; k < kAtOnce; k++) {
    bool has = first + k < p.top_k && pairs[k] >= 0;
    parts[k] = has ? p.dweight_parts + int64_t(pairs[k]) * p.parts : nullptr;
    if (!has) experts[k] = -1;
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
  for (int k = 0; k < kAtOnce; k++) any |= experts[k] >= 0;
  if (!any) return;
  bool wide = p.width % kLanes<T> == 0 && aligned_16(dy) && aligned_16(biases);
  dots(dy, biases, experts, p.width, wide, of_bias);
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

template <class V> PTX V of_lane(V value, int lane) { return __shfl_sync(~0u, value, lane); }

// The same where there are at most 32 experts: lane e has what there is of expert e, all of which is loaded first.
template <class T> PTX void backward_few(const RouteBackward& p, int64_t row) {
  int lane = threadIdx.x % 32;
  int64_t at = row * p.experts + min(lane, p.experts - 1);
  bool has = lane < p.experts, is_chosen = false;
  float probability = p.probabilities[at], weight = 0.0f, dweight = 0.0f;
  int chosen = p.chosen[row * p.top_k + min(lane, p.top_k - 1)];
  if (p.dweights) {
    weight = p.weights[at];
    dweight = p.dweights[at];
  }
  float d = 0.0f, total = 1.0f, common = 0.0f;
  if (p.renormalise) {
    total = 0.0f;
    for (int k = 0; k < p.top_k; k++) total += of_lane(probability, of_lane(chosen, k));
  }
  if (weight == 0.0f) dweight = 0.0f;
  for (int first = 0; first < p.top_k; first += kAtOnce) {
    float of_pair[kAtOnce];
    of_pairs<T>(p, row, first, of_pair);
#pragma unroll
    for (int k = 0; k < kAtOnce; k++) {
      if (first + k >= p.top_k) continue;
      int e = of_lane(chosen, first + k);
      float g = of_pair[k] + of_lane(dweight, e);
      common += g * (of_lane(probability, e) / total);
      if (lane == e) {
        d = g;
        is_chosen = true;
      }
    }
  }
  if (p.renormalise && is_chosen) d = (d - common) / total;
  if (p.dprobabilities) d += p.dprobabilities[at];
  float mean = warp_sum(has ? probability * d : 0.0f), g = probability * (d - mean);
  if (has) p.dlogits[at] = p.dlogits_in ? g + p.dlogits_in[at] : g;
}

template <class T> PTX void backward(const RouteBackward& p) {
  int64_t warps = blockDim.x / 32, first = blockIdx.x * warps + threadIdx.x / 32, step = gridDim.x * warps;
  if (p.experts <= 32) {
    for (int64_t row = first; row < p.rows; row += step) backward_few<T>(p, row);
  } else {
    for (int64_t row = first; row < p.rows; row += step) backward_row<T>(p, row);
  }
}
}

KERNEL(route_backward_f32, RouteBackward, 256, 2, route_backward::backward<float>(p))
KERNEL(route_backward_bf16, RouteBackward, 256, 3, route_backward::backward<bf16>(p))
KERNEL(route_backward_f16, RouteBackward, 256, 2, route_backward::backward<f16>(p))
