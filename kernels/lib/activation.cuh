#pragma once
#include "lib/ptx.cuh"

// The activation functions and their slopes, numbered as `Activation::ALL`: 0 relu, 1 quick_gelu, 2 gelu, 3 silu. NaN stays NaN.
struct Activated { float value, slope; };

PTX float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Inlined, so that what a caller does not use is not computed.
PTX Activated activate(int activation, float x) {
  if (activation == 0) return x <= 0.0f ? Activated{0.0f, 0.0f} : Activated{x, 1.0f};
  if (activation == 2) {
    float s = 0.5f * (1.0f + erff(x * 0.707106781f));
    return {x * s, s + x * 0.398942280f * expf(-0.5f * x * x)};
  }
  float k = activation == 1 ? 1.702f : 1.0f, s = sigmoid(k * x);
  return {x * s, s + k * x * s * (1.0f - s)};
}
