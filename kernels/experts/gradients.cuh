#pragma once
#include "experts/job.cuh"

// dfc1 [F, D] = sum over an expert's pairs of dinner[p] x[row(p)]^T, and the same of dglu; dfc2 [D, F] of dy[row(p)] weighted[p]^T.
// The biases' gradients are sums over the same pairs of the first operand, of dy times the pair's weight: the tiles of the first columns
// take them along. Every element is written, zeros for an expert without pairs, or added to what is there and rounded once.
namespace experts {
PTX void* weight_of(const ExpertsDfc1&, const ExpertGradients& g, int map) { return map ? g.glu_weight : g.fc1_weight; }
PTX void* weight_of(const ExpertsDfc2&, const ExpertGradients& g, int) { return g.fc2_weight; }
PTX void* bias_of(const ExpertsDfc1&, const ExpertGradients& g, int map) { return map ? g.glu_bias : g.fc1_bias; }
PTX void* bias_of(const ExpertsDfc2&, const ExpertGradients& g, int) { return g.fc2_bias; }
PTX int rows_of(const ExpertsDfc1& p) { return p.expert_width; }
PTX int rows_of(const ExpertsDfc2& p) { return p.width; }
PTX int columns_of(const ExpertsDfc1& p) { return p.width; }
PTX int columns_of(const ExpertsDfc2& p) { return p.expert_width; }

// What both have in common: a tile of one expert's gradient, T or f32. Little is kept in registers over the product.
template <class T, class Tile, class Arguments> struct OfWeight {
  using Element = T;
  using Args = Arguments;
  using Blocks = Tile;
  static constexpr bool kSums = true, kParts = false, kSplit = false, kCut = false, kWeighs = false, kActivates = false, kGradient = true;
  static constexpr bool kTails = true;
  static constexpr int kColumns = Tile::kColumns, kOutputs = 1, kBiases = 0, kExtras = 0;
  const Args& p;
  WeightTile tile;
  int pair;                                      // the expert's first
  int rows, depth, segments;
  bool sums_first;                               // whether the first operand's sums, the bias's gradient, are taken along

  PTX explicit OfWeight(const Args& p) : p(p) {}
  PTX bool find_weight(int number, int maps) {
    if (!find_tile<Tile>(p.experts + p.has_shared, maps, rows_of(p), columns_of(p), number, tile)) return false;
    pair = p.pairs.expert_offsets[tile.expert];
    rows = min(Tile::kRows, rows_of(p) - tile.row);
    depth = p.pairs.expert_offsets[tile.expert + 1] - pair;
    segments = 1;
    sums_first = tile.column == 0 && bias_gradient();
    return true;
  }
  PTX int after_weight(int number, int maps) const {
    return number - count_tiles<Tile>(p.experts + p.has_shared, maps, rows_of(p), columns_of(p));
  }
  PTX static int splits() { return 1; }
  PTX static const T* bias(int) { return nullptr; }
  PTX static const T* extra(int) { return nullptr; }
  PTX const ExpertGradients& gradients() const { return tile.expert < p.experts ? p.experts_gradients : p.shared_gradients; }
  PTX void* bias_gradient() const { return bias_of(p, gradients(), tile.map); }
  // Of all experts' rows, the tile's first.
  PTX int64_t first_row() const { return int64_t(tile.expert < p.experts ? tile.expert : 0) * rows_of(p) + tile.row; }
  PTX int left() const { return columns_of(p) - tile.column; }
  PTX int64_t stride() const { return columns_of(p); }
  template <class Out> PTX Out* place() const {
    return static_cast<Out*>(weight_of(p, gradients(), tile.map)) + first_row() * columns_of(p) + tile.column;
  }
  PTX T* output(int) const { return place<T>(); }
  template <class How> PTX Finished<1> finish(How how, float4 first, float4, const Needs& n) const { return {{onto(how, first, n.extra[0])}, {}}; }
  template <class Out> PTX void add(int64_t at, float total) const {
    Out* const to = static_cast<Out*>(bias_gradient()) + at;
    *to = narrow<Out>(p.accumulate ? total + to_float(*to) : total);
  }
  PTX void finish_sum(int row, float total) const {
    if (row >= rows) return;
    if (p.gradient_f32) add<float>(first_row() + row, total);
    else add<T>(first_row() + row, total);
  }
};

template <class T, class Tile> struct Dfc1 : OfWeight<T, Tile, ExpertsDfc1> {
  static constexpr bool kAMapped = true, kBMapped = false, kWeighsSums = false;
  Operand<T, Tile::kRows, Tile::kLoaders, false, false> a;
  Operand<T, Tile::kColumns, Tile::kLoaders, false, true> b;

  PTX explicit Dfc1(const ExpertsDfc1& p) : OfWeight<T, Tile, ExpertsDfc1>(p) {}
  PTX static const float* sum_weight() { return nullptr; }
  PTX From a_from(int k, bool) const { return {&this->p.maps.pairs[this->tile.map], this->tile.row, this->pair + k, 0}; }
  PTX int weights() const { return this->p.dglu ? 2 : 1; }
  PTX bool find(int number) { return this->find_weight(number, weights()); }
  PTX int after(int number) const { return this->after_weight(number, weights()); }
  PTX void open() {
    const ExpertsDfc1& p = this->p;
    const int pair = this->pair;
    const WeightTile& t = this->tile;
    const T* dinner = static_cast<const T*>(t.map ? p.dglu : p.dinner) + int64_t(pair) * p.expert_width + t.row;
    a = {dinner, nullptr, p.expert_width, this->depth, p.expert_width - t.row, nullptr, 0};
    b = {static_cast<const T*>(p.x) + t.column, nullptr, int(p.x_stride), this->depth, p.width - t.column, p.pairs.pair_row, pair};
  }
};

template <class T, class Tile> struct Dfc2 : OfWeight<T, Tile, ExpertsDfc2> {
  static constexpr bool kAMapped = false, kBMapped = true, kWeighsSums = true;
  Operand<T, Tile::kRows, Tile::kLoaders, false, true> a;
  Operand<T, Tile::kColumns, Tile::kLoaders, false, false> b;

  PTX explicit Dfc2(const ExpertsDfc2& p) : OfWeight<T, Tile, ExpertsDfc2>(p) {}
  PTX const float* sum_weight() const { return this->p.pairs.pair_weight + this->pair; }
  PTX From b_from(int k, bool) const { return {&this->p.maps.pairs[0], this->tile.column, this->pair + k, 0}; }
  PTX bool find(int number) { return this->find_weight(number, 1); }
  PTX int after(int number) const { return this->after_weight(number, 1); }
  PTX void open() {
    const ExpertsDfc2& p = this->p;
    const int pair = this->pair;
    const WeightTile& t = this->tile;
    const T* weighted = static_cast<const T*>(p.weighted) + int64_t(pair) * p.expert_width + t.column;
    a = {static_cast<const T*>(p.dy) + t.row, nullptr, int(p.dy_stride), this->depth, p.width - t.row, p.pairs.pair_row, pair};
    b = {weighted, nullptr, p.expert_width, this->depth, p.expert_width - t.column, nullptr, 0};
  }
};
}
