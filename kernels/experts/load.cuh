#pragma once
#include "lib/vector.cuh"

// How an operand's tile comes into shared memory.
//
// In memory an operand is a matrix of rows that are contiguous in themselves. A K-major one (x [P, D] of x W^T) has the product's rows or
// columns as its rows, and K runs along them; in an MN-major one (W [D, F] of dy W) K runs from row to row. Either way a step over K
// takes as many rows of 128 bytes in shared memory as the tile has rows or columns, 16-byte chunks swizzled within each: a K-major step
// has kStep elements of K in each of them, an MN-major one has kStep rows of all its elements, laid down as blocks of kStep columns.
// What lies beyond the matrix is filled with zeros.
namespace experts {
template <class T> constexpr int kStep = 128 / sizeof(T);      // elements of K in a step

// Rows and columns of the product that a block computes at a time, and how many of its threads load the operands.
template <int Rows, int Columns, int Loaders> struct Tile {
  static constexpr int kRows = Rows, kColumns = Columns, kLoaders = Loaders;
};

PTX int ceil_div(int a, int b) { return a / b + (a % b != 0); }

template <int Bytes> struct Raw { using Type = uint16_t; };
template <> struct Raw<4> { using Type = uint32_t; };

// The first `left` elements, and zeros.
template <class T> PTX uint4 load_elements(const T* from, int left) {
  auto raw = reinterpret_cast<const typename Raw<sizeof(T)>::Type*>(from);
  uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
  for (int e = 0; e < kLanes<T>; e++)
    if (e < left) word[e * sizeof(T) / 4] |= uint32_t(raw[e]) << (e * sizeof(T) % 4 * 8);
  return make_uint4(word[0], word[1], word[2], word[3]);
}

// `Lines` rows or columns of the product, loaded by the block's first `Loaders` threads, each one chunk of every kPass-th row.
template <class T, int Lines, int Loaders, bool KMajor, bool Gathered, bool Split = false> struct Operand {
  static constexpr bool k_major = KMajor, gathered_rows = Gathered;
  static constexpr int kPass = Loaders / 8, kChunks = Lines < kPass ? 1 : Lines / kPass;   // rows loaded at a time, and this thread's chunks
  static constexpr int kKept = KMajor ? kChunks : kStep<T> / kPass;        // rows that this thread loads chunks of

  const T* first;
  const T* second;                               // Split: the matrix of the tile's second half; else that of the second half of K
  int stride, rows, columns;
  const int* gather;                             // row r of the matrix is row gather[from + r] of memory
  int from;
  bool aligned;
  int gathered[kKept];                           // those rows; the next step's, where MN-major

  PTX static int chunk() { return threadIdx.x % 8 * kLanes<T>; }
  PTX static int row(int k, int i) {
    const int r = int(threadIdx.x) / 8 + i * kPass;
    return KMajor ? r % (Split ? Lines / 2 : Lines) : k + r;
  }
  PTX void find_gathered(int k) {
#pragma unroll
    for (int i = 0; i < kKept; i++) gathered[i] = gather[from + min(row(k, i), rows - 1)];
  }
  // Where chunk number i of the step is, of `found`, its row in memory: one multiply-add of 32 bits into 64.
  PTX const T* place(int k, int i, bool in_second, int found, int bytes) const {
    const T* const matrix = ((Split ? i >= kChunks / 2 : in_second) ? second : first) + (KMajor ? k : i / kKept * kStep<T>) + chunk();
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(matrix) + int64_t(found) * bytes);
  }
  // How many of the chunk's elements there are.
  PTX int left(int k, int i) const {
    if (row(k, i % kKept) >= rows) return 0;
    return max(0, min(kLanes<T>, columns - (KMajor ? k : i / kKept * kStep<T>) - chunk()));
  }

  // Before a tile's first step.
  PTX void begin() {
    aligned = ((reinterpret_cast<uint64_t>(first) | reinterpret_cast<uint64_t>(second) | uint64_t(stride * int(sizeof(T)))) & 15) == 0;
    if (Gathered && rows > 0) find_gathered(0);
  }

  // The step that begins at `k` of the first or the second matrix.
  PTX void load(uint32_t to, int k, bool in_second) {
    const int r = threadIdx.x / 8;
    if (Lines < kPass && r >= Lines) return;
    int bytes = stride * int(sizeof(T));
    opaque(bytes);                               // or the compiler keeps where every row is
    auto slot = [&](int i) { return to + swizzle_chunk(r + i * kPass, threadIdx.x % 8); };
    const bool whole = KMajor ? k + kStep<T> <= columns : columns >= Lines && k + kStep<T> <= rows;
    if (aligned && whole) {
#pragma unroll
      for (int i = 0; i < kChunks; i++) {        // past the last row is the last again: what comes of it is not kept
        const int found = Gathered ? gathered[i % kKept] : min(row(k, i % kKept), rows - 1);
        cp_async_16(slot(i), place(k, i, in_second, found, bytes), 16);
      }
    } else {
#pragma unroll 1                                 // small rather than fast
      for (int i = 0; i < kChunks; i++) {
        const int count = left(k, i), at = row(k, i % kKept);
        const T* const from_there = place(k, i, in_second, count == 0 ? 0 : Gathered ? gather[from + at] : at, bytes);
        if (aligned) cp_async_16(slot(i), from_there, count * int(sizeof(T)));
        else st_shared_16(slot(i), load_elements(from_there, count));
      }
    }
    if (!KMajor && Gathered) find_gathered(k + kStep<T>);      // ahead, so that the next step's copies need not wait for them
  }
};
}
