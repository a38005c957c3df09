#pragma once
#include "experts/job.cuh"
#include "lib/activation.cuh"

// up: inner = x[row] fc1^T + b, hidden = act(inner); gated: also glu = x[row] glu^T + c, hidden = inner act(glu).
// down: out = hidden fc2^T + b.
// Folded (relu alone): hidden and out are times the pair's weight, so that hidden, kept, is all that backward needs of inner.
namespace experts {
template <class T, class Tile, bool Gated> struct UpOf : OfPairs<ExpertsUp, Tile> {
  using OfPairs<ExpertsUp, Tile>::p, OfPairs<ExpertsUp, Tile>::tile;
  struct Columns { int left; int64_t at; float4 bias, glu_bias; };
  struct Fetched { float weight; };                              // folded
  static constexpr int kColumns = Gated ? Tile::kColumns / 2 : Tile::kColumns;     // gated: so many of fc1, and the same of glu
  static constexpr bool kSplit = Gated, kWeighs = true;
  Operand<T, Tile::kRows, Tile::kLoaders, true, true> a;
  Operand<T, Tile::kColumns, Tile::kLoaders, true, false, Gated> b;

  PTX explicit UpOf(const ExpertsUp& p) : OfPairs<ExpertsUp, Tile>(p) {}
  PTX bool find(int number) { return this->find_pairs(number, p.expert_width, kColumns, p.width, 1); }
  PTX const T* weights(const void* experts, const void* shared, int64_t size) const {
    return of_expert<const T>(experts, shared, tile.expert, p.experts, size);
  }
  PTX void open() {
    const ExpertWeights &w = p.experts_weights, &s = p.shared_weights;
    const int64_t size = int64_t(p.expert_width) * p.width, before = int64_t(tile.column) * p.width;
    a = {static_cast<const T*>(p.x), nullptr, p.x_stride, tile.rows, p.width, p.pairs.pair_row, tile.pair};
    const T* glu = Gated ? weights(w.glu_weight, s.glu_weight, size) + before : nullptr;
    b = {weights(w.fc1_weight, s.fc1_weight, size) + before, glu, p.width, p.expert_width - tile.column, p.width, nullptr, 0};
  }
  PTX Columns columns(int column) const {
    const ExpertWeights &w = p.experts_weights, &s = p.shared_weights;
    column += tile.column;
    Columns c{p.expert_width - column, int64_t(tile.pair) * p.expert_width + column, {}, {}};
    c.bias = load_or_zeros<Tile::kWhole>(weights(w.fc1_bias, s.fc1_bias, p.expert_width), column, c.left);
    if (Gated) c.glu_bias = load_or_zeros<Tile::kWhole>(weights(w.glu_bias, s.glu_bias, p.expert_width), column, c.left);
    return c;
  }
  PTX float weight(int row) const { return p.folded ? p.pairs.pair_weight[tile.pair + row] : 1.0f; }
  PTX void fetch(const Columns&, int row, Fetched& f) const { f.weight = weight(row); }
  PTX float4 act(float4 v) const { return activate_four<sizeof(T) == 2>(p.activation, v).value; }
  // `second` has glu's columns, in gated experts.
  PTX float finish(const Columns& c, int row, const float* first, const float* second, const Fetched& f) const {
    const int64_t to = c.at + int64_t(row) * p.expert_width;
    const float4 inner = load_four(first) + c.bias;
    float4 hidden;
    if (Gated) {
      const float4 glu = load_four(second) + c.glu_bias;
      if (p.glu) store_row<Tile::kWhole>(static_cast<T*>(p.glu) + to, c.left, glu);
      hidden = inner * act(glu);
    } else {
      hidden = act(inner);
    }
    if (p.inner) store_row<Tile::kWhole>(static_cast<T*>(p.inner) + to, c.left, inner);
    store_row<Tile::kWhole>(static_cast<T*>(p.hidden) + to, c.left, p.folded ? f.weight * hidden : hidden);
    return 0;
  }
};

template <class T, class Tile> using Up = UpOf<T, Tile, false>;
template <class T, class Tile> using UpGated = UpOf<T, Tile, true>;

template <class T, class Tile> struct Down : OfPairs<ExpertsDown, Tile> {
  static constexpr bool kAMapped = true, kCut = Tile::kRows < 128, kWeighs = true;
  using OfPairs<ExpertsDown, Tile>::p, OfPairs<ExpertsDown, Tile>::tile;
  struct Columns { int left; T* out; float4 bias; };
  struct Fetched { float weight; };                              // folded
  Operand<T, Tile::kRows, Tile::kLoaders, true, false> a;
  Operand<T, Tile::kColumns, Tile::kLoaders, true, false> b;

  PTX explicit Down(const ExpertsDown& p) : OfPairs<ExpertsDown, Tile>(p) {}
  PTX bool find(int number) { return this->find_pairs(number, p.width, Tile::kColumns, p.expert_width, 1); }
  PTX int splits() const { return kCut ? p.splits.count : 1; }
  PTX void open() {
    const int f = p.expert_width;
    a = {static_cast<const T*>(p.hidden) + int64_t(tile.pair) * f, nullptr, f, tile.rows, f, nullptr, 0};
    const T* fc2 = of_expert<const T>(p.experts_weights.fc2_weight, p.shared_weights.fc2_weight, tile.expert, p.experts, int64_t(p.width) * f);
    b = {fc2 + int64_t(tile.column) * f, nullptr, f, p.width - tile.column, f, nullptr, 0};
  }
  PTX Columns columns(int column) const {
    column += tile.column;
    Columns c{p.width - column, static_cast<T*>(p.out) + int64_t(tile.pair) * p.width + column, {}};
    c.bias = load_or_zeros<Tile::kWhole>(of_expert<const T>(p.experts_weights.fc2_bias, p.shared_weights.fc2_bias, tile.expert, p.experts, p.width), column, c.left);
    return c;
  }
  PTX float weight(int row) const { return p.folded ? p.pairs.pair_weight[tile.pair + row] : 1.0f; }
  PTX void fetch(const Columns&, int row, Fetched& f) const { f.weight = weight(row); }
  PTX float finish(const Columns& c, int row, const float* first, const float*, const Fetched& f) const {
    store_row<Tile::kWhole>(c.out + int64_t(row) * p.width, c.left, load_four(first) + f.weight * c.bias);
    return 0;
  }
};
}
