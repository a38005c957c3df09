//! The experts on their pairs: gather, up, activation, down; and back. Work follows the pairs: an expert without rows costs nothing
//! but the zeros of its gradients.
//!
//! Backward needs neither the experts' outputs nor their hidden layer: with dH = dY·W2, the gradient on a pair's weight is
//! ⟨dy, expert(x)⟩ = ⟨dH, h⟩ + ⟨dy, b2⟩, and h comes from the saved pre-activation.

use super::gemm::{Matrix, gradient, product};
use super::network::{Network, split_mut, views, views_mut};
use super::{Scratch, add, dot, narrow_scaled, store, widen};
use crate::config::MoeConfig;
use crate::dtype::{Element, Float};
use crate::moe::{GradientMode, MoeInput, MoeState, Routing};
use crate::parameters::Parameters;
use rayon::prelude::*;

/// The rows of one expert. The shared expert's come last, with a weight of 1.
struct Job<'a, W> {
    rows: Vec<u32>,
    weights: Option<&'a [W]>,
}

fn jobs<'a, T: Element>(config: &MoeConfig, input: &MoeInput<'_, T>, routing: &'a Routing<T::Wide>) -> Vec<Job<'a, T::Wide>> {
    let pairs = routing.expert_offsets.windows(2).map(|w| w[0]..w[1]);
    let routed = pairs.map(|p| Job { rows: routing.pair_row[p.clone()].to_vec(), weights: Some(&routing.pair_weight[p]) });
    let needed = || (0..input.rows()).filter(|&row| input.is_needed(row)).map(|row| row as u32).collect();
    routed.chain(config.shared_expert.then(|| Job { rows: needed(), weights: None })).collect()
}

fn gather<T: Element>(from: &[T], width: usize, rows: &[u32]) -> Scratch {
    let mut to = Scratch::new::<T>(rows.len() * width);
    let each = to.get_mut::<T>().chunks_exact_mut(width).zip(rows);
    each.for_each(|(to, &row)| to.copy_from_slice(&from[row as usize * width..][..width]));
    to
}

/// `[P, D]` the output of each pair's expert before its weight, then of the shared expert for each row that is needed.
/// `saved` takes what backward needs: fc1's output `[P, F]`, and the gating map's where there is one.
pub fn forward<T: Element>(
    config: &MoeConfig,
    parameters: &Parameters<&[T]>,
    input: &MoeInput<'_, T>,
    routing: &Routing<T::Wide>,
    saved: Option<(&mut Vec<T>, &mut Vec<T>)>,
) -> Scratch {
    let (d, f) = (config.width, config.experts.width);
    let jobs = jobs(config, input, routing);
    let pairs: usize = jobs.iter().map(|j| j.rows.len()).sum();
    let mut outputs = Scratch::new::<T>(pairs * d);
    let outs = split_mut(outputs.get_mut(), jobs.iter().map(|j| j.rows.len() * d));
    let networks = views(config, parameters);
    let work = jobs.par_iter().zip(networks).zip(outs);
    match saved {
        None => work.for_each(|((job, network), out)| {
            let n = job.rows.len() * f;
            let (mut inner, mut glu) = (Scratch::new::<T>(n), Scratch::new::<T>(if config.experts.gated { n } else { 0 }));
            up_down(config, input, job, &network, inner.get_mut(), glu.get_mut(), out);
        }),
        Some((inner, glu)) => {
            inner.resize(pairs * f, T::default());
            glu.resize(if config.experts.gated { pairs * f } else { 0 }, T::default());
            let inners = split_mut(inner, jobs.iter().map(|j| j.rows.len() * f));
            let glus = split_mut(glu, jobs.iter().map(|j| if config.experts.gated { j.rows.len() * f } else { 0 }));
            work.zip(inners).zip(glus).for_each(|((((job, network), out), inner), glu)| {
                up_down(config, input, job, &network, inner, glu, out);
            });
        }
    }
    outputs
}

/// One expert on its rows.
fn up_down<T: Element>(
    config: &MoeConfig,
    input: &MoeInput<'_, T>,
    job: &Job<'_, T::Wide>,
    network: &Network<&[T]>,
    inner: &mut [T],
    glu: &mut [T],
    out: &mut [T],
) {
    let (d, f, n) = (config.width, config.experts.width, job.rows.len());
    let act = config.experts.activation;
    let x = gather(input.x, d, &job.rows);
    let x = Matrix::new(x.get(), n, d);
    product(x, Matrix::new(network.fc1_weight, f, d).t(), network.fc1_bias, inner);
    if config.experts.gated {
        product(x, Matrix::new(network.glu_weight, f, d).t(), network.glu_bias, glu);
    }
    let mut h = Scratch::new::<T>(n * f);
    h.get_mut::<T>().par_chunks_mut(f).enumerate().for_each(|(r, h)| {
        let row = r * f..(r + 1) * f;
        let mut value = vec![T::Wide::ZERO; f];
        act.values(&widen(if config.experts.gated { &glu[row.clone()] } else { &inner[row.clone()] }), &mut value);
        if config.experts.gated {
            multiply(&mut value, &widen(&inner[row]));
        }
        narrow_scaled(T::Wide::ONE, &value, h);
    });
    product(Matrix::new(h.get(), n, f), Matrix::new(network.fc2_weight, d, f).t(), network.fc2_bias, out);
}

/// What the experts give back.
pub struct Backward<W> {
    /// `[P, D]` the gradient on each pair's x; then the shared expert's.
    pub dx: Scratch,
    /// `[P]` the gradient on each pair's weight; then that on the shared expert's, which nobody reads.
    pub dpair: Vec<W>,
}

/// All gradients of the experts.
pub fn backward<T: Element, G: Element>(
    config: &MoeConfig,
    parameters: &Parameters<&[T]>,
    input: &MoeInput<'_, T>,
    state: &MoeState<T>,
    dy: &[T],
    gradients: &mut Parameters<&mut [G]>,
    mode: GradientMode,
) -> Backward<T::Wide> {
    let (d, f) = (config.width, config.experts.width);
    let jobs = jobs(config, input, &state.routing);
    let pairs: usize = jobs.iter().map(|j| j.rows.len()).sum();
    let mut whole = Backward { dx: Scratch::new::<T>(pairs * d), dpair: vec![T::Wide::ZERO; pairs] };
    let dxs = split_mut(whole.dx.get_mut(), jobs.iter().map(|j| j.rows.len() * d));
    let dpairs = split_mut(&mut whole.dpair, jobs.iter().map(|j| j.rows.len()));
    let starts = jobs.iter().scan(0, |at, job| Some(std::mem::replace(at, *at + job.rows.len() * f)));
    let (starts, networks, gradients) = (starts.collect::<Vec<_>>(), views(config, parameters), views_mut(config, gradients));
    let work = jobs.par_iter().zip(starts).zip(networks).zip(gradients).zip(dxs).zip(dpairs);
    work.for_each(|(((((job, start), network), gradient), dx), dpair)| {
        let n = job.rows.len() * f;
        let inner = &state.inner[start..][..n];
        let glu: &[T] = if config.experts.gated { &state.glu[start..][..n] } else { &[] };
        one_backward(config, input, job, &network, inner, glu, dy, gradient, mode, dx, dpair);
    });
    whole
}

/// One expert's gradients.
#[allow(clippy::too_many_arguments, reason = "one expert's share of each array")]
fn one_backward<T: Element, G: Element>(
    config: &MoeConfig,
    input: &MoeInput<'_, T>,
    job: &Job<'_, T::Wide>,
    network: &Network<&[T]>,
    inner: &[T],
    glu: &[T],
    dy: &[T],
    gradients: Network<&mut [G]>,
    mode: GradientMode,
    dx: &mut [T],
    dpair: &mut [T::Wide],
) {
    let (d, f, n) = (config.width, config.experts.width, job.rows.len());
    let (x, dy) = (gather(input.x, d, &job.rows), gather(dy, d, &job.rows));
    let (xs, dys) = (Matrix::new(x.get(), n, d), Matrix::new(dy.get(), n, d));
    let mut dh = Scratch::new::<T>(n * f);
    product(dys, Matrix::new(network.fc2_weight, d, f), &[], dh.get_mut());

    let pass = Pass { config, job, fc2_bias: &widen(network.fc2_bias), inner, glu, dy: dy.get() };
    let (mut weighted, mut dglu) = (Scratch::new::<T>(n * f), Scratch::new::<T>(glu.len()));
    let biases = pass.run(dh.get_mut(), dglu.get_mut(), weighted.get_mut(), dpair);
    let dinner = Matrix::new(dh.get(), n, f);

    gradient(dys.t(), Matrix::new(weighted.get(), n, f), gradients.fc2_weight, mode);
    gradient(dinner.t(), xs, gradients.fc1_weight, mode);
    product(dinner, Matrix::new(network.fc1_weight, f, d), &[], dx);
    if config.experts.gated {
        let dglu = Matrix::new(dglu.get(), n, f);
        gradient(dglu.t(), xs, gradients.glu_weight, mode);
        T::gemm(dglu, Matrix::new(network.glu_weight, f, d), &[], dx, GradientMode::Accumulate);
    }
    if config.experts.bias {
        store(&biases.fc2, gradients.fc2_bias, mode);
        store(&biases.fc1, gradients.fc1_bias, mode);
        store(&biases.glu, gradients.glu_bias, mode);
    }
}

/// Between the two pairs of products: everything that goes element by element over an expert's [rows, F], in one pass.
struct Pass<'a, T: Element> {
    config: &'a MoeConfig,
    job: &'a Job<'a, T::Wide>,
    fc2_bias: &'a [T::Wide],
    inner: &'a [T],
    glu: &'a [T],
    dy: &'a [T],
}

/// Sums over an expert's rows; empty without biases, and `glu` without a gating map.
struct BiasGradients<W> {
    fc1: Vec<W>,
    fc2: Vec<W>,
    glu: Vec<W>,
}

/// Rows that one thread takes at a time; their sums are added in order.
const BLOCK: usize = 64;

impl<T: Element> Pass<'_, T> {
    /// dH becomes the gradient on fc1's output; also gives that on the gating map's, h times the pair's weight, and the gradient on
    /// the pair's weight.
    fn run(&self, dh: &mut [T], dglu: &mut [T], weighted: &mut [T], dpair: &mut [T::Wide]) -> BiasGradients<T::Wide> {
        let (f, gated) = (self.config.experts.width, self.config.experts.gated);
        let rows = self.job.rows.len();
        let dglus = split_mut(dglu, (0..rows.div_ceil(BLOCK)).map(|b| if gated { BLOCK.min(rows - b * BLOCK) * f } else { 0 }));
        let blocks =
            dh.par_chunks_mut(BLOCK * f).zip(dglus).zip(weighted.par_chunks_mut(BLOCK * f)).zip(dpair.par_chunks_mut(BLOCK));
        let sums: Vec<_> = blocks
            .enumerate()
            .map(|(b, (((dh, dglu), weighted), dpair))| self.block(b * BLOCK, dh, dglu, weighted, dpair))
            .collect();
        let (bias, width) = (self.config.experts.bias, self.config.width);
        let zeros = |has: bool, n: usize| vec![T::Wide::ZERO; if has { n } else { 0 }];
        let mut total = BiasGradients { fc1: zeros(bias, f), fc2: zeros(bias, width), glu: zeros(bias && gated, f) };
        for sum in &sums {
            add(&mut total.fc1, &sum.fc1);
            add(&mut total.fc2, &sum.fc2);
            add(&mut total.glu, &sum.glu);
        }
        total
    }

    fn block(
        &self,
        first: usize,
        dh: &mut [T],
        dglu: &mut [T],
        weighted: &mut [T],
        dpair: &mut [T::Wide],
    ) -> BiasGradients<T::Wide> {
        let (d, f, gated) = (self.config.width, self.config.experts.width, self.config.experts.gated);
        let act = self.config.experts.activation;
        let zeros = |n: usize| vec![T::Wide::ZERO; n];
        let mut sums = BiasGradients { fc1: zeros(f), fc2: zeros(d), glu: zeros(if gated { f } else { 0 }) };
        let (mut g, mut pre, mut value, mut slope, mut factor) = (zeros(f), zeros(f), zeros(f), zeros(f), zeros(f));
        let mut dy = zeros(d);
        for (r, dpair) in dpair.iter_mut().enumerate() {
            let (p, at) = (first + r, r * f..(r + 1) * f);
            let weight = self.job.weights.map_or(T::Wide::ONE, |w| w[p]);
            widen_into(&self.dy[p * d..][..d], &mut dy);
            widen_into(&dh[at.clone()], &mut g);
            let whole = p * f..(p + 1) * f;
            if gated {
                widen_into(&self.glu[whole.clone()], &mut pre);
                widen_into(&self.inner[whole], &mut factor);
            } else {
                widen_into(&self.inner[whole], &mut pre);
            }
            act.values_and_slopes(&pre, &mut value, &mut slope);
            // From here on `value` is h, and `slope` the factor of dH in the gradient on what the activation is taken of.
            if gated {
                pre.copy_from_slice(&value); // the factor of dH in the gradient on fc1's output
                multiply(&mut slope, &factor);
                multiply(&mut value, &factor);
            }
            *dpair = dot(&g, &value) + dot(&dy, self.fc2_bias);
            narrow_scaled(weight, &value, &mut weighted[at.clone()]);
            scale(weight, &mut dy);
            add(&mut sums.fc2, &dy);
            scale(weight, &mut g);
            multiply(&mut slope, &g);
            if gated {
                multiply(&mut pre, &g);
                add(&mut sums.glu, &slope);
                narrow_scaled(T::Wide::ONE, &slope, &mut dglu[at.clone()]);
                std::mem::swap(&mut pre, &mut slope);
            }
            add(&mut sums.fc1, &slope);
            narrow_scaled(T::Wide::ONE, &slope, &mut dh[at]);
        }
        sums
    }
}

fn widen_into<T: Element>(from: &[T], to: &mut [T::Wide]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t = f.wide());
}

fn scale<W: Float>(factor: W, values: &mut [W]) {
    values.iter_mut().for_each(|v| *v *= factor);
}

fn multiply<W: Float>(values: &mut [W], by: &[W]) {
    values.iter_mut().zip(by).for_each(|(v, &b)| *v *= b);
}
