//! Moments on the emulated device, against recorded values and the two-pass reference.
#![cfg(feature = "emulate")]
#![allow(unsafe_code)]

mod support;

use fair_moe::gpu::args::{MomentsBackwardJob, MomentsGate, MomentsJob};
use fair_moe::gpu::buffer::Buffer;
use fair_moe::gpu::moments::{self, COUNTERS, Dispersion};
use fair_moe::reference;
use support::gpu::Gpu;
use support::{Case, assert_close, uniform};

/// Rows with a group each, and what is wanted of them.
struct Rows {
    x: Vec<f32>,
    columns: usize,
    group: Vec<i32>,
    groups: usize,
}

struct Found {
    count: Vec<i32>,
    mean: Vec<f64>,
    variance: Vec<f64>,
    dx: Vec<f64>,
}

impl Rows {
    fn new(seed: u64, rows: usize, columns: usize, groups: usize) -> Self {
        let x = uniform(seed, rows * columns).iter().map(|&v| v as f32).collect();
        // Group 1, where there is one, has no rows; some rows are in none.
        let id = |row: usize| match (row * 7 + row / 3) as i32 % (groups as i32 + 1) - 1 {
            1 if groups > 2 => 0,
            id => id,
        };
        Self { x, columns, group: (0..rows).map(id).collect(), groups }
    }

    /// Runs both ways; `whole` adds a group of all rows.
    fn run(&self, gpu: &Gpu, whole: bool, dmean: &[f64], dvariance: &[f64]) -> Found {
        let groups = self.groups + usize::from(whole);
        let (x, group) = (gpu.put(&self.x), gpu.put(&self.group));
        let (count, mean): (Buffer<i32>, Buffer<f64>) = (gpu.new_of(groups), gpu.new_of(groups * self.columns));
        let (variance, dx): (Buffer<f64>, Buffer<f32>) = (gpu.new_of(groups * self.columns), gpu.new_of(self.x.len()));
        let rows = self.group.len() as i32;
        let job = MomentsJob {
            x: x.pointer(),
            group: group.pointer(),
            count: count.pointer(),
            mean: mean.pointer(),
            variance: variance.pointer(),
            rows,
            columns: self.columns as i32,
            groups: self.groups as i32,
            samples: rows.max(1),
            run: 1,
            whole: i32::from(whole),
            ..Default::default()
        };
        let (parts, counters): (Buffer<f64>, _) = (gpu.new_of(moments::parts_len(&[job]).unwrap()), gpu.put(&[0i32; COUNTERS]));
        // SAFETY: every buffer has the shape that its field names.
        unsafe { moments::forward(&gpu.queue(), &[job], &Dispersion::default(), parts.pointer(), counters.pointer()).unwrap() };
        assert_eq!(counters.to_vec().unwrap(), [0; COUNTERS]);
        let (dmean, dvariance) = (gpu.put(dmean), gpu.put(dvariance));
        let job = MomentsBackwardJob {
            x: job.x,
            group: job.group,
            count: job.count,
            mean: job.mean,
            dmean: dmean.pointer(),
            dvariance: dvariance.pointer(),
            dx: dx.pointer(),
            rows,
            columns: job.columns,
            groups: job.groups,
            samples: job.samples,
            run: 1,
            of_groups: 1,
            of_whole: job.whole,
            ..Default::default()
        };
        let add = MomentsBackwardJob { add: 1, ..job };
        // SAFETY: as above. The second launch adds the same again.
        unsafe { moments::backward(&gpu.queue(), &[job], 0.25).unwrap() };
        unsafe { moments::backward(&gpu.queue(), &[add], 0.75).unwrap() };
        Found {
            count: count.to_vec().unwrap(),
            mean: mean.to_vec().unwrap(),
            variance: variance.to_vec().unwrap(),
            dx: dx.to_vec().unwrap().iter().map(|&d| d.into()).collect(),
        }
    }

    fn check(&self, gpu: &Gpu, what: &str) {
        let x: Vec<f64> = self.x.iter().map(|&v| v.into()).collect();
        let group: Vec<i64> = self.group.iter().map(|&g| g.into()).collect();
        let size = self.groups * self.columns;
        let (dmean, dvariance) = (uniform(5, size), uniform(6, size));
        let found = self.run(gpu, false, &dmean, &dvariance);
        let (count, mean, variance) = reference::moments::forward(&x, self.columns, &group, self.groups).unwrap();
        assert_eq!(found.count, count.iter().map(|&n| n as i32).collect::<Vec<_>>(), "{what}");
        assert_close(&format!("{what}: mean"), &found.mean, &mean, 1e-12);
        assert_close(&format!("{what}: variance"), &found.variance, &variance, 1e-9);
        let dx = reference::moments::backward(&x, self.columns, &group, self.groups, &dmean, &dvariance).unwrap();
        assert_close(&format!("{what}: dx"), &found.dx, &dx, 2e-5);
    }
}

#[test]
fn any_shape_agrees_with_the_reference() {
    let shapes = [
        (0, 3, 2),
        (1, 1, 1),
        (2, 3, 1),
        (2, 10, 3),
        (40, 33, 3),
        (300, 10, 20),
        (1000, 1, 16),
        (1000, 3, 0),
        (30, 300, 2),
        (10_000, 2, 3),
    ];
    for (seed, (rows, columns, groups)) in shapes.into_iter().enumerate() {
        for gpu in Gpu::some(seed as u64) {
            Rows::new(seed as u64, rows, columns, groups).check(&gpu, &format!("{rows} x {columns} in {groups}, {gpu:?}"));
        }
    }
}

#[test]
fn more_groups_than_shared_memory_holds_are_summed_in_turns() {
    Rows::new(3, 700, 2, 120).check(&Gpu::new(1), "120 groups");
}

#[test]
fn the_whole_is_all_rows_in_a_group_or_in_none() {
    let rows = Rows::new(8, 500, 7, 3);
    let size = 4 * 7;
    let (dmean, dvariance) = (uniform(1, size), uniform(2, size));
    let found = rows.run(&Gpu::new(2), true, &dmean, &dvariance);
    let x: Vec<f64> = rows.x.iter().map(|&v| v.into()).collect();
    let all = vec![0; 500];
    let (count, mean, variance) = reference::moments::forward(&x, 7, &all, 1).unwrap();
    assert_eq!(found.count[3], count[0] as i32);
    assert_close("mean", &found.mean[21..], &mean, 1e-12);
    assert_close("variance", &found.variance[21..], &variance, 1e-9);
    let group: Vec<i64> = rows.group.iter().map(|&g| g.into()).collect();
    let of_groups = reference::moments::backward(&x, 7, &group, 3, &dmean[..21], &dvariance[..21]).unwrap();
    let of_whole = reference::moments::backward(&x, 7, &all, 1, &dmean[21..], &dvariance[21..]).unwrap();
    let want: Vec<f64> = of_groups.iter().zip(of_whole).map(|(a, b)| a + b).collect();
    assert_close("dx", &found.dx, &want, 2e-5);
}

#[test]
fn a_large_mean_costs_no_digits() {
    for (mean, spread) in [(100.0, 1.0), (100.0, 1e-3), (1e4, 1e-2)] {
        let mut rows = Rows::new(1, 2000, 10, 3);
        rows.x = uniform(1, 2000 * 10).iter().map(|v| (mean + spread * v) as f32).collect();
        rows.check(&Gpu::new(4), &format!("{mean} and {spread}"));
    }
}

#[test]
fn recorded_case() {
    let case = Case::load("group_moments");
    let rows = Rows {
        x: case.get("x").iter().map(|&v| v as f32).collect(),
        columns: case.size("columns"),
        group: case.get("group").iter().map(|&g| g as i32).collect(),
        groups: case.size("groups"),
    };
    for gpu in Gpu::seeds() {
        let found = rows.run(&gpu, false, case.get("dmean"), case.get("dvariance"));
        assert_eq!(found.count, case.get("count").iter().map(|&n| n as i32).collect::<Vec<_>>());
        assert_close("mean", &found.mean, case.get("mean"), 2e-5);
        assert_close("variance", &found.variance, case.get("variance"), 2e-5);
        assert_close("dx", &found.dx, case.get("dx"), 2e-5);
    }
}

/// What route writes of each (sample, expert) column, put together by the samples' groups, is what the rows themselves give.
#[test]
fn columns_of_samples_are_put_together_by_group() {
    let (samples, tokens, experts, groups) = (7, 9, 5, 2);
    let x: Vec<f32> = uniform(4, samples * tokens * experts).iter().map(|&v| v as f32 + 3.0).collect();
    let ids = [1, 0, -1, 1, 1, 0, 0];
    // Of sample 3 no row counts.
    let rows_of = |b: usize| if b == 3 { 0 } else { tokens - b };
    let mut columns = vec![];
    for b in 0..samples {
        let own: Vec<f64> = x[b * tokens * experts..][..rows_of(b) * experts].iter().map(|&v| v.into()).collect();
        let (count, mean, variance) = reference::moments::forward(&own, experts, &vec![0; rows_of(b)], 1).unwrap();
        let squares = count[0].saturating_sub(1) as f64;
        columns.extend((0..experts).flat_map(|e| [count[0] as f32, mean[e] as f32, (variance[e] * squares) as f32]));
    }
    let group: Vec<i64> =
        (0..samples * tokens).map(|r| if r % tokens < rows_of(r / tokens) { ids[r / tokens] } else { -1 }).collect();
    let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
    let (count, mean, variance) = reference::moments::forward(&wide, experts, &group, groups).unwrap();
    let gpu = Gpu::new(3);
    let (columns, ids) = (gpu.put(&columns), gpu.put(&ids.map(|id| id as i32)));
    let (n, m): (Buffer<i32>, Buffer<f64>) = (gpu.new_of(groups), gpu.new_of(groups * experts));
    let v: Buffer<f64> = gpu.new_of(groups * experts);
    let job = MomentsJob {
        x: columns.pointer(),
        group: ids.pointer(),
        count: n.pointer(),
        mean: m.pointer(),
        variance: v.pointer(),
        rows: samples as i32,
        columns: experts as i32,
        groups: groups as i32,
        samples: samples as i32,
        run: 1,
        merge: 1,
        ..Default::default()
    };
    let (parts, counters): (Buffer<f64>, _) = (gpu.new_of(moments::parts_len(&[job]).unwrap()), gpu.put(&[0i32; COUNTERS]));
    // SAFETY: every buffer has the shape that its field names.
    unsafe { moments::forward(&gpu.queue(), &[job], &Dispersion::default(), parts.pointer(), counters.pointer()).unwrap() };
    assert_eq!(n.to_vec().unwrap(), count.iter().map(|&n| n as i32).collect::<Vec<_>>());
    assert_close("mean", &m.to_vec().unwrap(), &mean, 2e-5);
    assert_close("variance", &v.to_vec().unwrap(), &variance, 2e-5);
}

/// More jobs and gates than one launch takes.
#[test]
fn many_jobs_and_gates_take_more_launches() {
    let gpu = Gpu::new(5);
    let rows: Vec<Rows> = (0..70).map(|i| Rows::new(i, 10 + i as usize, 3, 2)).collect();
    let x: Vec<_> = rows.iter().map(|rows| (gpu.put(&rows.x), gpu.put(&rows.group))).collect();
    let counts: Vec<Buffer<i32>> = rows.iter().map(|_| gpu.new_of(3)).collect();
    let out: Vec<[Buffer<f64>; 3]> = rows.iter().map(|_| [(); 3].map(|_| gpu.new_of(9))).collect();
    let job = |i: usize| MomentsJob {
        x: x[i].0.pointer(),
        group: x[i].1.pointer(),
        count: counts[i].pointer(),
        mean: out[i][0].pointer(),
        variance: out[i][1].pointer(),
        rows: rows[i].group.len() as i32,
        columns: 3,
        groups: 2,
        samples: rows[i].group.len() as i32,
        run: 1,
        whole: 1,
        ..Default::default()
    };
    let jobs: Vec<MomentsJob> = (0..rows.len()).map(job).collect();
    let gate = |(count, [_, variance, dvariance]): (&Buffer<i32>, &[Buffer<f64>; 3])| MomentsGate {
        count: count.pointer(),
        variance: variance.pointer(),
        dvariance: dvariance.pointer(),
        groups: 2,
        experts: 3,
    };
    let gates: Vec<MomentsGate> = counts.iter().zip(&out).map(gate).collect();
    let (parts, counters): (Buffer<f64>, _) = (gpu.new_of(moments::parts_len(&jobs).unwrap()), gpu.put(&[0i32; COUNTERS]));
    let terms = gpu.put(&[0.0f64; 6]);
    let dispersion = Dispersion {
        gates: &gates,
        terms: terms.pointer(),
        lambda_dispersion: 0.7,
        lambda_batch_variance: 0.3,
        mean_first: false,
    };
    // SAFETY: every buffer has the shape that its field names.
    let run = || unsafe { moments::forward(&gpu.queue(), &jobs, &dispersion, parts.pointer(), counters.pointer()) };
    assert_eq!(gpu.launches(run), ["moments_forward"; 8]);
    let (mut own, mut groups) = (0.0, 0.0);
    for o in &out {
        let v = o[1].to_vec().unwrap();
        own -= 0.3 * v[6..].iter().sum::<f64>() / 3.0;
        groups += 0.7 * (0..6).map(|i| (v[6 + i % 3] - v[i]).powi(2)).sum::<f64>();
        let d = o[2].to_vec().unwrap();
        let want: Vec<f64> = (0..6).map(|i| -0.7 * 2.0 * (v[6 + i % 3] - v[i])).collect();
        assert_close("dvariance", &d[..6], &want, 1e-12);
        let want: Vec<f64> = (0..3).map(|e| -0.1 - want[e] - want[3 + e]).collect();
        assert_close("dvariance of the batch", &d[6..], &want, 1e-12);
    }
    assert_close("terms", &terms.to_vec().unwrap()[3..5], &[groups, own], 1e-12);
}
