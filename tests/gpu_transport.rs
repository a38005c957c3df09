//! Distances of 1-D sample sets on the emulated device, against the reference.
#![cfg(feature = "emulate")]
#![allow(unsafe_code)]

mod support;

use fair_moe::gpu::args::TransportJob;
use fair_moe::gpu::buffer::Buffer;
use fair_moe::gpu::transport::{self, Transport};
use fair_moe::{Distance, Normalise, reference};
use support::gpu::{Gpu, some_of};
use support::{assert_close, uniform};

const SINKHORN: Distance = Distance::Sinkhorn { blur: 1e-2, scaling: 0.5 };

#[derive(Debug)]
struct Found {
    distances: Vec<f64>,
    counts: Vec<i32>,
    dx: Vec<f64>,
    dy: Vec<f64>,
    normalised: Vec<f64>,
    terms: Vec<f64>,
}

/// One job: a set with ids, or one group.
struct Sets<'a> {
    x: &'a [f64],
    y: &'a [f64],
    ids: Option<&'a [i32]>,
    groups: usize,
    distance: Distance,
    normalise: Normalise,
    lambda: f64,
}

impl Sets<'_> {
    fn run(&self, gpu: &Gpu) -> fair_moe::Result<Found> {
        let (x, y, ids) = (gpu.put(self.x), gpu.put(self.y), gpu.put(self.ids.unwrap_or_default()));
        let [dx, dy, normalised]: [Buffer<f64>; 3] = [self.x, self.y, self.y].map(|s| gpu.put(&vec![0.0; s.len()]));
        let (distances, counts): (Buffer<f64>, Buffer<i32>) = (gpu.new_of(self.groups), gpu.new_of(self.groups));
        let (terms, counter) = (gpu.put(&[0.0, 0.5, 0.0, 0.25, 0.125, 0.0f64]), gpu.put(&[0i32]));
        let sms = gpu.driver.facts().multiprocessors;
        let parts: Buffer<f64> = gpu.new_of(transport::parts_len(sms, self.x.len(), self.groups)?);
        let most = self.y.len();
        let potentials: Buffer<f64> = gpu.new_of(transport::potentials_len(sms, self.distance, self.x.len(), most, self.groups)?);
        let job = TransportJob {
            y: y.pointer(),
            group: ids.pointer(),
            normalised: normalised.pointer(),
            dy: dy.pointer(),
            count: most as i32,
            groups: self.groups as i32,
            ..Default::default()
        };
        let of = Transport {
            x: x.pointer(),
            samples: self.x.len(),
            dx: dx.pointer(),
            distances: distances.pointer(),
            counts: counts.pointer(),
            terms: terms.pointer(),
            parts: parts.pointer(),
            potentials: potentials.pointer(),
            counter: counter.pointer(),
            lambda: self.lambda,
            distance: self.distance,
            normalise: self.normalise,
        };
        // SAFETY: every buffer has the shape that its field names.
        unsafe { transport::forward(&gpu.queue(), &of, &[job])? };
        assert_eq!(counter.to_vec()?, [0]);
        Ok(Found {
            distances: distances.to_vec()?,
            counts: counts.to_vec()?,
            dx: dx.to_vec()?,
            dy: dy.to_vec()?,
            normalised: normalised.to_vec()?,
            terms: terms.to_vec()?,
        })
    }
}

fn one<'a>(x: &'a [f64], y: &'a [f64], distance: Distance) -> Sets<'a> {
    Sets { x, y, ids: None, groups: 1, distance, normalise: Normalise::None, lambda: 1.0 }
}

fn want(x: &[f64], y: &[f64], distance: Distance) -> (f64, Vec<f64>) {
    match distance {
        Distance::Exact => reference::transport::exact(x, y).unwrap(),
        Distance::Sinkhorn { blur, scaling } => reference::transport::sinkhorn(x, y, blur, scaling).unwrap(),
    }
}

/// Errors against the size of the sets, 1: a gradient may vanish.
fn check_pair(gpu: &Gpu, x: &[f64], y: &[f64], distance: Distance) {
    let found = one(x, y, distance).run(gpu).unwrap();
    let bound = if distance == Distance::Exact { 1e-13 } else { 5e-7 };
    let near = |what: &str, got: &[f64], want: &[f64], n: usize| {
        let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs() * n as f64).fold(0.0, f64::max);
        assert!(got.len() == want.len() && worst <= bound, "{what}: {worst:.1e}, {} and {} samples, {gpu:?}", x.len(), y.len());
    };
    let (d, dx) = want(x, y, distance);
    let (_, dy) = want(y, x, distance);
    near("distance", &found.distances, &[d], 1);
    near("dx", &found.dx, &dx, x.len());
    near("dy", &found.dy, &dy, y.len());
    assert_eq!((found.counts[0], &found.normalised[..]), (y.len() as i32, y));
    assert_close("terms", &found.terms, &[0.875 + found.distances[0], 0.5, found.distances[0], 0.25, 0.125, 0.0], 1e-14);
}

#[test]
fn any_sizes_agree_with_the_reference() {
    let sizes = [(1, 1), (1, 2), (2, 1), (3, 5), (7, 64), (64, 64), (65, 33), (1, 300), (300, 7), (130, 129)];
    for (seed, (n, m)) in some_of(3, sizes.into_iter().enumerate()) {
        let (x, y) = (uniform(seed as u64, n), uniform(seed as u64 + 50, m));
        for gpu in Gpu::some(seed as u64) {
            check_pair(&gpu, &x, &y, Distance::Exact);
        }
        check_pair(&Gpu::new(seed as u64), &x, &y, SINKHORN);
    }
}

#[test]
fn hundreds_of_samples_agree_with_the_reference() {
    check_pair(&Gpu::new(2), &uniform(1, 300), &uniform(2, 299), Distance::Exact);
    check_pair(&Gpu::new(3), &uniform(3, 300), &uniform(4, 250), Distance::Sinkhorn { blur: 0.5, scaling: 0.3 });
}

#[test]
fn small_blurs_agree_with_the_reference() {
    let (x, y) = (uniform(1, 40), uniform(2, 30));
    for (blur, scaling) in [(1e-4, 0.5), (0.3, 0.9), (5.0, 0.5)] {
        check_pair(&Gpu::new(2), &x, &y, Distance::Sinkhorn { blur, scaling });
    }
}

#[test]
fn ties_go_by_position() {
    let rounded = |seed, n| uniform(seed, n).iter().map(|v| (v * 4.0).round() / 4.0).collect::<Vec<f64>>();
    for (seed, (n, m)) in [(12, 12), (31, 18), (100, 90)].into_iter().enumerate() {
        let (x, y) = (rounded(seed as u64, n), rounded(seed as u64 + 9, m));
        check_pair(&Gpu::new(seed as u64), &x, &y, Distance::Exact);
        check_pair(&Gpu::new(seed as u64), &x, &y, SINKHORN);
    }
}

#[test]
fn equal_sets_are_no_distance_apart() {
    let x = uniform(3, 50);
    let y: Vec<f64> = x.iter().rev().copied().collect();
    for (x, y) in [(&x[..], &y[..]), (&[2.5; 9], &[2.5; 4])] {
        for distance in [Distance::Exact, SINKHORN] {
            let found = one(x, y, distance).run(&Gpu::new(1)).unwrap();
            assert_eq!(found.distances, [0.0]);
            assert!(found.dx.iter().chain(&found.dy).all(|&d| d == 0.0));
        }
    }
}

#[test]
fn what_is_not_finite_gives_nan() {
    for bad in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (x, y) in [(&[bad][..], &[1.0][..]), (&[0.0, bad, 1.0], &[1.0, 2.0]), (&[0.0, 1.0], &[bad, bad])] {
            let found = one(x, y, SINKHORN).run(&Gpu::new(4)).unwrap();
            assert!(found.distances[0].is_nan() && found.dx.iter().chain(&found.dy).all(|d| d.is_nan()));
            assert!(!one(x, y, Distance::Exact).run(&Gpu::new(4)).unwrap().distances[0].is_finite());
            let off = Sets { lambda: 0.0, ..one(x, y, SINKHORN) }.run(&Gpu::new(4)).unwrap();
            assert!(off.dx.iter().chain(&off.dy).all(|&d| d == 0.0) && off.terms[0] == 0.875);
        }
    }
}

/// Groups by id are gathered, divided by their sums where that is asked for, and their gradients put back to where they were.
#[test]
fn groups_by_id_are_what_they_are_alone() {
    let sizes = [(1, 1), (2, 3), (64, 3), (70, 20), (7, 2)];
    for (seed, (samples, groups)) in some_of(4, sizes.into_iter().enumerate()) {
        let gpu = Gpu::new(seed as u64);
        let (x, y) = (uniform(seed as u64, samples), uniform(seed as u64 + 7, samples));
        let y: Vec<f64> = y.iter().map(|v| v + 2.0).collect();
        let ids: Vec<i32> = (0..samples).map(|b| (b * 7 + b / 3) as i32 % (groups as i32 + 1) - 1).collect();
        for (distance, normalise) in
            [(Distance::Exact, Normalise::None), (Distance::Exact, Normalise::GroupSum), (SINKHORN, Normalise::GroupSum)]
        {
            let sets = Sets { x: &x, y: &y, ids: Some(&ids), groups, distance, normalise, lambda: 0.7 };
            let found = sets.run(&gpu).unwrap();
            let (mut dx, mut dy, mut total) = (vec![0.0; samples], vec![0.0; samples], 0.0);
            for g in 0..groups {
                let members: Vec<usize> = (0..samples).filter(|&b| ids[b] == g as i32).collect();
                assert_eq!(found.counts[g], members.len() as i32);
                if members.is_empty() {
                    assert_eq!(found.distances[g], 0.0);
                    continue;
                }
                let sum = if normalise == Normalise::None { 1.0 } else { members.iter().map(|&b| y[b]).sum() };
                let own: Vec<f64> = members.iter().map(|&b| y[b] / sum).collect();
                let (d, dbatch) = want(&x, &own, distance);
                let (_, down) = want(&own, &x, distance);
                let common: f64 = if sum == 1.0 { 0.0 } else { down.iter().zip(&own).map(|(d, c)| d * c).sum() };
                assert!((found.distances[g] - d).abs() <= 1e-6 * d, "{} {d}", found.distances[g]);
                dx.iter_mut().zip(dbatch).for_each(|(sum, d)| *sum += 0.7 * d);
                members.iter().zip(down).for_each(|(&b, d)| dy[b] = 0.7 * (d - common) / sum);
                let normalised: Vec<f64> = members.iter().map(|&b| found.normalised[b]).collect();
                assert_close("normalised", &normalised, &own, 1e-14);
                total += 0.7 * d;
            }
            assert_close("dx", &found.dx, &dx, 2e-6);
            assert_close("dy", &found.dy, &dy, 2e-5);
            assert_close("term", &[found.terms[2]], &[total], 1e-6);
        }
    }
}

/// The largest sets are sorted too, and potentials that shared memory does not hold are in the workspace.
#[test]
fn large_sets_fit() {
    let (x, y) = (uniform(1, transport::MOST_SAMPLES), uniform(2, 3000));
    check_pair(&Gpu::new(1), &x, &y[..97], Distance::Exact);
    let blur = Distance::Sinkhorn { blur: 0.5, scaling: 0.5 };
    assert!(transport::potentials_len(2, blur, 2500, 40, 1).unwrap() > 0);
    let (y, x) = (&y[..40], &x[..2500]);
    let found = one(x, y, blur).run(&Gpu::new(3)).unwrap();
    let want = fair_moe::transport::sinkhorn(x, y, 0.5, 0.5).unwrap();
    assert_close("distance", &found.distances, &[want.distance], 1e-5);
    assert_close("dx", &found.dx, &want.dx, 1e-5);
}

#[test]
fn sets_that_do_not_fit_are_an_error() {
    let many = vec![0.0; 4097];
    let message = |x: &[f64], y: &[f64]| one(x, y, Distance::Exact).run(&Gpu::new(0)).unwrap_err().to_string();
    let want = "the number of samples that transport compares must be from 1 to 4096 on a GPU, but is 4097";
    assert_eq!((message(&many, &[1.0]), message(&[1.0], &many)), (want.into(), want.into()));
    assert!(message(&[], &[1.0]).contains("but is 0") && message(&[1.0], &[]).contains("but is 0"));
    let bad = Distance::Sinkhorn { blur: 0.0, scaling: 0.5 };
    assert!(one(&[1.0], &[2.0], bad).run(&Gpu::new(0)).unwrap_err().to_string().contains("blur"));
}

#[test]
fn more_jobs_than_fit_take_more_launches() {
    let gpu = Gpu::new(5);
    let x = uniform(1, 20);
    let sets: Vec<Vec<f64>> = (0..70).map(|g| uniform(g + 2, 1 + g as usize % 9)).collect();
    let buffers: Vec<[Buffer<f64>; 3]> = sets.iter().map(|y| [0, 1, 2].map(|_| gpu.put(y))).collect();
    let jobs: Vec<TransportJob> = (buffers.iter().zip(&sets))
        .map(|([y, normalised, dy], set)| TransportJob {
            y: y.pointer(),
            normalised: normalised.pointer(),
            dy: dy.pointer(),
            count: set.len() as i32,
            groups: 1,
            ..Default::default()
        })
        .collect();
    let (at, dx): (_, Buffer<f64>) = (gpu.put(&x), gpu.new_of(20));
    let (distances, counts): (Buffer<f64>, Buffer<i32>) = (gpu.new_of(70), gpu.new_of(70));
    let (terms, counter) = (gpu.put(&[0.0f64; 6]), gpu.put(&[0i32]));
    let parts: Buffer<f64> = gpu.new_of(transport::parts_len(gpu.driver.facts().multiprocessors, 20, 70).unwrap());
    let of = Transport {
        x: at.pointer(),
        samples: 20,
        dx: dx.pointer(),
        distances: distances.pointer(),
        counts: counts.pointer(),
        terms: terms.pointer(),
        parts: parts.pointer(),
        potentials: 0,
        counter: counter.pointer(),
        lambda: 1.0,
        distance: Distance::Exact,
        normalise: Normalise::None,
    };
    // SAFETY: every buffer has the shape that its field names.
    let run = || unsafe { transport::forward(&gpu.queue(), &of, &jobs) };
    assert_eq!(gpu.launches(run), ["transport_forward"; 2]);
    let wants: Vec<(f64, Vec<f64>)> = sets.iter().map(|y| reference::transport::exact(&x, y).unwrap()).collect();
    let distance: Vec<f64> = wants.iter().map(|w| w.0).collect();
    assert_close("distances", &distances.to_vec().unwrap(), &distance, 1e-13);
    assert_close("term", &terms.to_vec().unwrap()[2..3], &[distance.iter().sum()], 1e-13);
    let sum: Vec<f64> = (0..20).map(|i| wants.iter().map(|w| w.1[i]).sum()).collect();
    assert_close("dx", &dx.to_vec().unwrap(), &sum, 1e-12);
}
