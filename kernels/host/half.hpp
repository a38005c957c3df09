// The 16-bit floating-point formats, rounded to nearest with ties to even, as `cvt.rn` does.
#pragma once
#include "host/cuda.hpp"

namespace emulate {
inline float bf16_to_float(uint16_t b) { return __uint_as_float(unsigned(b) << 16); }

inline uint16_t float_to_bf16(float f) {
  unsigned u = __float_as_uint(f);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;                 // the one NaN
  return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

inline float half_to_float(uint16_t h) {
  unsigned sign = unsigned(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
  if (exponent == 31) return __uint_as_float(sign | 0x7f800000 | mantissa << 13);
  if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
  float f = float(mantissa) * 0x1p-24f;
  return sign ? -f : f;
}

inline uint16_t float_to_half(float f) {
  unsigned u = __float_as_uint(f), sign = u >> 16 & 0x8000, size = u & 0x7fffffff;
  if (size > 0x7f800000) return 0x7fff;
  if (size >= 0x477ff000) return uint16_t(sign | 0x7c00);           // rounds to infinity
  if (size < 0x38800000) return uint16_t(sign | unsigned(int(__builtin_rintf(__uint_as_float(size) * 0x1p24f))));
  size -= 112u << 23;
  return uint16_t(sign | ((size + 0xfff + (size >> 13 & 1)) >> 13));
}
}
