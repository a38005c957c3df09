#pragma once
#include "lib/ptx.cuh"

// The activation functions and their slopes, numbered as `Activation::ALL`: 0 relu, 1 quick_gelu, 2 gelu, 3 silu. NaN stays NaN.
struct Activated { float value, slope; };

// The greater, or NaN if one is.
#if defined(__CUDACC__)
PTX float max_nan(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
#else
PTX float max_nan(float a, float b) { return a <= b ? b : a; }
#endif

// Rough: without branches, for what is rounded to 16 bits. exp within some 2 units in the last place of f32; a sigmoid as half of 1 + tanh(x / 2),
// which is one instruction, within 2^-12.
#if defined(__CUDACC__)
template <bool Rough> PTX float exponential(float x) { return Rough ? __expf(x) : expf(x); }
template <bool Rough> PTX float sigmoid(float x) {
  if (!Rough) return 1.0f / (1.0f + expf(-x));
  float t;
  asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(0.5f * x));
  return 0.5f + 0.5f * t;
}
#else
template <bool> PTX float exponential(float x) { return expf(x); }
template <bool> PTX float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
#endif

struct Relu {
  PTX Activated operator()(float x) const { return {max_nan(x, 0.0f), x <= 0.0f ? 0.0f : 1.0f}; }
};
struct ReluOfItself {                            // where what is kept went through it already
  PTX Activated operator()(float x) const { return {x, x <= 0.0f ? 0.0f : 1.0f}; }
};
template <bool Rough> struct Gelu {
  PTX Activated operator()(float x) const {
    const float s = 0.5f * (1.0f + erff(x * 0.707106781f));
    return {x * s, s + x * 0.398942280f * exponential<Rough>(-0.5f * x * x)};
  }
};
template <bool Rough> struct Swish {             // quick_gelu and silu
  float k;
  PTX Activated operator()(float x) const {
    const float s = sigmoid<Rough>(k * x);
    return {x * s, s + k * x * s * (1.0f - s)};
  }
};
PTX float steepness(int activation) { return activation == 1 ? 1.702f : 1.0f; }

// Inlined, so that what a caller does not use is not computed.
PTX Activated activate(int activation, float x) {
  if (activation == 0) return Relu{}(x);
  if (activation == 2) return Gelu<false>{}(x);
  return Swish<false>{steepness(activation)}(x);
}

// Of four elements, without a branch between them; and `d` times its slope, in place.
template <class Activation> struct Four {
  Activation one;
  PTX float4 operator()(float4 v) const { return {one(v.x).value, one(v.y).value, one(v.z).value, one(v.w).value}; }
  PTX float4 operator()(float4 v, float4& d) const {
    const Activated x = one(v.x), y = one(v.y), z = one(v.z), w = one(v.w);
    d = {d.x * x.slope, d.y * y.slope, d.z * z.slope, d.w * w.slope};
    return {x.value, y.value, z.value, w.value};
  }
};
// Whichever there is, which is chosen once for the four.
template <bool Rough> struct FourOfAny {
  int activation;
  template <class... D> PTX float4 operator()(float4 v, D&... d) const {
    if (activation == 0) return Four<Relu>{}(v, d...);
    if (activation == 2) return Four<Gelu<Rough>>{}(v, d...);
    return Four<Swish<Rough>>{{steepness(activation)}}(v, d...);
  }
};
