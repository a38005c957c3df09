#pragma once
#include "experts/forward.cuh"
#include "lib/reduce.cuh"

// dinner: dhidden = dy[row] fc2; hidden and both slopes come from the saved inner (and glu). With a pair's weight w:
//   dinner = w dhidden act'(inner); gated: dinner = w dhidden act(glu), dglu = w dhidden inner act'(glu); weighted = w hidden;
//   <dhidden, hidden> over a tile's columns is that tile's part of the gradient on w.
// dx: dinner fc1 (+ dglu glu), K running on over both.
namespace experts {
template <class T> struct Dinner : OfPairs {
  using Args = ExpertsDinner;
  struct Fetched { float4 inner, glu; float weight; };
  struct Element { float hidden, dinner, dglu; };
  static constexpr int kColumns = kTile;
  const Args& p;
  Operand<T, true, true> a;
  Operand<T, false, false> b;
  int64_t at;

  PTX explicit Dinner(const Args& p) : p(p) {}
  PTX bool find(int number) {
    const int f = p.expert_width;
    if (!find_tile(p.pairs, number, f, kColumns, tile)) return false;
    a = {static_cast<const T*>(p.dy), nullptr, p.dy_stride, tile.rows, p.width, p.pairs.pair_row, tile.pair};
    const T* fc2 = of_expert<const T>(p.experts_weights.fc2_weight, p.shared_weights.fc2_weight, tile.expert, p.experts, int64_t(p.width) * f);
    b = {fc2 + tile.column, nullptr, f, p.width, f - tile.column, nullptr, 0};
    rows = tile.rows, depth = p.width, segments = 1;
    return true;
  }
  PTX void begin_rows(int column) {
    column += tile.column;
    left = p.expert_width - column;
    at = int64_t(tile.pair) * p.expert_width + column;
  }
  PTX void fetch(int row, Fetched& f) const {
    const int64_t from = at + int64_t(row) * p.expert_width;
    f.inner = load_row(static_cast<const T*>(p.inner) + from, left);
    f.glu = load_or_zeros(static_cast<const T*>(p.glu), from, left);
    f.weight = p.pairs.pair_weight[tile.pair + row];
  }
  PTX Element element(float dhidden, float inner, float glu) const {
    if (p.glu) {
      const Activated g = activate(p.activation, glu);
      return {inner * g.value, dhidden * g.value, dhidden * inner * g.slope};
    }
    const Activated v = activate(p.activation, inner);
    return {v.value, dhidden * v.slope, 0};
  }
  PTX void finish(int row, const float* staged, const Fetched& f) const {
    const float4 dhidden = load_four(staged);
    const Element x = element(dhidden.x, f.inner.x, f.glu.x), y = element(dhidden.y, f.inner.y, f.glu.y);
    const Element z = element(dhidden.z, f.inner.z, f.glu.z), w = element(dhidden.w, f.inner.w, f.glu.w);
    const float4 hidden = {x.hidden, y.hidden, z.hidden, w.hidden};
    const int64_t to = at + int64_t(row) * p.expert_width;
    store_row(static_cast<T*>(p.dinner) + to, left, f.weight * float4{x.dinner, y.dinner, z.dinner, w.dinner});
    if (p.glu) store_row(static_cast<T*>(p.dglu) + to, left, f.weight * float4{x.dglu, y.dglu, z.dglu, w.dglu});
    store_row(static_cast<T*>(p.weighted) + to, left, f.weight * hidden);
    const float part = warp_sum(sum(dhidden * hidden));        // a warp has a whole row; beyond the columns are zeros
    if (threadIdx.x % 32 == 0) p.dweight_parts[int64_t(tile.pair + row) * p.parts + tile.column / kColumns] = part;
  }
};

template <class T> struct Dx : OfPairs {
  using Args = ExpertsDx;
  using Fetched = Nothing;
  static constexpr int kColumns = kTile;
  const Args& p;
  Operand<T, true, false> a;
  Operand<T, false, false> b;
  T* dx;

  PTX explicit Dx(const Args& p) : p(p) {}
  PTX const T* weights(const void* experts, const void* shared) const {
    return of_expert<const T>(experts, shared, tile.expert, p.experts, int64_t(p.expert_width) * p.width) + tile.column;
  }
  PTX bool find(int number) {
    if (!find_tile(p.pairs, number, p.width, kColumns, tile)) return false;
    const ExpertWeights &w = p.experts_weights, &s = p.shared_weights;
    const int f = p.expert_width;
    const int64_t before = int64_t(tile.pair) * f;
    const bool gated = p.dglu;
    a = {static_cast<const T*>(p.dinner) + before, gated ? static_cast<const T*>(p.dglu) + before : nullptr, f, tile.rows, f, nullptr, 0};
    const T* glu = gated ? weights(w.glu_weight, s.glu_weight) : nullptr;
    b = {weights(w.fc1_weight, s.fc1_weight), glu, p.width, f, p.width - tile.column, nullptr, 0};
    rows = tile.rows, depth = f, segments = gated ? 2 : 1;
    return true;
  }
  PTX void begin_rows(int column) {
    column += tile.column;
    left = p.width - column;
    dx = static_cast<T*>(p.dx) + int64_t(tile.pair) * p.width + column;
  }
  PTX void fetch(int, Fetched&) const {}
  PTX void finish(int row, const float* staged, const Fetched&) const { store_row(dx + int64_t(row) * p.width, left, load_four(staged)); }
};
}
