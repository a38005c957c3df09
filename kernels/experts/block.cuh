#pragma once
#include "experts/load.cuh"

// The block that the engines `ffma` and `mma` share: 256 threads that all load and all multiply.
namespace experts {
constexpr int kThreads = 256;
template <int Rows> using BlockTile = Tile<Rows, 128, kThreads>;

template <class Tile> struct Block {
  static constexpr int kFirst = Tile::kRows * 128, kStage = kFirst + Tile::kColumns * 128;     // bytes of a step's first operand, and of both
  static constexpr int kStages = Tile::kRows < 128 ? 4 : 3;
  static constexpr int kStride = Tile::kColumns + 8;             // of the finished tile, in floats: 8 banks from row to row, so that fragments
  static constexpr int kFinished = Tile::kRows * kStride * 4;    // are stored without conflicts
};
}
