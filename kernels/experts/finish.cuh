#pragma once
#include "experts/job.cuh"
#include "experts/ring.cuh"

// How a warpgroup of engine `wgmma` finishes its 64 rows: each warp its own 16, in the registers where the sums are. A thread has two
// neighbouring columns of each eight, of one row and of the row 8 below: these are the four that finish takes. What becomes of them goes by
// way of shared memory, a swizzled sheet of 64 or 32 columns for each output, from where a thread takes 16 bytes of a row, and its
// neighbours what follows, to memory.
namespace experts {
// Bytes of a warp's sheets: what the ring leaves.
template <class Tile> constexpr int kSheets = Tile::kRows > 128 ? 2048 : 4096;

template <class T, class Job> struct Finish {
  using Tile = typename Job::Blocks;
  using Stages = RingOf<Tile>;
  static constexpr int kBiases = Job::kBiases > 0 ? Job::kBiases : 1, kExtras = Job::kExtras, kGroups = Tile::kRows / 64;
  const Stages& ring;
  const Job& job;
  const int group, warp_row;                     // which 64 of the tile's rows, and of those the warp's first
  const int first, left;                         // of the tile: the warp's first row; columns
  const T* biases[kBiases];                      // where this lane's two of the first 64 columns' begin
  uint32_t bias[kBiases];                        // and those of the next 64
  float weight[2];                               // of this thread's rows

  PTX static int lane() { return threadIdx.x % 32; }
  PTX static int row(int i) { return lane() / 4 + i * 8; }

  // Before the product, so that what is read here is there after it.
  PTX Finish(const Stages& ring, const Job& job, int group, int warp_row)
      : ring(ring), job(job), group(group), warp_row(warp_row), first(group * 64 + warp_row), left(job.left()), biases{}, bias{}, weight{} {
#pragma unroll
    for (int i = 0; i < Job::kBiases; i++) {
      const T* const from = job.bias(i);
      biases[i] = from ? from + lane() * 2 : nullptr;
    }
    fetch(0);
    if constexpr (Job::kWeighs) {
#pragma unroll
      for (int i = 0; i < 2; i++)
        if (first + row(i) < job.rows) weight[i] = job.weight(first + row(i));
    }
  }
  PTX void fetch(int column) {
    const bool inside = column + lane() * 2 < left;
#pragma unroll
    for (int i = 0; i < Job::kBiases; i++) bias[i] = inside && biases[i] ? *reinterpret_cast<const uint32_t*>(biases[i] + column) : 0;
  }

  // What finish reads of the pairs comes through the ring, behind the operands: for each 64 columns of the tile, for each of kExtras tensors,
  // for each group's rows a box. Of one of them, sixteen columns from `column` on, as accumulators lie.
  PTX void extra(int step, int number, int column, uint32_t (&to)[4]) const {
    static_assert(Stages::kBoxes % kGroups == 0, "a stage has the boxes of all groups");
    const int n = (column / 64 * kExtras + number) * kGroups;
    const uint32_t rows = ring.stage(step + n / Stages::kBoxes) + (n % Stages::kBoxes + group) * kBox + warp_row * 128;
    ldmatrix_x4(to, (rows + swizzle_chunk(lane() % 16, lane() / 16)) ^ column % 64 / 8 << 4);
  }
  // Steps of extras that hold those of the first `columns` columns, in part or wholly.
  PTX static constexpr int begun(int columns) { return ((columns + 63) / 64 * kExtras * kGroups + Stages::kBoxes - 1) / Stages::kBoxes; }
  PTX static constexpr int ended(int columns) {
    return columns == Job::kColumns ? begun(columns) : columns / 64 * kExtras * kGroups / Stages::kBoxes;
  }

  // Two columns of the upper row, two of the lower.
  PTX static float4 four(uint32_t upper, uint32_t lower) {
    float v[4];
    unpack(upper, v, T{});
    unpack(lower, v + 2, T{});
    return {v[0], v[1], v[2], v[3]};
  }

  // Of a gradient: what is there, and in its place, by each thread where its sums are.
  template <class Out> PTX float4 there(int column) const {
    float v[2][2] = {};
#pragma unroll
    for (int i = 0; i < 2; i++)
      if (inside(column, i)) unpack(load_pair(job.template place<Out>() + at(column, i)), v[i], Out{});
    return {v[0][0], v[0][1], v[1][0], v[1][1]};
  }
  PTX void put_f32(int column, float4 v) const {
    float* const to = job.template place<float>();
    if (inside(column, 0)) store_pair(to + at(column, 0), v.x, v.y);
    if (inside(column, 1)) store_pair(to + at(column, 1), v.z, v.w);
  }
  PTX bool inside(int column, int i) const { return first + row(i) < job.rows && column < left; }
  PTX int64_t at(int column, int i) const { return (first + row(i)) * job.stride() + column; }

  // A warp's sheets of so many outputs: 16 rows of 64 columns each, or of 32. `to` is where this thread's first 16 bytes of one go.
  template <int Outputs> struct Sheet {
    static constexpr int kWide = Outputs * 2048 <= kSheets<Tile> ? 64 : 32, kAcross = kWide / 8, kBytes = 16 * kWide * 2;
    static_assert(Outputs * kBytes <= kSheets<Tile>, "a warp has room for its sheets");
    static constexpr int kLines = 32 / kAcross;  // rows that a warp takes at a time

    PTX static uint32_t slot(int row, int chunk) {
      return kWide == 64 ? swizzle_chunk(row, chunk) : row * 64 + ((chunk ^ (row / 2 & 3)) << 4);
    }
  };
  template <int Outputs> PTX uint32_t shared(int output) const {
    return ring.base + Stages::kBytes + (threadIdx.x - kFillers) / 32 * kSheets<Tile> + output * Sheet<Outputs>::kBytes;
  }
  template <int Outputs> PTX void put(int output, T* to, int sheet) const {
    using S = Sheet<Outputs>;
    constexpr int kTwice = 2 * S::kLines * S::kWide * 2;         // bytes from every other time to the next
    int row = lane() / S::kAcross, chunk = lane() % S::kAcross;
    if constexpr (Job::kGradient) opaque(row);   // or the compiler keeps what is left of the rows all along
    const uint32_t even = shared<Outputs>(output) + S::slot(row, chunk), odd = shared<Outputs>(output) + S::slot(row + S::kLines, chunk);
    const int rows = sheet * S::kWide + chunk * 8 < left ? job.rows - first - row : 0;
    uint4 line[16 / S::kLines];
#pragma unroll
    for (int i = 0; i < 16 / S::kLines; i++) line[i] = ld_shared_16((i % 2 ? odd : even) + i / 2 * kTwice);
#pragma unroll
    for (int i = 0; i < 16 / S::kLines; i++)
      if (i * S::kLines < rows) st_global_16(to + i * S::kLines * job.stride(), line[i]);
  }

  // Sixteen columns from `column` on: sums of either half of the product's columns, and biases as lanes hold them; to the words of each
  // output.
  template <bool Direct, int Outputs, class How>
  PTX void sixteen(How how, int step, int column, const float (&sums)[2][8], const uint32_t (&held)[kBiases], float4& parts,
                   uint32_t (&words)[Outputs][4]) const {
    uint32_t extras[kExtras > 0 ? kExtras : 1][4];
#pragma unroll
    for (int i = 0; i < kExtras; i++) extra(step, i, column, extras[i]);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int own = column + h * 8 + lane() % 4 * 2;
      Needs n;
#pragma unroll
      for (int i = 0; i < Job::kBiases; i++) {
        const uint32_t both = __shfl_sync(~0u, held[i], (column % 64 + h * 8) / 2 + lane() % 4);
        n.bias[i] = four(both, both);
      }
#pragma unroll
      for (int i = 0; i < kExtras; i++) n.extra[i] = four(extras[i][h * 2], extras[i][h * 2 + 1]);
      n.weight = {weight[0], weight[0], weight[1], weight[1]};
      if constexpr (Direct) n.extra[0] = !job.p.accumulate ? float4{} : job.p.gradient_f32 ? there<float>(own) : there<T>(own);
      auto of = [&](int half) { return float4{sums[half][h * 4], sums[half][h * 4 + 1], sums[half][h * 4 + 2], sums[half][h * 4 + 3]}; };
      const Finished<Job::kOutputs> done = job.finish(how, of(0), of(1), n);
      if constexpr (Job::kParts) parts = parts + done.part;
      if constexpr (Direct)
        if (job.p.gradient_f32) put_f32(own, done.value[0]);
#pragma unroll
      for (int i = 0; i < Outputs; i++) {
        const uint2 both = pack_four(T{}, done.value[i]);
        words[i][h * 2] = both.x, words[i][h * 2 + 1] = both.y;
      }
    }
  }

  // The first `Outputs` of the outputs. Brief: as little code as may stand there for every sheet, so that sums stay in the registers where
  // they are; else they are taken to where one code is.
  template <bool Brief, int Outputs, class How> PTX void sheets(const float (&acc)[Tile::kColumns / 2], int step, How how) {
    using S = Sheet<Outputs>;
    constexpr int kWide = S::kWide, kCount = Job::kColumns / kWide;
    constexpr bool kDirect = Job::kGradient && !Brief;           // is added to what is there, or f32
    T* to[Outputs];
#pragma unroll
    for (int i = 0; i < Outputs; i++) {
      to[i] = job.output(i);
      if (i == 0 || to[i]) to[i] += (first + lane() / S::kAcross) * job.stride() + lane() % S::kAcross * 8;
    }
    float4 parts = {0, 0, 0, 0};
    uint32_t held[kBiases];
#pragma unroll (Brief ? kCount : 1)
    for (int s = 0; s < kCount; s++) {
      if (s * kWide % 64 == 0) {
#pragma unroll
        for (int i = 0; i < kBiases; i++) held[i] = bias[i];
        if (s * kWide + 64 < Job::kColumns) fetch(s * kWide + 64);
      }
      for (int i = begun(s * kWide); i < begun((s + 1) * kWide); i++) ring.wait_full(step + i);
      __syncwarp();                              // the sheets before have been read
#pragma unroll
      for (int pair = 0; pair < kWide / 16; pair++) {
        float sums[2][8];
#pragma unroll
        for (int from = 0; from < kCount; from++)
          if (from == s) {                       // registers have no index
#pragma unroll
            for (int v = 0; v < 8; v++) {
              const int at = from * kWide / 2 + pair * 8 + v;
              sums[0][v] = acc[at], sums[1][v] = Job::kSplit ? acc[Tile::kColumns / 4 + at] : 0;
            }
          }
        uint32_t words[Outputs][4];
        sixteen<kDirect>(how, step, s * kWide + pair * 16, sums, held, parts, words);
#pragma unroll
        for (int i = 0; i < Outputs; i++) {
          const uint32_t at = (shared<Outputs>(i) + S::slot(lane() % 16, lane() / 16)) ^ pair << 5;
          // Of what reads extras as well, the compiler would hold more at once than there are registers, were it not asked.
          if (i == 0 || kExtras == 0 || to[i]) stmatrix_x4(at, words[i][0], words[i][1], words[i][2], words[i][3]);
        }
      }
      for (int i = ended(s * kWide); i < ended((s + 1) * kWide); i++) ring.release(step + i, true);
      __syncwarp();
      if constexpr (kDirect)
        if (job.p.gradient_f32) continue;
#pragma unroll
      for (int i = 0; i < Outputs; i++)
        if (i == 0 || to[i]) {
          opaque(to[i]);                         // or the compiler keeps every row's address
          put<Outputs>(i, to[i] + s * kWide, s);
        }
    }
    if constexpr (Job::kParts) {
      float part[2] = {parts.x + parts.y, parts.z + parts.w};
#pragma unroll
      for (int i = 0; i < 2; i++) {
        part[i] += __shfl_xor_sync(~0u, part[i], 1);
        part[i] += __shfl_xor_sync(~0u, part[i], 2);
        if (lane() % 4 == 0 && first + row(i) < job.rows) job.put_part(first + row(i), part[i]);
      }
    }
  }

  // `step`: the first of those that hold what finish reads, which it leaves behind.
  PTX void tile(const float (&acc)[Tile::kColumns / 2], int& step) {
    constexpr int kAll = Job::kOutputs;
    if constexpr (Job::kActivates) {
      const int activation = job.p.activation;
      if constexpr (Tile::kRows > 128) sheets<true, 1>(acc, step, typename Job::Folded{});         // tiles of folded layers alone
      else if (kAll == 2 && job.p.folded) sheets<true, 1>(acc, step, typename Job::Folded{});
      else if (activation == 0) sheets<kExtras == 0, kAll>(acc, step, Four<Relu>{});
      else if (activation == 2) sheets<false, kAll>(acc, step, Four<Gelu<true>>{});
      else sheets<true, kAll>(acc, step, Four<Swish<true>>{{steepness(activation)}});
    } else if constexpr (Job::kGradient) {
      if (job.p.accumulate || job.p.gradient_f32) sheets<false, kAll>(acc, step, Added{});
      else sheets<true, kAll>(acc, step, Written{});
    } else {
      sheets<true, kAll>(acc, step, Plain{});
    }
    step += begun(Job::kColumns);
  }
};
}
