//! One layer's experts and their pairs on an emulated device, and plain sums of them in f64.

// SAFETY: each buffer is as long as the sizes beside it say.
#![allow(unsafe_code)]

use super::uniform;
use bytemuck::Pod;
use fair_moe::gpu::Queue;
use fair_moe::gpu::args::{ExpertWeights, Pairs, Splits};
use fair_moe::gpu::buffer::Buffer;
use fair_moe::gpu::driver::emulated::{Emulated, Settings};
use fair_moe::gpu::driver::{Arch, Driver};
use fair_moe::gpu::experts::splits::Room;
use fair_moe::gpu::plan::{Engine, Tile};
use fair_moe::gpu::session::Session;
use fair_moe::{DType, Element};
use std::sync::Arc;

/// The parts and the counters of a split product.
pub type SplitRoom = (Buffer<f32>, Buffer<i32>);

/// Room beyond the pairs that there are, since the host knows only a bound of them.
pub const SPARE: usize = 70;

/// One layer's experts and their pairs.
#[derive(Clone, Debug)]
pub struct Case {
    /// Pairs of each expert.
    pub segments: Vec<usize>,
    /// Pairs of the shared expert, where there is one.
    pub shared: Option<usize>,
    pub width: usize,
    pub expert_width: usize,
    pub gated: bool,
    pub bias: bool,
    pub activation: usize,
    /// How many elements each buffer begins behind an aligned address, and how many lie between rows of x.
    pub offset: usize,
    pub gap: usize,
    /// How many pairs and rows, of no use, come before those that the experts have.
    pub before: usize,
    pub seed: u64,
    /// Which order the device takes things in, beside the seed.
    pub schedule: u64,
    /// None: the general one of the dtype.
    pub tile: Option<Tile>,
    /// Pairs of a tile in the list; None: the tile's rows.
    pub listed: Option<usize>,
}

impl Case {
    pub fn new(segments: &[usize], width: usize, expert_width: usize) -> Self {
        let segments = segments.to_vec();
        Self {
            segments,
            shared: None,
            width,
            expert_width,
            gated: false,
            bias: true,
            activation: 1,
            offset: 0,
            gap: 0,
            before: 0,
            seed: 0,
            schedule: 0,
            tile: None,
            listed: None,
        }
    }

    /// Where each expert's pairs begin, the shared one's last.
    pub fn offsets(&self) -> Vec<usize> {
        let counts = self.segments.iter().copied().chain([self.shared.unwrap_or(0)]);
        let mut offsets = vec![self.before];
        counts.for_each(|count| offsets.push(offsets[offsets.len() - 1] + count));
        offsets
    }

    pub fn pairs(&self) -> usize {
        self.segments.iter().sum::<usize>() + self.shared.unwrap_or(0)
    }

    /// Tokens: fewer than pairs, so that rows are shared.
    pub fn rows(&self) -> usize {
        self.pairs() * 2 / 3 + 1
    }

    /// The expert of each pair; number E is the shared one.
    pub fn expert_of(&self) -> Vec<usize> {
        self.offsets().windows(2).enumerate().flat_map(|(e, w)| vec![e; w[1] - w[0]]).collect()
    }

    /// What a block computes at a time.
    pub fn tile(&self, dtype: DType) -> Tile {
        let general = if dtype == DType::F32 { Engine::Ffma } else { Engine::Mma };
        self.tile.unwrap_or(Tile::new(general, 128, 128))
    }

    /// Pairs of a tile in the list.
    pub fn listed(&self, dtype: DType) -> usize {
        self.listed.unwrap_or(self.tile(dtype).rows)
    }

    /// Whether the tile is one of layers whose weights are folded alone.
    pub fn folded_alone(&self) -> bool {
        self.tile.is_some_and(|tile| tile.rows > 128)
    }

    /// Without a split: of the products that know none.
    pub fn whole_tile(&self, dtype: DType) -> Tile {
        Tile { splits: 1, ..self.tile(dtype) }
    }

    pub fn arch(&self) -> Arch {
        if self.tile.is_some_and(|tile| tile.engine == Engine::Wgmma) { Arch::HOPPER } else { Arch(80) }
    }

    pub fn tiles(&self, rows: usize) -> Vec<i32> {
        let offsets = self.offsets();
        let of = |e: usize| (offsets[e]..offsets[e + 1]).step_by(rows).flat_map(move |first| [e as i32, first as i32]);
        let tiles: Vec<i32> = (0..offsets.len() - 1).flat_map(of).collect();
        [tiles.len() as i32 / 2].into_iter().chain(tiles).collect()
    }
}

/// An emulated device and what is uploaded to it.
pub struct Device {
    pub driver: Arc<dyn Driver>,
    pub session: Session,
}

/// A buffer that begins `offset` elements behind an aligned address, and the values it holds as f64.
pub struct Tensor<T> {
    pub buffer: Buffer<T>,
    pub offset: usize,
    /// Elements of no use behind that.
    pub before: usize,
    pub values: Vec<f64>,
}

impl<T: Element> Tensor<T> {
    pub fn at(&self) -> u64 {
        self.buffer.pointer() + (self.offset * size_of::<T>()) as u64
    }
}

impl Device {
    pub fn new(seed: u64, arch: Arch) -> Self {
        let settings = Settings { multiprocessors: 2 + seed as u32 % 3, workers: 2, ..Settings::new(seed, arch) };
        let driver: Arc<dyn Driver> = Arc::new(Emulated::new(settings));
        let session = Session::new(&driver).unwrap();
        Self { driver, session }
    }

    pub fn queue(&self) -> Queue<'_> {
        self.session.queue()
    }

    /// `values` behind so many elements.
    pub fn behind<V: Pod>(&self, before: usize, values: &[V]) -> Buffer<V> {
        let buffer = self.session.empty::<V>((before + values.len()).max(1)).unwrap();
        let at = buffer.pointer() + (before * size_of::<V>()) as u64;
        unsafe { self.driver.write(self.queue().stream, at, bytemuck::cast_slice(values)).unwrap() };
        buffer
    }

    pub fn upload<T: Element>(&self, offset: usize, before: usize, values: &[f64]) -> Tensor<T> {
        let rounded: Vec<T> = values.iter().map(|&v| T::from_f64(v)).collect();
        let buffer = self.behind(offset + before, &rounded);
        Tensor { buffer, offset, before, values: rounded.iter().map(|v| v.to_f64()).collect() }
    }

    /// Holds NaN, or nothing but 0 where it is very large.
    pub fn room<T: Element>(&self, offset: usize, before: usize, len: usize) -> Tensor<T> {
        Tensor { buffer: self.session.empty(offset + before + len).unwrap(), offset, before, values: vec![] }
    }

    /// What a kernel wrote into the first `len` elements, where all after them must be as they were.
    pub fn written<T: Element>(&self, tensor: &Tensor<T>, len: usize) -> Vec<f64> {
        let lead = tensor.offset + tensor.before;
        let mut all = vec![T::default(); tensor.buffer.len() - lead];
        let at = tensor.buffer.pointer() + (lead * size_of::<T>()) as u64;
        unsafe { self.driver.read(self.queue().stream, at, bytemuck::cast_slice_mut(&mut all)).unwrap() };
        let untouched = |v: &T| v.to_f64().is_nan() || tensor.before > 0 && v.to_f64() == 0.0;
        assert!(all[len..].iter().all(untouched), "something was written behind the last pair");
        all[..len].iter().map(|v| v.to_f64()).collect()
    }
}

/// What every product reads.
pub struct Setup<T> {
    pub device: Device,
    pub case: Case,
    pub expert_of: Vec<usize>,
    pub row_of: Vec<usize>,
    pub x: Tensor<T>,
    pub parameters: [Tensor<T>; 12],
    pub pair_weight: Vec<f64>,
    pub buffers: (Buffer<f32>, [Buffer<i32>; 3]),
}

impl<T: Element> Setup<T> {
    pub fn new(case: &Case) -> Self {
        let device = Device::new(case.seed + case.schedule, case.arch());
        let (d, f, e, p, n) = (case.width, case.expert_width, case.segments.len(), case.pairs(), case.rows());
        let row_of: Vec<usize> = (0..p).map(|pair| pair * 7919 % n).collect();
        let rows: Vec<i32> = row_of.iter().map(|&r| (case.before + r) as i32).chain([-1; SPARE]).collect();
        let offsets: Vec<i32> = case.offsets().iter().map(|&o| o as i32).collect();
        let weights: Vec<f32> = uniform(case.seed + 7, p)
            .iter()
            .zip(case.expert_of())
            .map(|(&w, of)| if of < e { w.abs() as f32 } else { 1.0 })
            .collect();
        let parameter = |number: u64, experts: usize, len: usize| {
            let values = uniform(case.seed + 100 + number, experts * len);
            device.upload::<T>(case.offset, 0, &values)
        };
        let sizes = [f * d, f, f * d, f, d * f, d];
        let parameters = std::array::from_fn(|i| parameter(i as u64, if i < 6 { e } else { 1 }, sizes[i % 6]));
        Self {
            x: device.upload(case.offset, case.before * (d + case.gap), &uniform(case.seed + 1, n * (d + case.gap))),
            parameters,
            buffers: (
                device.behind(case.before, &[&weights[..], &[f32::NAN; SPARE]].concat()),
                [(0, &offsets), (case.before, &rows), (0, &case.tiles(case.listed(T::DTYPE)))].map(|(n, v)| device.behind(n, v)),
            ),
            pair_weight: weights.iter().map(|&w| f64::from(w)).collect(),
            expert_of: case.expert_of(),
            row_of,
            case: case.clone(),
            device,
        }
    }

    pub fn list(&self) -> Pairs {
        let (weights, lists) = &self.buffers;
        let [expert_offsets, pair_row, tiles] = lists.each_ref().map(|list| list.pointer());
        let tile_rows = self.case.listed(T::DTYPE) as i32;
        Pairs { expert_offsets, pair_row, pair_weight: weights.pointer(), tiles, tile_rows }
    }

    /// What a split product of so many columns needs: room for its parts, and counters that nobody has set to 0 yet, with their number.
    pub fn splits(&self, columns: usize) -> (Splits, i32, Option<SplitRoom>) {
        let (case, tile) = (&self.case, self.case.tile(T::DTYPE));
        let Room { parts, counters } =
            Room::new(tile, case.before + case.pairs() + SPARE, case.segments.len() + 1, columns).unwrap();
        if counters == 0 {
            return (Splits::default(), 0, None);
        }
        let (parts, arrived) = (self.device.session.empty(parts).unwrap(), self.device.session.empty(counters).unwrap());
        let splits = Splits { parts: parts.pointer(), arrived: arrived.pointer(), ..Default::default() };
        (splits, counters as i32, Some((parts, arrived)))
    }

    /// The experts' weights, and the shared one's.
    pub fn weights(&self) -> [ExpertWeights; 2] {
        let (bias, gated) = (self.case.bias, self.case.gated);
        let of = |first: usize| {
            let at = |i: usize, there: bool| if there { self.parameters[first + i].at() } else { 0 };
            ExpertWeights {
                fc1_weight: at(0, true),
                fc1_bias: at(1, bias),
                glu_weight: at(2, gated),
                glu_bias: at(3, gated && bias),
                fc2_weight: at(4, true),
                fc2_bias: at(5, bias),
            }
        };
        [of(0), if self.case.shared.is_some() { of(6) } else { ExpertWeights::default() }]
    }

    /// Parameter number `i` of pair p's expert, of `len` elements each.
    pub fn parameter(&self, i: usize, p: usize, len: usize) -> &[f64] {
        let e = self.expert_of[p];
        let shared = e == self.case.segments.len();
        &self.parameters[if shared { i + 6 } else { i }].values[if shared { 0 } else { e * len }..][..len]
    }

    /// W v + b of each pair, with weight number `i` [outputs, inputs].
    pub fn linear(&self, i: usize, outputs: usize, inputs: usize, input: impl Fn(usize) -> Vec<f64>) -> Vec<f64> {
        let one = |p: usize| {
            let (weight, bias, v) = (self.parameter(i, p, outputs * inputs), self.parameter(i + 1, p, outputs), input(p));
            let out = move |o: usize| {
                let sum: f64 = weight[o * inputs..][..inputs].iter().zip(&v).map(|(w, v)| w * v).sum();
                sum + if self.case.bias { bias[o] } else { 0.0 }
            };
            (0..outputs).map(out).collect::<Vec<_>>()
        };
        (0..self.case.pairs()).flat_map(one).collect()
    }

    pub fn x_of(&self, p: usize) -> Vec<f64> {
        self.x.values[self.row_of[p] * (self.case.width + self.case.gap)..][..self.case.width].to_vec()
    }
}
