// transport: the distance of two 1-D sample sets of equal weights, x [N] (a batch) and y [M] (a group): exactly, half the squared
// 2-Wasserstein distance, or the debiased Sinkhorn divergence with cost 1/2 (x - y)^2 as geomloss 0.2.6 computes it; and its gradients.
//
// One block takes one group at a time. It gathers the group's samples, divides them by their sum where that is asked for, and
// sorts both sets in shared memory (bitonic, ties by number, NaN last). Exactly: sample i of x holds M of N M equal parts of the
// unit interval, and meets those samples of y whose parts (N each) overlap them. Sinkhorn: all temperatures in one launch, four
// potentials (each set to the other, and to itself), old and new; eight lanes a point. Costs, potentials and exponents are f64, exp
// is taken in f32 when the largest is off. The potentials are in shared memory as long as they fit, else in the workspace.
// Each block adds dx of its groups up in their order; the block that comes last adds up the blocks: same bits every run on one model
// of device. Grid: any, as many blocks as there are parts. Shared memory: 10 bytes a sample of both sets, each rounded up to a power
// of 2, and 32 for the potentials. Launched by src/gpu/transport.rs.
#include "args/transport.cuh"
#include "lib/grid.cuh"
#include "lib/jobs.cuh"
#include "lib/reduce.cuh"

namespace transport {
constexpr int kThreads = 512, kLanes = 8;

// A set, sorted.
struct Set {
  double* values;
  uint16_t* from;   // the number that each sample had
  int count;
};

// The least power of 2 that is not below n.
PTX int rounded_up(int n) { return n < 2 ? 1 : 1 << (32 - __clz(n - 1)); }

// An order of all bit patterns: negative NaN, numbers, positive NaN.
PTX uint64_t key(double x) {
  uint64_t bits = uint64_t(__double_as_longlong(x));
  return bits >> 63 ? ~bits : bits | uint64_t(1) << 63;
}

PTX void sort(const Set& set) {
  int size = rounded_up(set.count);
  for (int i = set.count + int(threadIdx.x); i < size; i += kThreads) {
    set.values[i] = __longlong_as_double(0x7fffffffffffffffll);
    set.from[i] = 0xffff;
  }
  for (int run = 2; run <= size; run *= 2)
    for (int apart = run / 2; apart > 0; apart /= 2) {
      __syncthreads();
      for (int pair = threadIdx.x; pair < size / 2; pair += kThreads) {
        int low = 2 * pair - (pair & (apart - 1)), high = low + apart;
        double a = set.values[low], b = set.values[high];
        uint16_t of_a = set.from[low], of_b = set.from[high];
        bool after = key(a) > key(b) || (key(a) == key(b) && of_a > of_b);
        if (after == ((low & run) == 0)) {
          set.values[low] = b;
          set.values[high] = a;
          set.from[low] = of_b;
          set.from[high] = of_a;
        }
      }
    }
  __syncthreads();
}

// The samples of a group (none: all of them) in their order.
PTX void gather(Set& set, const double* values, const int* group, int wanted, int count) {
  set.count = 0;
  for (int begin = 0; begin < count; begin += kThreads) {
    int i = begin + int(threadIdx.x);
    bool own = i < count && (!group || group[i] == wanted);
    Scan scan = block_scan(own);
    if (own) {
      set.values[set.count + scan.before] = values[i];
      set.from[set.count + scan.before] = uint16_t(i);
    }
    set.count += scan.total;
  }
  __syncthreads();
}

PTX bool finite(double x) { return x - x == 0; }

// Where the gradients of one group go.
struct Gradients {
  double *dx, *dy, weight;   // a part of dx, to which is added; dy as it is found
};

PTX void put(const Gradients& to, const Set& x, const Set& y, int point, double d) {
  if (point >= x.count) to.dy[y.from[point - x.count]] = d;
  else if (to.weight != 0) to.dx[x.from[point]] += to.weight * d;
}

struct Met { double cost, pull; };

// Sample i of one set against those of the other that hold the same parts of the unit interval.
PTX Met meet(Set own, Set other, int i) {
  int n = own.count, m = other.count, at = i * m, end = at + m;
  double whole = double(n) * m;
  Met met{0, 0};
  for (int j = at / n; at < end; j++) {
    int next = min(end, (j + 1) * n);
    double mass = (next - at) / whole, gap = own.values[i] - other.values[j];
    met.cost += mass * 0.5 * gap * gap;
    met.pull += mass * gap;
    at = next;
  }
  return met;
}

PTX double exact(const Set& x, const Set& y, const Gradients& to) {
  double distance = 0;
  for (int point = threadIdx.x; point < x.count + y.count; point += kThreads) {
    bool of_x = point < x.count;
    Met met = meet(of_x ? x : y, of_x ? y : x, of_x ? point : point - x.count);
    if (of_x) distance += met.cost;
    put(to, x, y, point, met.pull);
  }
  return block_sum(distance);
}

struct Soft { double value, pull; };

// -eps log mean_j exp(potential_j / eps - 1/2 (from - to_j)^2 / eps), and how far `from` is from the mean of where its mass goes.
// Eight neighbouring lanes share a point.
PTX Soft softmin(double from, Set to, const double* potential, double eps) {
  int lane = threadIdx.x % kLanes;
  double largest = -1.7e308, inverse = 1 / eps, mass = 0, moved = 0;
  for (int j = lane; j < to.count; j += kLanes) {
    double gap = from - to.values[j];
    largest = fmax(largest, potential[j] - 0.5 * gap * gap);
  }
#pragma unroll
  for (int apart = kLanes / 2; apart > 0; apart /= 2) largest = fmax(largest, __shfl_xor_sync(~0u, largest, apart));
  for (int j = lane; j < to.count; j += kLanes) {
    double gap = from - to.values[j];
    double share = expf(float((potential[j] - 0.5 * gap * gap - largest) * inverse));
    mass += share;
    moved += share * gap;
  }
  mass = lanes_sum<kLanes>(mass);
  moved = lanes_sum<kLanes>(moved);
  return {-(largest + eps * log(mass / to.count)), moved / mass};
}

// Potentials of all points, x's before y's: to the other set, and to the own.
struct Potentials { double *cross, *self; };

struct Both { Soft cross, self; };

PTX Both both(const Set& x, const Set& y, const Potentials& old, int point, double eps) {
  bool of_x = point < x.count;
  int n = x.count;
  Set own = of_x ? x : y, other = of_x ? y : x;
  double from = of_x ? x.values[point] : y.values[point - n];
  return {softmin(from, other, old.cross + (of_x ? n : 0), eps), softmin(from, own, old.self + (of_x ? 0 : n), eps)};
}

// Each potential anew from those of the sweep before; unless it is the first, halfway to it.
PTX void sweep(const Set& x, const Set& y, const Potentials& old, const Potentials& next, double eps, bool first) {
  int points = x.count + y.count, team = threadIdx.x / kLanes;
  for (int begin = 0; begin < points; begin += kThreads / kLanes) {
    int point = begin + team;
    Both found = both(x, y, old, min(point, points - 1), eps);
    if (point >= points || threadIdx.x % kLanes != 0) continue;
    next.cross[point] = first ? found.cross.value : 0.5 * (old.cross[point] + found.cross.value);
    next.self[point] = first ? found.self.value : 0.5 * (old.self[point] + found.self.value);
  }
  __syncthreads();
}

PTX void exchange(Potentials& a, Potentials& b) {
  Potentials c = a;
  a = b;
  b = c;
}

PTX double sinkhorn(const TransportForward& p, const Set& x, const Set& y, double* potentials, const Gradients& to) {
  int points = x.count + y.count, team = threadIdx.x / kLanes;
  double diameter = fmax(x.values[x.count - 1], y.values[y.count - 1]) - fmin(x.values[0], y.values[0]);
  bool numbers = finite(diameter) && finite(x.values[0]) && finite(x.values[x.count - 1]) && finite(y.values[0]) && finite(y.values[y.count - 1]);
  if (!numbers || diameter * diameter == 0) {
    double all = numbers ? 0.0 : __longlong_as_double(0x7ff8000000000000ll);
    for (int point = threadIdx.x; point < points; point += kThreads) put(to, x, y, point, all);
    __syncthreads();
    return all;
  }
  Potentials old{potentials, potentials + points}, next{potentials + 2 * points, potentials + 3 * points};
  for (int i = threadIdx.x; i < 2 * points; i += kThreads) potentials[i] = 0;
  __syncthreads();
  // geomloss's temperatures: diameter^2 twice, then down to above blur^2 (with numpy.arange's arithmetic), then blur^2.
  double start = 2 * log(diameter), step = 2 * p.log_scaling, apart = (start + step) - start, square = diameter * diameter;
  double between = ceil((2 * p.log_blur - start) / step);
  int count = between > 0 ? int(min(between, 2e9)) : 0;
  for (int i = -2; i <= count; i++) {
    double eps = i < 0 ? square : i == count ? p.blur * p.blur : exp(start + i * apart);
    sweep(x, y, old, next, eps, i == -2);
    exchange(old, next);
  }
  // One extrapolation, through which the gradient goes; the potentials are held.
  double distance = 0;
  for (int begin = 0; begin < points; begin += kThreads / kLanes) {
    int point = begin + team;
    Both found = both(x, y, old, min(point, points - 1), p.blur * p.blur);
    if (point >= points || threadIdx.x % kLanes != 0) continue;
    int count = point < x.count ? x.count : y.count;
    distance += (found.cross.value - found.self.value) / count;
    put(to, x, y, point, (found.cross.pull - found.self.pull) / count);
  }
  return block_sum(distance);
}

// One group; x is sorted already.
PTX void group_forward(const TransportForward& p, const TransportJob& job, int group, const Set& x, Set y, double* potentials, double* part) {
  gather(y, job.y, job.group, group, job.count);
  int at = job.first_group + group;
  if (threadIdx.x == 0) p.counts[at] = y.count;
  if (y.count == 0) {
    if (threadIdx.x == 0) p.distances[at] = 0;
    return;
  }
  double sum = 1;
  if (p.group_sum) {
    double own = 0;
    for (int i = threadIdx.x; i < y.count; i += kThreads) own += y.values[i];
    sum = block_sum(own);
    for (int i = threadIdx.x; i < y.count; i += kThreads) y.values[i] /= sum;
  }
  sort(y);
  Gradients to{part, job.dy, p.lambda};
  double distance = p.blur == 0 ? exact(x, y, to) : sinkhorn(p, x, y, potentials, to);
  if (threadIdx.x == 0) p.distances[at] = distance;
  // Of y / sum: what all of them lose when one grows.
  double common = 0;
  for (int i = threadIdx.x; p.group_sum && i < y.count; i += kThreads) common += job.dy[y.from[i]] * y.values[i];
  common = block_sum(common);
  for (int i = threadIdx.x; i < y.count; i += kThreads) {
    job.normalised[y.from[i]] = y.values[i];
    job.dy[y.from[i]] = p.lambda == 0 ? 0.0 : p.lambda * ((job.dy[y.from[i]] - common) / sum);
  }
  __syncthreads();
}

// What all blocks found.
PTX void finish(const TransportForward& p) {
  for (int i = threadIdx.x; i < p.samples; i += kThreads) {
    double sum = p.add ? p.dx[i] : 0.0;
    for (int block = 0; block < int(gridDim.x); block++) sum += p.parts[int64_t(block) * p.samples + i];
    p.dx[i] = sum;
  }
  if (!p.terms) return;
  double distance = 0;
  for (int group = threadIdx.x; group < p.groups; group += kThreads) distance += p.lambda == 0 ? 0.0 : p.lambda * p.distances[group];
  distance = block_sum(distance);
  if (threadIdx.x == 0) {
    p.terms[2] = distance;
    p.terms[0] = p.terms[1] + p.terms[2] + p.terms[3] + p.terms[4];
  }
}

PTX void forward(const TransportForward& p) {
  DYNAMIC_SHARED(smem);
  int room_x = rounded_up(p.samples), room_y = rounded_up(p.most);
  Set x, y;
  x.values = reinterpret_cast<double*>(smem);
  y.values = x.values + room_x;
  double* potentials = p.potentials ? p.potentials + int64_t(blockIdx.x) * 4 * (p.samples + p.most) : y.values + room_y;
  x.from = reinterpret_cast<uint16_t*>(y.values + room_y + (p.potentials || p.blur == 0 ? 0 : 4 * (p.samples + p.most)));
  y.from = x.from + room_x;
  double* part = p.parts + int64_t(blockIdx.x) * p.samples;
  for (int i = threadIdx.x; i < p.samples; i += kThreads) part[i] = 0;
  gather(x, p.x, nullptr, 0, p.samples);
  sort(x);
  for (int unit = blockIdx.x; unit < p.units; unit += gridDim.x) {
    const TransportJob& job = p.jobs[job_of(p, unit)];
    group_forward(p, job, unit - job.first_unit, x, y, potentials, part);
  }
  if (last_block(p.counter)) finish(p);
}
}

KERNEL(transport_forward, TransportForward, 512, 1, transport::forward(p))
