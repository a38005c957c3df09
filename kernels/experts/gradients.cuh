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
  using Args = Arguments;
  struct Fetched { float4 before; };
  using Blocks = Tile;
  static constexpr bool kSums = true, kParts = false, kSplit = false, kCut = false, kFetches = true, kTails = true, kWeighs = false;
  struct Columns { int left; int64_t at; };
  static constexpr int kColumns = Tile::kColumns;
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
    sums_first = tile.column == 0 && bias();
    return true;
  }
  PTX int after_weight(int number, int maps) const {
    return number - count_tiles<Tile>(p.experts + p.has_shared, maps, rows_of(p), columns_of(p));
  }
  PTX bool routed() const { return tile.expert < p.experts; }
  PTX static int extras() { return 0; }
  PTX static int splits() { return 1; }
  PTX void* weight() const { return weight_of(p, routed() ? p.experts_gradients : p.shared_gradients, tile.map); }
  PTX void* bias() const { return bias_of(p, routed() ? p.experts_gradients : p.shared_gradients, tile.map); }
  template <bool Whole> PTX float4 before(const void* from, int64_t offset, int count) const {
    if (!p.accumulate) return {0, 0, 0, 0};
    if (p.gradient_f32) return load_row<Whole>(static_cast<const float*>(from) + offset, count);
    return load_row<Whole>(static_cast<const T*>(from) + offset, count);
  }
  template <bool Whole> PTX void write(void* to, int64_t offset, int count, float4 v) const {
    if (p.gradient_f32) return store_row<Whole>(static_cast<float*>(to) + offset, count, v);
    store_row<Whole>(static_cast<T*>(to) + offset, count, v);
  }
  PTX int64_t first_row() const { return int64_t(routed() ? tile.expert : 0) * rows_of(p) + tile.row; }
  PTX Columns columns(int column) const {
    column += tile.column;
    return {columns_of(p) - column, first_row() * columns_of(p) + column};
  }
  PTX void fetch(const Columns& c, int row, Fetched& f) const { f.before = before<Tile::kWhole>(weight(), c.at + int64_t(row) * columns_of(p), c.left); }
  PTX float finish(const Columns& c, int row, const float* first, const float*, const Fetched& f) const {
    write<Tile::kWhole>(weight(), c.at + int64_t(row) * columns_of(p), c.left, load_four(first) + f.before);
    return 0;
  }
  PTX void finish_sum(int row, float total) const {
    const int64_t at = first_row() + row;
    if (row < rows) write<false>(bias(), at, 1, before<false>(bias(), at, 1) + float4{total, 0, 0, 0});
  }
};

template <class T, class Tile> struct Dfc1 : OfWeight<T, Tile, ExpertsDfc1> {
  static constexpr bool kAMapped = true, kBMapped = false;
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
    b = {static_cast<const T*>(p.x) + t.column, nullptr, p.x_stride, this->depth, p.width - t.column, p.pairs.pair_row, pair};
  }
};

template <class T, class Tile> struct Dfc2 : OfWeight<T, Tile, ExpertsDfc2> {
  static constexpr bool kAMapped = false, kBMapped = true;
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
    a = {static_cast<const T*>(p.dy) + t.row, nullptr, p.dy_stride, this->depth, p.width - t.row, p.pairs.pair_row, pair};
    b = {weighted, nullptr, p.expert_width, this->depth, p.expert_width - t.column, nullptr, 0};
  }
};
}
