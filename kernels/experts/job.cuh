#pragma once
#include "experts/epilogue.cuh"
#include "experts/schedule.cuh"

// A job is one of the products, as an engine sees it:
//   find(number)        whether there is a tile of that number; then `rows`, and K's `depth`, once or (`segments`) twice over it
//   after(number)       where none was found: that number as the launch's next job counts
//   open()              sets the operands `a` and `b`
//   finish              what becomes of four elements of the product; where it has two halves, of four of either. `how`: the activation
//   output(i)           where the tile's value number i goes, of kOutputs; some may be wanted nowhere. All have the same stride.
//   bias(i), extra(i)   what finish needs, where there is any: of the tile's first column, of its first pair; the latter has the same stride
//   weight(row)         what finish needs of a row (kWeighs)
//   put_part            the sum of a row's parts over the tile's columns (kParts)
// and, for those that sum their first operand along K (kSums), times weights of its rows or not (kWeighsSums), `sums_first`, `sum_weight`
// and `finish_sum`. kSplit: the product's columns are of two matrices, half of each. kActivates: `how` is an activation, Folded where
// weights are, and then there is but the first output. kGradient: it is Written or Added, and the output may be f32. kCut: blocks may split
// K's steps of a tile among them, `splits` of them. Engine `wgmma` brings operand a or b by a tensor map (kAMapped, kBMapped), from where
// a_from or b_from says; kTails: but for a last step that ends within.
namespace experts {
// Where boxes of an operand begin: of which map, at which of the product's rows or columns, of K and of the matrices.
struct From { const TensorMap* map; int mn, k, z; };

// What the jobs of a tile of pairs have in common.
template <class T, class Arguments, class Tile> struct OfPairs {
  using Element = T;
  using Args = Arguments;
  using Blocks = Tile;
  static constexpr bool kSums = false, kWeighsSums = false, sums_first = false, kParts = false, kSplit = false, kCut = false, kWeighs = false;
  static constexpr bool kActivates = false, kGradient = false, kAMapped = false, kBMapped = true, kTails = false;
  static constexpr int kColumns = Tile::kColumns, kOutputs = 1, kBiases = 0, kExtras = 0;
  const Args& p;
  PairTile tile;
  int rows, depth, segments;

  PTX explicit OfPairs(const Args& p) : p(p) {}
  PTX bool find_pairs(int number, int columns, int tile_columns, int depth_, int segments_) {
    if (!find_tile<Tile::kRows>(p.pairs, number, columns, tile_columns, tile)) return false;
    rows = tile.rows, depth = depth_, segments = segments_;
    return true;
  }
  PTX bool routed() const { return tile.expert < p.experts; }
  PTX static int after(int number) { return number; }            // its tiles are the launch's last
  PTX static int splits() { return 1; }
  PTX static const T* bias(int) { return nullptr; }
  PTX static const T* extra(int) { return nullptr; }
  // Of a bias of all experts; and, in a matrix of so many columns with a row for each pair, what the tile begins with.
  PTX const T* bias_from(const void* experts, const void* shared, int size) const {
    const T* from = of_expert<const T>(experts, shared, tile.expert, p.experts, size);
    return from ? from + tile.column : nullptr;
  }
  PTX T* tile_of(void* pairs, int columns) const { return pairs ? static_cast<T*>(pairs) + int64_t(tile.pair) * columns + tile.column : nullptr; }
  PTX const T* tile_of(const void* pairs, int columns) const { return tile_of(const_cast<void*>(pairs), columns); }
  PTX From a_from(int k, bool second) const { return {&p.maps.pairs[second], tile.pair, k, 0}; }
  PTX From b_from(int k, bool second) const {
    if (routed()) return {&p.maps.experts[second], tile.column, k, tile.expert};
    return {&p.maps.shared[second], tile.column, k, 0};
  }
};
}
