#pragma once
#include "experts/load.cuh"

// What an epilogue reads and writes. The product's tile, or a part of it, lies in shared memory as f32, so that each thread has four
// neighbouring columns of a row, whichever engine computed it, and a warp's accesses are coalesced.
namespace experts {
PTX float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
PTX float4 operator*(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }
PTX float4 operator*(float a, float4 b) { return {a * b.x, a * b.y, a * b.z, a * b.w}; }
PTX float sum(float4 v) { return (v.x + v.y) + (v.z + v.w); }

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

// Up to four elements; zeros for those past `left`. Whole: four or none.
template <bool Whole, class T> PTX float4 load_row(const T* at, int left) {
  if (Whole ? left > 0 : whole(at, left)) return load_four(at);
  if (Whole) return {0, 0, 0, 0};
  float4 v = {0, 0, 0, 0};
  if (left > 0) v.x = to_float(at[0]);
  if (left > 1) v.y = to_float(at[1]);
  if (left > 2) v.z = to_float(at[2]);
  if (left > 3) v.w = to_float(at[3]);
  return v;
}
template <bool Whole, class T> PTX void store_row(T* at, int left, float4 v) {
  if (Whole ? left > 0 : whole(at, left)) return store_four(at, v);
  if (Whole) return;
  if (left > 0) at[0] = narrow<T>(v.x);
  if (left > 1) at[1] = narrow<T>(v.y);
  if (left > 2) at[2] = narrow<T>(v.z);
  if (left > 3) at[3] = narrow<T>(v.w);
}
template <bool Whole, class T> PTX float4 load_or_zeros(const T* at, int64_t offset, int left) {
  if (!at) return {0, 0, 0, 0};
  return load_row<Whole>(at + offset, left);
}
}
