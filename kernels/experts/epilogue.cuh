#pragma once
#include "experts/load.cuh"
#include "lib/activation.cuh"

// What an epilogue computes with: four elements of the product at a time, of one row or of two, as the engine has them.
namespace experts {
PTX float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
PTX float4 operator*(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }

// What four elements need besides the product; and what becomes of them, and their shares of a sum.
struct Needs { float4 bias[2], extra[2], weight; };
template <int Outputs> struct Finished { float4 value[Outputs], part; };

// Of a product that nothing activates.
struct Plain {};
// Of a gradient: added to what is there, or in its place.
struct Added {};
struct Written {};
PTX float4 onto(Added, float4 v, float4 there) { return v + there; }
PTX float4 onto(Written, float4 v, float4) { return v; }

template <class T> PTX bool whole(const T* at, int left) { return left >= 4 && (reinterpret_cast<uint64_t>(at) & (4 * sizeof(T) - 1)) == 0; }

PTX float4 load_four(const float* at) { return *reinterpret_cast<const float4*>(at); }
template <class T> PTX float4 load_four(const T* at) {
  const uint2 v = *reinterpret_cast<const uint2*>(at);
  return {to_float(T{uint16_t(v.x)}), to_float(T{uint16_t(v.x >> 16)}), to_float(T{uint16_t(v.y)}), to_float(T{uint16_t(v.y >> 16)})};
}
PTX void store_four(float* at, float4 v) { *reinterpret_cast<float4*>(at) = v; }
PTX uint2 pack_four(bf16, float4 v) { return {pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)}; }
PTX uint2 pack_four(f16, float4 v) { return {pack_f16(v.x, v.y), pack_f16(v.z, v.w)}; }
template <class T> PTX void store_four(T* at, float4 v) { *reinterpret_cast<uint2*>(at) = pack_four(T{}, v); }

// Up to four elements; zeros for those past `left`.
template <class T> PTX float4 load_row(const T* at, int left) {
  if (whole(at, left)) return load_four(at);
  float4 v = {0, 0, 0, 0};
  if (left > 0) v.x = to_float(at[0]);
  if (left > 1) v.y = to_float(at[1]);
  if (left > 2) v.z = to_float(at[2]);
  if (left > 3) v.w = to_float(at[3]);
  return v;
}
template <class T> PTX void store_row(T* at, int left, float4 v) {
  if (whole(at, left)) return store_four(at, v);
  if (left > 0) at[0] = narrow<T>(v.x);
  if (left > 1) at[1] = narrow<T>(v.y);
  if (left > 2) at[2] = narrow<T>(v.z);
  if (left > 3) at[3] = narrow<T>(v.w);
}
}
