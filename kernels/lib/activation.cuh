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

// 2^x and 1/x within 2 units in the last place, one instruction each; what is below 2^-126 is 0.
#if defined(__CUDACC__)
PTX float exp2_rough(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
PTX float reciprocal_rough(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
#else
PTX float exp2_rough(float x) { return exp2f(x); }
PTX float reciprocal_rough(float x) { return 1.0f / x; }
#endif

// Rough: without branches, for what is rounded to 16 bits or summed with what was.
template <bool Rough> PTX float exponential(float x) { return Rough ? exp2_rough(x * 1.44269504f) : expf(x); }
template <bool Rough> PTX float sigmoid(float x) {
  const float above = 1.0f + exponential<Rough>(-x);
  return Rough ? reciprocal_rough(above) : 1.0f / above;
}

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
