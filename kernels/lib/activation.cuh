#pragma once
#include "lib/ptx.cuh"

// The activation functions and their slopes, numbered as `Activation::ALL`: 0 relu, 1 quick_gelu, 2 gelu, 3 silu. NaN stays NaN.
struct Activated { float value, slope; };
struct FourActivated { float4 value, slope; };

// Rough: within some 2 units in the last place of f32, without branches, for what is rounded to 16 bits.
#if defined(__CUDACC__)
template <bool Rough> PTX float exponential(float x) { return Rough ? __expf(x) : expf(x); }
template <bool Rough> PTX float sigmoid(float x) {
  const float below = 1.0f + exponential<Rough>(-x);
  return Rough ? __fdividef(1.0f, below) : 1.0f / below;
}
#else
template <bool> PTX float exponential(float x) { return expf(x); }
template <bool> PTX float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
#endif

PTX Activated relu(float x) { return x <= 0.0f ? Activated{0.0f, 0.0f} : Activated{x, 1.0f}; }
template <bool Rough> PTX Activated gelu(float x) {
  const float s = 0.5f * (1.0f + erff(x * 0.707106781f));
  return {x * s, s + x * 0.398942280f * exponential<Rough>(-0.5f * x * x)};
}
template <bool Rough> PTX Activated swish(float k, float x) {
  const float s = sigmoid<Rough>(k * x);
  return {x * s, s + k * x * s * (1.0f - s)};
}
PTX float steepness(int activation) { return activation == 1 ? 1.702f : 1.0f; }

// Inlined, so that what a caller does not use is not computed.
PTX Activated activate(int activation, float x) {
  if (activation == 0) return relu(x);
  if (activation == 2) return gelu<false>(x);
  return swish<false>(steepness(activation), x);
}

// Of four, which the compiler interleaves: what is chosen is chosen once.
PTX FourActivated four(Activated x, Activated y, Activated z, Activated w) {
  return {{x.value, y.value, z.value, w.value}, {x.slope, y.slope, z.slope, w.slope}};
}
template <bool Rough> PTX FourActivated activate_four(int activation, float4 v) {
  if (activation == 0) return four(relu(v.x), relu(v.y), relu(v.z), relu(v.w));
  if (activation == 2) return four(gelu<Rough>(v.x), gelu<Rough>(v.y), gelu<Rough>(v.z), gelu<Rough>(v.w));
  const float k = steepness(activation);
  return four(swish<Rough>(k, v.x), swish<Rough>(k, v.y), swish<Rough>(k, v.z), swish<Rough>(k, v.w));
}
