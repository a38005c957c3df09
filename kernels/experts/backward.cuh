#pragma once
#include "experts/job.cuh"

// dinner: dhidden = dy[row] fc2; hidden and both slopes come from the saved inner (and glu). With a pair's weight w:
//   dinner = w dhidden act'(inner); gated: dinner = w dhidden act(glu), dglu = w dhidden inner act'(glu); weighted = w hidden;
//   <dhidden, hidden> over a tile's columns is that tile's part of the gradient on w.
//   Folded (see forward.cuh): inner is w hidden, which stands for weighted too.
// dx: dinner fc1 (+ dglu glu), K running on over both.
namespace experts {
template <class T, class Tile, bool Gated> struct DinnerOf : OfPairs<T, ExpertsDinner, Tile> {
  using OfPairs<T, ExpertsDinner, Tile>::p, OfPairs<T, ExpertsDinner, Tile>::tile;
  static constexpr bool kParts = true, kWeighs = true, kActivates = true;
  static constexpr int kOutputs = Gated ? 3 : 2, kExtras = Gated ? 2 : 1;
  using Folded = Four<ReluOfItself>;
  Operand<T, Tile::kRows, Tile::kLoaders, true, true> a;
  Operand<T, Tile::kColumns, Tile::kLoaders, false, false> b;

  PTX explicit DinnerOf(const ExpertsDinner& p) : OfPairs<T, ExpertsDinner, Tile>(p) {}
  PTX bool find(int number) { return this->find_pairs(number, p.expert_width, Tile::kColumns, p.width, 1); }
  PTX void open() {
    const int f = p.expert_width;
    a = {static_cast<const T*>(p.dy), nullptr, int(p.dy_stride), tile.rows, p.width, p.pairs.pair_row, tile.pair};
    const T* fc2 = of_expert<const T>(p.experts_weights.fc2_weight, p.shared_weights.fc2_weight, tile.expert, p.experts, int64_t(p.width) * f);
    b = {fc2 + tile.column, nullptr, f, p.width, f - tile.column, nullptr, 0};
  }
  PTX int left() const { return p.expert_width - tile.column; }
  PTX int64_t stride() const { return p.expert_width; }
  PTX T* output(int i) const { return this->tile_of(i == 0 ? p.dinner : i == 1 ? p.weighted : p.dglu, p.expert_width); }
  PTX const T* extra(int i) const { return this->tile_of(i == 0 ? p.inner : p.glu, p.expert_width); }
  PTX float weight(int row) const { return p.pairs.pair_weight[tile.pair + row]; }
  // Beyond the columns, dhidden is 0.
  template <class Act> PTX Finished<kOutputs> finish(Act act, float4 dhidden, float4, const Needs& n) const {
    const float4 inner = n.extra[0];
    if constexpr (Gated) {
      float4 dglu = dhidden * inner;
      const float4 active = act(n.extra[1], dglu), hidden = inner * active;
      return {{n.weight * (dhidden * active), n.weight * hidden, n.weight * dglu}, dhidden * hidden};
    } else {
      // Folded, inner is the weighted hidden; its sign is the slope of relu.
      float4 dinner = dhidden;
      const float4 hidden = act(inner, dinner);
      return {{n.weight * dinner, n.weight * hidden}, dhidden * hidden};
    }
  }
  PTX void put_part(int row, float part) const {
    const float w = p.folded ? weight(row) : 1.0f;
    // A weight of 0 has left nothing of hidden; nor does its gradient go on through the softmax, which multiplies by it.
    p.dweight_parts[int64_t(tile.pair + row) * p.parts + tile.column / Tile::kColumns] = w > 0 ? part / w : 0;
  }
};

template <class T, class Tile> using Dinner = DinnerOf<T, Tile, false>;
template <class T, class Tile> using DinnerGated = DinnerOf<T, Tile, true>;

template <class T, class Tile> struct Dx : OfPairs<T, ExpertsDx, Tile> {
  static constexpr bool kAMapped = true, kCut = Tile::kRows < 128;
  using OfPairs<T, ExpertsDx, Tile>::p, OfPairs<T, ExpertsDx, Tile>::tile;
  Operand<T, Tile::kRows, Tile::kLoaders, true, false> a;
  Operand<T, Tile::kColumns, Tile::kLoaders, false, false> b;

  PTX explicit Dx(const ExpertsDx& p) : OfPairs<T, ExpertsDx, Tile>(p) {}
  PTX bool find(int number) { return this->find_pairs(number, p.width, Tile::kColumns, p.expert_width, p.dglu ? 2 : 1); }
  PTX const T* weights(const void* experts, const void* shared) const {
    return of_expert<const T>(experts, shared, tile.expert, p.experts, int64_t(p.expert_width) * p.width) + tile.column;
  }
  PTX int splits() const { return kCut ? p.splits.count : 1; }
  PTX void open() {
    const ExpertWeights &w = p.experts_weights, &s = p.shared_weights;
    const int f = p.expert_width;
    const int64_t before = int64_t(tile.pair) * f;
    const bool gated = p.dglu;
    a = {static_cast<const T*>(p.dinner) + before, gated ? static_cast<const T*>(p.dglu) + before : nullptr, f, tile.rows, f, nullptr, 0};
    const T* glu = gated ? weights(w.glu_weight, s.glu_weight) : nullptr;
    b = {weights(w.fc1_weight, s.fc1_weight), glu, p.width, f, p.width - tile.column, nullptr, 0};
  }
  PTX int left() const { return p.width - tile.column; }
  PTX int64_t stride() const { return p.width; }
  PTX T* output(int) const { return this->tile_of(p.dx, p.width); }
  PTX Finished<1> finish(Plain, float4 first, float4, const Needs&) const { return {{first}, {}}; }
};
}
