#pragma once
#include "lib/ptx.cuh"

// How an operand's tile comes into shared memory.
//
// In memory an operand is a matrix of rows that are contiguous in themselves. A K-major one (x [P, D] of x W^T) has 128 of the product's
// rows or columns as its rows, and K runs along them; in an MN-major one (W [D, F] of dy W) K runs from row to row. Either way a step
// over K takes 128 rows of 128 bytes in shared memory, 16-byte chunks swizzled within each: a K-major step is 128 rows of Step elements,
// an MN-major one is Step rows of 128 elements, laid down as blocks of Step columns. What lies beyond the matrix is filled with zeros.
namespace experts {
constexpr int Tile = 128;                        // rows and columns of the product that a block computes at a time
constexpr int Threads = 256;
constexpr int Stages = 3;
constexpr int OperandBytes = Tile * 128, StageBytes = 2 * OperandBytes;
template <class T> constexpr int Step = 128 / sizeof(T);      // elements of K in a step
template <class T> constexpr int Chunk = 16 / sizeof(T);      // elements of 16 bytes

PTX int ceil_div(int a, int b) { return a / b + (a % b != 0); }

template <int Bytes> struct Raw { using Type = uint16_t; };
template <> struct Raw<4> { using Type = uint32_t; };

// The first `left` elements, and zeros.
template <class T> PTX uint4 load_elements(const T* from, int left) {
  auto raw = reinterpret_cast<const typename Raw<sizeof(T)>::Type*>(from);
  uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
  for (int e = 0; e < Chunk<T>; e++)
    if (e < left) word[e * sizeof(T) / 4] |= uint32_t(raw[e]) << (e * sizeof(T) % 4 * 8);
  return make_uint4(word[0], word[1], word[2], word[3]);
}

template <class T, bool KMajor, bool Gathered, bool Split = false> struct Operand {
  static constexpr bool IsKMajor = KMajor;
  static constexpr int Kept = KMajor ? 4 : Step<T> / 32;

  const T* first;
  const T* second;                               // Split: the matrix of the tile's rows from 64 on; else that of the second half of K
  int64_t stride;
  int rows, columns;
  const int* gather;                             // row r of the matrix is row gather[r] of memory
  bool aligned;
  int row[Kept];                                 // in memory, of the chunks that this thread loads (of the next step, where MN-major)

  PTX int find(int r) const { return r < rows ? (Gathered ? gather[r] : r) : -1; }
  PTX void find_rows(int k) {
#pragma unroll
    for (int i = 0; i < Kept; i++) row[i] = find(KMajor ? (int(threadIdx.x) / 8 + i * 32) % (Split ? 64 : Tile) : k + int(threadIdx.x) / 8 + i * 32);
  }

  // Before a tile's first step.
  PTX void begin() {
    aligned = ((reinterpret_cast<uint64_t>(first) | reinterpret_cast<uint64_t>(second) | uint64_t(stride) * sizeof(T)) & 15) == 0;
    if (KMajor || Gathered) find_rows(0);
  }

  // The step that begins at `k` of the first or the second matrix. Each thread takes one chunk of every 32nd row.
  PTX void load(uint32_t to, int k, bool in_second) {
    const int chunk = threadIdx.x % 8, r = threadIdx.x / 8;
    if (!KMajor && !Gathered) find_rows(k);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int in_memory = row[i % Kept], column = (KMajor ? k : i / Kept * Step<T>) + chunk * Chunk<T>;
      const int left = in_memory < 0 ? 0 : max(0, min(Chunk<T>, columns - column));
      const T* matrix = (Split ? i >= 2 : in_second) ? second : first;
      const T* from = left ? matrix + in_memory * stride + column : matrix;
      const uint32_t slot = to + swizzle_chunk(r + i * 32, chunk);
      if (aligned) cp_async_16(slot, from, left * int(sizeof(T)));
      else st_shared_16(slot, load_elements(from, left));
    }
    if (!KMajor && Gathered) find_rows(k + Step<T>);           // ahead, so that the next step's copies need not wait for them
  }
};
}
