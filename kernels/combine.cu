// combine: out[row, d] = sum over k of weight[pair] * pairs[pair, d] (+ shared) (+ plus) (- minus), each row written once.
#include "args/combine.cuh"

namespace combine {
template <class T> PTX void rows(const Combine& p) {
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x)
    for (int d = threadIdx.x; d < p.width; d += blockDim.x) {
      float sum = 0;
      for (int k = 0; k < p.top_k; k++) {
        int pair = p.row_pairs[row * p.top_k + k];
        if (pair >= 0) sum += (p.weight ? p.weight[pair] : 1.0f) * to_float(static_cast<const T*>(p.pairs)[int64_t(pair) * p.width + d]);
      }
      static_cast<T*>(p.out)[row * p.out_stride + d] = narrow<T>(sum);
    }
}
}

KERNEL(combine_f32, Combine, 256, 4, combine::rows<float>(p))
KERNEL(combine_bf16, Combine, 256, 4, combine::rows<bf16>(p))
KERNEL(combine_f16, Combine, 256, 4, combine::rows<f16>(p))
