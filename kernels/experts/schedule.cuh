#pragma once
#include "args/experts.cuh"
#include "experts/load.cuh"

// Which tile of which expert's product a block computes. Blocks take tiles in turn, columns first, so that blocks which run at the same
// time share rows of the one operand and all of the other in the second-level cache.
namespace experts {
// A tile of pairs of one expert by columns of the product.
struct PairTile { int expert, pair, rows, column; };

// The list's tiles have as many rows as a kernel's, but for kernels of 64, which take any multiple of that apart; their last may be empty.
template <int Rows> PTX bool find_tile(const Pairs& pairs, int number, int columns, int tile_columns, PairTile& tile) {
  const int across = ceil_div(columns, tile_columns), down = number / across, each = Rows == 64 ? pairs.tile_rows / 64 : 1;
  if (down / each >= pairs.tiles[0]) return false;
  tile.expert = pairs.tiles[1 + 2 * (down / each)];
  tile.pair = pairs.tiles[2 + 2 * (down / each)] + down % each * Rows;
  tile.rows = max(0, min(Rows, pairs.expert_offsets[tile.expert + 1] - tile.pair));
  tile.column = number % across * tile_columns;
  return true;
}

// A tile of the gradient of one of `maps` weights of one expert, [rows, columns] each.
struct WeightTile { int expert, map, row, column; };

template <class Tile> PTX int count_tiles(int experts, int maps, int rows, int columns) {
  return experts * maps * ceil_div(rows, Tile::kRows) * ceil_div(columns, Tile::kColumns);
}

template <class Tile> PTX bool find_tile(int experts, int maps, int rows, int columns, int number, WeightTile& tile) {
  const int across = ceil_div(columns, Tile::kColumns), down = ceil_div(rows, Tile::kRows);
  tile.column = number % across * Tile::kColumns;
  tile.row = number / across % down * Tile::kRows;
  const int whole = number / across / down;
  tile.map = whole % maps;
  tile.expert = whole / maps;
  return tile.expert < experts;
}

// Expert `e`'s part of what is held for all E, or the shared expert's, who is number E.
template <class T, class Void> PTX T* of_expert(Void* experts, Void* shared, int e, int count, int64_t size) {
  if (e < count) return experts ? static_cast<T*>(experts) + e * size : nullptr;
  return static_cast<T*>(shared);
}
}
