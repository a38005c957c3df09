#pragma once
#include "experts/load.cuh"

// The block that the engines `ffma` and `mma` share: a tile of 128 by 128, 256 threads that all load and all multiply.
namespace experts {
constexpr int kTile = 128, kThreads = 256;
using BlockTile = Tile<kTile, kTile, kThreads>;
constexpr int kStages = 3;
constexpr int kOperandBytes = kTile * 128, kStageBytes = 2 * kOperandBytes;
constexpr int kStagedStride = kTile + 8;           // in floats: 8 banks from row to row, so that fragments are stored without conflicts
constexpr int kStagedBytes = kTile * kStagedStride * 4;
}
