#pragma once
#include "experts/job.cuh"
#include "lib/activation.cuh"

// dinner: dhidden = dy[row] fc2; hidden and both slopes come from the saved inner (and glu). With a pair's weight w:
//   dinner = w dhidden act'(inner); gated: dinner = w dhidden act(glu), dglu = w dhidden inner act'(glu); weighted = w hidden;
//   <dhidden, hidden> over a tile's columns is that tile's part of the gradient on w.
//   Folded (see forward.cuh): inner is w hidden, which stands for weighted too.
// dx: dinner fc1 (+ dglu glu), K running on over both.
namespace experts {
template <class T, class Tile> struct Dinner : OfPairs<ExpertsDinner, Tile> {
  using OfPairs<ExpertsDinner, Tile>::p, OfPairs<ExpertsDinner, Tile>::tile;
  struct Columns { int left; int64_t at; };
  struct Fetched { float4 extra[2]; float weight; };             // inner, glu
  static constexpr bool kParts = true, kWeighs = true;
  Operand<T, Tile::kRows, Tile::kLoaders, true, true> a;
  Operand<T, Tile::kColumns, Tile::kLoaders, false, false> b;

  PTX explicit Dinner(const ExpertsDinner& p) : OfPairs<ExpertsDinner, Tile>(p) {}
  PTX bool find(int number) { return this->find_pairs(number, p.expert_width, Tile::kColumns, p.width, 1); }
  PTX void open() {
    const int f = p.expert_width;
    a = {static_cast<const T*>(p.dy), nullptr, p.dy_stride, tile.rows, p.width, p.pairs.pair_row, tile.pair};
    const T* fc2 = of_expert<const T>(p.experts_weights.fc2_weight, p.shared_weights.fc2_weight, tile.expert, p.experts, int64_t(p.width) * f);
    b = {fc2 + tile.column, nullptr, f, p.width, f - tile.column, nullptr, 0};
  }
  PTX Columns columns(int column) const {
    column += tile.column;
    return {p.expert_width - column, int64_t(tile.pair) * p.expert_width + column};
  }
  PTX int extras() const { return p.glu ? 2 : 1; }
  PTX float weight(int row) const { return p.pairs.pair_weight[tile.pair + row]; }
  PTX void fetch(const Columns& c, int row, Fetched& f) const {
    const int64_t from = c.at + int64_t(row) * p.expert_width;
    f.extra[0] = load_row<Tile::kWhole>(static_cast<const T*>(p.inner) + from, c.left);
    f.extra[1] = load_or_zeros<Tile::kWhole>(static_cast<const T*>(p.glu), from, c.left);
    f.weight = weight(row);
  }
  PTX float finish(const Columns& c, int row, const float* first, const float*, const Fetched& f) const {
    const float4 dhidden = load_four(first), inner = f.extra[0];
    const int64_t to = c.at + int64_t(row) * p.expert_width;
    float4 hidden, dinner;
    if (p.glu) {
      const FourActivated g = activate_four<sizeof(T) == 2>(p.activation, f.extra[1]);
      hidden = inner * g.value, dinner = dhidden * g.value;
      store_row<Tile::kWhole>(static_cast<T*>(p.dglu) + to, c.left, f.weight * (dhidden * inner * g.slope));
    } else {
      // Folded, inner is the weighted hidden; its sign is the slope of relu.
      const FourActivated v = activate_four<sizeof(T) == 2>(p.activation, inner);
      hidden = v.value, dinner = dhidden * v.slope;
    }
    store_row<Tile::kWhole>(static_cast<T*>(p.dinner) + to, c.left, f.weight * dinner);
    if (p.weighted) store_row<Tile::kWhole>(static_cast<T*>(p.weighted) + to, c.left, f.weight * hidden);
    return sum(dhidden * hidden);                // beyond the columns are zeros
  }
  PTX void put_part(int row, float part) const {
    const float w = p.folded ? weight(row) : 1.0f;
    // A weight of 0 has left nothing of hidden; nor does its gradient go on through the softmax, which multiplies by it.
    p.dweight_parts[int64_t(tile.pair + row) * p.parts + tile.column / Tile::kColumns] = w > 0 ? part / w : 0;
  }
};

template <class T, class Tile> struct Dx : OfPairs<ExpertsDx, Tile> {
  static constexpr bool kAMapped = true, kCut = Tile::kRows < 128;
  using OfPairs<ExpertsDx, Tile>::p, OfPairs<ExpertsDx, Tile>::tile;
  struct Columns { int left; T* dx; };
  using Fetched = Nothing;
  Operand<T, Tile::kRows, Tile::kLoaders, true, false> a;
  Operand<T, Tile::kColumns, Tile::kLoaders, false, false> b;

  PTX explicit Dx(const ExpertsDx& p) : OfPairs<ExpertsDx, Tile>(p) {}
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
  PTX Columns columns(int column) const {
    column += tile.column;
    return {p.width - column, static_cast<T*>(p.dx) + int64_t(tile.pair) * p.width + column};
  }
  PTX void fetch(const Columns&, int, Fetched&) const {}
  PTX float finish(const Columns& c, int row, const float* first, const float*, const Fetched&) const {
    store_row<Tile::kWhole>(c.dx + int64_t(row) * p.width, c.left, load_four(first));
    return 0;
  }
};
}
