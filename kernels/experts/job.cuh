#pragma once
#include "experts/epilogue.cuh"
#include "experts/schedule.cuh"

// A job is one of the products, as an engine sees it:
//   find(number)        whether there is a tile of that number; then `rows`, and K's `depth`, once or (`segments`) twice over it
//   after(number)       where none was found: that number as the launch's next job counts
//   open()              sets the operands `a` and `b`
//   columns(column)     what all rows need of the four columns from the tile's number `column` on
//   fetch, finish       what four columns of a row need from memory, and what becomes of them; their part of a sum (kParts)
//   weight              what a row needs, for all of its columns the same (kWeighs); `fetch` has it too
//   put_part            the sum of a row's parts over the tile's columns
// and, for those that sum their first operand along K (kSums), `sums_first`, `sum_weight` and `finish_sum`. kSplit: the product's columns
// are of two matrices, half of each. kFetches: `fetch` brings more than `weight`. kCut: blocks may split K's steps of a tile among them, `splits` of them. Engine `wgmma` brings operand
// a or b by a tensor map (kAMapped, kBMapped), from where a_from or b_from says; kTails: but for a last step that ends within.
namespace experts {
struct Nothing {};

// Where boxes of an operand begin: of which map, at which of the product's rows or columns, of K and of the matrices.
struct From { const TensorMap* map; int mn, k, z; };

// What the jobs of a tile of pairs have in common.
template <class Arguments, class Tile> struct OfPairs {
  using Args = Arguments;
  using Blocks = Tile;
  static constexpr bool kSums = false, kParts = false, kSplit = false, kCut = false, kFetches = false, kWeighs = false, sums_first = false;
  static constexpr bool kAMapped = false, kBMapped = true, kTails = false;
  static constexpr int kColumns = Tile::kColumns;
  const Args& p;
  PairTile tile;
  int rows, depth, segments;

  PTX explicit OfPairs(const Args& p) : p(p) {}
  PTX bool find_pairs(int number, int columns, int tile_columns, int depth_, int segments_) {
    if (!find_tile(p.pairs, number, Tile::kRows, columns, tile_columns, tile)) return false;
    rows = tile.rows, depth = depth_, segments = segments_;
    return true;
  }
  PTX bool routed() const { return tile.expert < p.experts; }
  PTX static int after(int number) { return number; }            // its tiles are the launch's last
  PTX static int extras() { return 0; }
  PTX static int splits() { return 1; }
  PTX From a_from(int k, bool second) const { return {&p.maps.pairs[second], tile.pair, k, 0}; }
  PTX From b_from(int k, bool second) const {
    if (routed()) return {&p.maps.experts[second], tile.column, k, tile.expert};
    return {&p.maps.shared[second], tile.column, k, 0};
  }
};
}
