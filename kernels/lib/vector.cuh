// 16 bytes of a row at a time: 4 f32, or 8 bf16 or f16.
#pragma once
#include "lib/ptx.cuh"

template <class T> constexpr int kLanes = 16 / int(sizeof(T));

PTX bool aligned_16(const void* p) { return uint64_t(p) % 16 == 0; }

PTX void unpack(uint32_t word, float* to, float) { to[0] = __uint_as_float(word); }
PTX void unpack(uint32_t word, float* to, bf16) {
  to[0] = to_float(bf16{uint16_t(word & 0xffff)});
  to[1] = to_float(bf16{uint16_t(word >> 16)});
}
PTX void unpack(uint32_t word, float* to, f16) {
  to[0] = to_float(f16{uint16_t(word & 0xffff)});
  to[1] = to_float(f16{uint16_t(word >> 16)});
}
PTX uint32_t pack(const float* from, float) { return __float_as_uint(from[0]); }
PTX uint32_t pack(const float* from, bf16) { return pack_bf16(from[0], from[1]); }
PTX uint32_t pack(const float* from, f16) { return pack_f16(from[0], from[1]); }

template <class T> PTX void unpack_16(uint4 v, float (&to)[kLanes<T>]) {
  constexpr int n = kLanes<T> / 4;   // values of a word
  unpack(v.x, to, T{});
  unpack(v.y, to + n, T{});
  unpack(v.z, to + 2 * n, T{});
  unpack(v.w, to + 3 * n, T{});
}

template <class T> PTX void load_16(const T* from, float (&to)[kLanes<T>]) { unpack_16<T>(*reinterpret_cast<const uint4*>(from), to); }

// Two neighbours as they lie in memory, of which the first is aligned to the size of both.
template <class T> struct Neighbours { using Pair = uint32_t; };
template <> struct Neighbours<float> { using Pair = float2; };
template <class T> using Pair = typename Neighbours<T>::Pair;
template <class T> PTX bool aligned_pair(const T* p) { return uint64_t(p) % (2 * sizeof(T)) == 0; }
template <class T> PTX Pair<T> load_pair(const T* from) { return *reinterpret_cast<const Pair<T>*>(from); }
PTX float2 pair_of(float first, float second) { return make_float2(first, second); }
template <class T> PTX uint32_t pair_of(T first, T second) { return uint32_t(first.bits) | uint32_t(second.bits) << 16; }
// One store, which the compiler may make two of what it is told are two values.
PTX void store_pair(float* to, float first, float second) {
  *reinterpret_cast<uint64_t*>(to) = uint64_t(__float_as_uint(first)) | uint64_t(__float_as_uint(second)) << 32;
}
template <class T> PTX void store_pair(T* to, float first, float second) {
  const float both[2] = {first, second};
  *reinterpret_cast<uint32_t*>(to) = pack(both, T{});
}
PTX void unpack(float2 pair, float* to, float) {
  to[0] = pair.x;
  to[1] = pair.y;
}

template <class T> PTX void store_16(T* to, const float (&from)[kLanes<T>]) {
  constexpr int n = kLanes<T> / 4;
  *reinterpret_cast<uint4*>(to) = make_uint4(pack(from, T{}), pack(from + n, T{}), pack(from + 2 * n, T{}), pack(from + 3 * n, T{}));
}
