//! The cross entropy and the correlations on the emulated device, against the f64 path and the reference.
#![cfg(feature = "emulate")]
#![allow(unsafe_code)]

mod support;

use fair_moe::contrast::Contrast;
use fair_moe::gpu::args::{ContrastBackwardJob, ContrastJob};
use fair_moe::gpu::buffer::Buffer;
use fair_moe::gpu::contrast;
use fair_moe::{Correlation, reference};
use support::gpu::Gpu;
use support::{assert_close, uniform};

const KINDS: [Correlation; 2] = [Correlation::Diagonal, Correlation::DiagonalOfSquare];

struct Batch {
    similarity: Vec<f32>,
    samples: usize,
    scale: f64,
    ids: Vec<i32>,
    /// On the correlation, and on that within groups.
    d: [Vec<f64>; 2],
}

struct Found {
    loss: f64,
    correlation: Vec<f64>,
    own: Vec<f64>,
    dsimilarity: Vec<f64>,
    dscale: f64,
}

impl Batch {
    fn random(seed: u64, samples: usize, scale: f64) -> Self {
        Self {
            similarity: uniform(seed, samples * samples).iter().map(|&v| v as f32).collect(),
            samples,
            scale,
            ids: (0..samples).map(|b| (b * 5 + b / 3) as i32 % 4 - 1).collect(),
            d: [uniform(seed + 1, samples), uniform(seed + 2, samples)],
        }
    }

    fn wide(&self) -> Vec<f64> {
        self.similarity.iter().map(|&v| v.into()).collect()
    }

    fn run(&self, gpu: &Gpu, kind: Correlation, lambda_clip: f64) -> Found {
        let b = self.samples;
        let (similarity, ids) = (gpu.put(&self.similarity), gpu.put(&self.ids));
        let [sums, correlation, own]: [Buffer<f64>; 3] = [4 * b, b, b].map(|len| gpu.new_of(len));
        let (terms, counter) = (gpu.put(&[0.0f64; 6]), gpu.put(&[0i32]));
        let parts: Buffer<f64> = gpu.new_of(contrast::parts_len([b]));
        let job = ContrastJob {
            similarity: similarity.pointer(),
            group: ids.pointer(),
            sums: sums.pointer(),
            correlation: correlation.pointer(),
            own: own.pointer(),
            scale: self.scale,
            samples: b as i32,
            ..Default::default()
        };
        let at = (terms.pointer(), parts.pointer(), counter.pointer());
        // SAFETY: every buffer has the shape that its field names.
        unsafe { contrast::forward(&gpu.queue(), kind, lambda_clip, &[job], at.0, at.1, at.2).unwrap() };
        let d = self.d.each_ref().map(|d| gpu.put(d));
        let (dsimilarity, dscale): (Buffer<f32>, Buffer<f64>) = (gpu.new_of(b * b), gpu.new_of(1));
        let job = ContrastBackwardJob {
            similarity: job.similarity,
            group: job.group,
            sums: if lambda_clip == 0.0 { 0 } else { job.sums },
            dcorrelation: d[0].pointer(),
            down: d[1].pointer(),
            dsimilarity: dsimilarity.pointer(),
            dscale: dscale.pointer(),
            scale: self.scale,
            samples: b as i32,
            ..Default::default()
        };
        // SAFETY: as above.
        unsafe { contrast::backward(&gpu.queue(), kind, lambda_clip, &[job], 1.5, at.1, at.2).unwrap() };
        assert_eq!(counter.to_vec().unwrap(), [0]);
        let terms = terms.to_vec().unwrap();
        assert!(!terms[5].is_finite() || (terms[1] - lambda_clip * terms[5]).abs() <= 1e-15 * terms[5].abs());
        Found {
            loss: terms[5],
            correlation: correlation.to_vec().unwrap(),
            own: own.to_vec().unwrap(),
            dsimilarity: dsimilarity.to_vec().unwrap().iter().map(|&d| d.into()).collect(),
            dscale: dscale.to_vec().unwrap()[0],
        }
    }

    fn check(&self, gpu: &Gpu, kind: Correlation, lambda_clip: f64) {
        let what = |part: &str| format!("{part} of {} samples, {kind:?}, {lambda_clip}, {gpu:?}", self.samples);
        let found = self.run(gpu, kind, lambda_clip);
        let (wide, all) = (self.wide(), (0..self.samples).collect::<Vec<_>>());
        let at = Contrast::new(&wide, self.samples, self.scale).unwrap();
        let mut gradient = at.no_gradient();
        at.clip_backward(1.5 * lambda_clip, &mut gradient).unwrap();
        let mut add = |members: &[usize], d: &[f64], got: &[f64]| {
            let d: Vec<f64> = members.iter().map(|&b| 1.5 * d[b]).collect();
            at.correlation_backward(kind, members, &d, &mut gradient).unwrap();
            let got: Vec<f64> = members.iter().map(|&b| got[b]).collect();
            assert_close(&what("correlation"), &got, &at.correlation(kind, members).unwrap(), 1e-12);
        };
        add(&all, &self.d[0], &found.correlation);
        for g in 0..3 {
            let members: Vec<usize> = all.iter().copied().filter(|&b| self.ids[b] == g).collect();
            add(&members, &self.d[1], &found.own);
        }
        assert!(all.iter().all(|&b| self.ids[b] >= 0 || found.own[b] == 0.0));
        assert_close(&what("dsimilarity"), &found.dsimilarity, &gradient.dsimilarity, 2e-5);
        assert_close(&what("dscale"), &[found.dscale], &[gradient.dscale], 2e-5);
        let logits: Vec<f64> = wide.iter().map(|s| self.scale * s).collect();
        let (loss, _) = reference::contrast::clip(&logits, self.samples).unwrap();
        assert_close(&what("loss"), &[found.loss], &[loss], 2e-5);
    }
}

#[test]
fn any_size_agrees_with_the_reference() {
    for (seed, samples) in [1, 2, 7, 33, 64, 100].into_iter().enumerate() {
        for (gpu, kind) in Gpu::some(seed as u64).zip(KINDS) {
            for (scale, lambda_clip) in [(1.0, 0.8), (14.0, 0.0), (-3.0, 1.0)] {
                Batch::random(seed as u64, samples, scale).check(&gpu, kind, lambda_clip);
            }
        }
    }
}

/// Where nearly all of a batch is told right, loss and gradient are small beside the 1 that shares are compared with.
#[test]
fn what_little_is_left_to_learn_keeps_its_digits() {
    for (scale, least) in [(5.0, 1e-3), (12.0, 1e-6)] {
        let mut batch = Batch::random(1, 40, scale);
        batch.similarity.iter_mut().for_each(|s| *s *= 0.1);
        (0..40).for_each(|b| batch.similarity[b * 41] += 2.0);
        batch.d = [vec![0.0; 40], vec![0.0; 40]];
        assert!(batch.run(&Gpu::new(3), KINDS[0], 1.0).loss < 40.0 * least * 3.0);
        batch.check(&Gpu::new(2), KINDS[0], 1.0);
    }
}

#[test]
fn large_logits_do_not_overflow() {
    let mut batch = Batch::random(0, 8, 100.0);
    batch.d = [vec![0.0; 8], vec![0.0; 8]];
    batch.similarity = (0..64).map(|at| if at / 8 == at % 8 { 1e30 } else { -1e30 }).collect();
    let found = batch.run(&Gpu::new(1), KINDS[0], 1.0);
    assert_eq!(found.loss, 0.0);
    assert!(found.dsimilarity.iter().all(|&d| d == 0.0));
    batch.similarity = vec![1e30; 64];
    assert_close("equal logits", &[batch.run(&Gpu::new(1), KINDS[0], 1.0).loss], &[8f64.ln()], 1e-12);
}

#[test]
fn what_is_not_finite_gives_nan() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut batch = Batch::random(0, 9, 1.0);
        batch.similarity[13] = bad;
        let found = batch.run(&Gpu::new(4), KINDS[1], 1.0);
        assert!(!found.loss.is_finite() && found.dsimilarity.iter().any(|d| d.is_nan()));
    }
    let mut batch = Batch::random(0, 9, 1.0);
    batch.similarity[13] = f32::NEG_INFINITY;
    let (loss, _) = reference::contrast::clip(&batch.wide(), 9).unwrap();
    assert_close("a share of 0", &[batch.run(&Gpu::new(4), KINDS[0], 1.0).loss], &[loss], 2e-5);
}

#[test]
fn more_jobs_than_fit_take_more_launches() {
    let gpu = Gpu::new(2);
    let batches: Vec<Batch> = (0..70).map(|i| Batch::random(i, 1 + i as usize % 5, 2.0)).collect();
    let similarity: Vec<_> = batches.iter().map(|batch| gpu.put(&batch.similarity)).collect();
    let out: Vec<Buffer<f64>> = batches.iter().map(|batch| gpu.new_of(batch.samples)).collect();
    let jobs: Vec<ContrastJob> = (0..70)
        .map(|i| ContrastJob {
            similarity: similarity[i].pointer(),
            correlation: out[i].pointer(),
            scale: 2.0,
            samples: batches[i].samples as i32,
            ..Default::default()
        })
        .collect();
    let counter = gpu.put(&[0i32]);
    // SAFETY: every buffer has the shape that its field names.
    let run = || unsafe { contrast::forward(&gpu.queue(), KINDS[1], 0.0, &jobs, 0, 0, counter.pointer()) };
    assert_eq!(gpu.launches(run), ["contrast_forward"; 2]);
    for (batch, out) in batches.iter().zip(&out) {
        let (wide, all) = (batch.wide(), (0..batch.samples).collect::<Vec<_>>());
        let want = Contrast::new(&wide, batch.samples, 2.0).unwrap().correlation(KINDS[1], &all).unwrap();
        assert_close("correlation", &out.to_vec().unwrap(), &want, 1e-12);
    }
}
