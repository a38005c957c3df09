#pragma once
#include "experts/epilogue.cuh"
#include "experts/schedule.cuh"

// A job is one of the products, as an engine sees it:
//   find(number)        whether there is a tile of that number; then `rows`, and K's `depth`, once or (`segments`) twice over it
//   open()              sets the operands `a` and `b`
//   begin_rows(column)  before the rows, from the product's column number `column` of the tile on, four of them
//   fetch, finish       what a row needs from memory, on its way ahead; and what becomes of a row. Returns its part of a sum (kParts)
//   put_part            the sum of those over the tile's columns
// and, for those that sum their first operand along K (kSums), `sums_first`, `sum_weight` and `finish_sum`. kSplit: the product's columns
// are of two matrices, half of each. kCut: blocks may split K's steps of a tile among them, `splits` of them. kAMapped, kBMapped: engine `wgmma` brings that operand by its tensor map.
namespace experts {
struct Nothing {};

// What the jobs of a tile of pairs have in common.
template <class Arguments, class Tile> struct OfPairs {
  using Args = Arguments;
  using Blocks = Tile;
  static constexpr bool kSums = false, kParts = false, kSplit = false, kCut = false, kAMapped = false, kBMapped = true;
  static constexpr int kColumns = Tile::kColumns;
  const Args& p;
  PairTile tile;
  int rows, depth, segments;
  int left;                                      // columns from this thread's first to the end of the product

  PTX explicit OfPairs(const Args& p) : p(p) {}
  PTX bool find_pairs(int number, int columns, int tile_columns, int depth_, int segments_) {
    if (!find_tile(p.pairs, number, Tile::kRows, columns, tile_columns, tile)) return false;
    rows = tile.rows, depth = depth_, segments = segments_;
    return true;
  }
  PTX bool routed() const { return tile.expert < p.experts; }
  PTX static int extras() { return 0; }
  PTX static int splits() { return 1; }
};
}
