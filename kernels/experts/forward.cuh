#pragma once
#include "experts/job.cuh"

// up: inner = x[row] fc1^T + b, hidden = act(inner); gated: also glu = x[row] glu^T + c, hidden = inner act(glu).
// down: out = hidden fc2^T + b.
// Folded (relu alone): hidden and out are times the pair's weight, so that hidden, kept, is all that backward needs of inner.
namespace experts {
template <class T, class Tile, bool Gated> struct UpOf : OfPairs<T, ExpertsUp, Tile> {
  using OfPairs<T, ExpertsUp, Tile>::p, OfPairs<T, ExpertsUp, Tile>::tile;
  static constexpr int kColumns = Gated ? Tile::kColumns / 2 : Tile::kColumns;     // gated: so many of fc1, and the same of glu
  static constexpr int kOutputs = Gated ? 3 : 2, kBiases = Gated ? 2 : 1;
  static constexpr bool kSplit = Gated, kWeighs = !Gated, kActivates = true;
  using Folded = Four<Relu>;
  Operand<T, Tile::kRows, Tile::kLoaders, true, true> a;
  Operand<T, Tile::kColumns, Tile::kLoaders, true, false, Gated> b;

  PTX explicit UpOf(const ExpertsUp& p) : OfPairs<T, ExpertsUp, Tile>(p) {}
  PTX bool find(int number) { return this->find_pairs(number, p.expert_width, kColumns, p.width, 1); }
  PTX const T* weights(const void* experts, const void* shared) const {
    const int64_t size = int64_t(p.expert_width) * p.width;
    return of_expert<const T>(experts, shared, tile.expert, p.experts, size) + int64_t(tile.column) * p.width;
  }
  PTX void open() {
    const ExpertWeights &w = p.experts_weights, &s = p.shared_weights;
    a = {static_cast<const T*>(p.x), nullptr, int(p.x_stride), tile.rows, p.width, p.pairs.pair_row, tile.pair};
    const T* glu = Gated ? weights(w.glu_weight, s.glu_weight) : nullptr;
    b = {weights(w.fc1_weight, s.fc1_weight), glu, p.width, p.expert_width - tile.column, p.width, nullptr, 0};
  }
  PTX int left() const { return p.expert_width - tile.column; }
  PTX int64_t stride() const { return p.expert_width; }
  PTX T* output(int i) const { return this->tile_of(i == 0 ? p.hidden : i == 1 ? p.inner : p.glu, p.expert_width); }
  PTX const T* bias(int i) const {
    const ExpertWeights &w = p.experts_weights, &s = p.shared_weights;
    return i == 0 ? this->bias_from(w.fc1_bias, s.fc1_bias, p.expert_width) : this->bias_from(w.glu_bias, s.glu_bias, p.expert_width);
  }
  PTX float weight(int row) const { return p.folded ? p.pairs.pair_weight[tile.pair + row] : 1.0f; }
  // `second` has glu's columns, in gated experts.
  template <class Act> PTX Finished<kOutputs> finish(Act act, float4 first, float4 second, const Needs& n) const {
    const float4 inner = first + n.bias[0];
    if constexpr (Gated) {
      const float4 glu = second + n.bias[1];
      return {{inner * act(glu), inner, glu}, {}};
    } else {
      return {{n.weight * act(inner), inner}, {}};
    }
  }
};

template <class T, class Tile> using Up = UpOf<T, Tile, false>;
template <class T, class Tile> using UpGated = UpOf<T, Tile, true>;

template <class T, class Tile> struct Down : OfPairs<T, ExpertsDown, Tile> {
  static constexpr bool kAMapped = true, kCut = Tile::kRows < 128, kWeighs = true;
  static constexpr int kBiases = 1;
  using OfPairs<T, ExpertsDown, Tile>::p, OfPairs<T, ExpertsDown, Tile>::tile;
  Operand<T, Tile::kRows, Tile::kLoaders, true, false> a;
  Operand<T, Tile::kColumns, Tile::kLoaders, true, false> b;

  PTX explicit Down(const ExpertsDown& p) : OfPairs<T, ExpertsDown, Tile>(p) {}
  PTX bool find(int number) { return this->find_pairs(number, p.width, Tile::kColumns, p.expert_width, 1); }
  PTX int splits() const { return kCut ? p.splits.count : 1; }
  PTX void open() {
    const int f = p.expert_width;
    a = {static_cast<const T*>(p.hidden) + int64_t(tile.pair) * f, nullptr, f, tile.rows, f, nullptr, 0};
    const T* fc2 = of_expert<const T>(p.experts_weights.fc2_weight, p.shared_weights.fc2_weight, tile.expert, p.experts, int64_t(p.width) * f);
    fc2 += int64_t(tile.column) * f;
    opaque(fc2);                                 // or the compiler keeps both, and spills one
    b = {fc2, nullptr, f, p.width - tile.column, f, nullptr, 0};
  }
  PTX int left() const { return p.width - tile.column; }
  PTX int64_t stride() const { return p.width; }
  PTX T* output(int) const { return this->tile_of(p.out, p.width); }
  PTX const T* bias(int) const { return this->bias_from(p.experts_weights.fc2_bias, p.shared_weights.fc2_bias, p.width); }
  PTX float weight(int row) const { return p.folded ? p.pairs.pair_weight[tile.pair + row] : 1.0f; }
  PTX Finished<1> finish(Plain, float4 first, float4, const Needs& n) const { return {{first + n.weight * n.bias[0]}, {}}; }
};
}
