//! Group-wise moments, against recorded values and the two-pass reference.

mod support;

use fair_moe::{Float, moments, reference};
use proptest::prelude::*;
use support::{Case, assert_close, finite_differences, on_threads, uniform};

fn narrow<W: Float>(values: &[f64]) -> Vec<W> {
    values.iter().map(|&v| W::from_f64(v)).collect()
}

fn wide<W: Float>(values: &[W]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

fn replay<W: Float>(bound: f64) {
    let case = Case::load("group_moments");
    let (columns, groups) = (case.size("columns"), case.size("groups"));
    let x: Vec<W> = narrow(case.get("x"));
    let group: Vec<i64> = case.get("group").iter().map(|&g| g as i64).collect();
    let found = moments::forward(&x, columns, &group, groups).unwrap();
    assert_eq!(found.count, case.get("count").iter().map(|&n| n as usize).collect::<Vec<_>>());
    assert_close("mean", &found.mean, case.get("mean"), bound);
    assert_close("variance", &found.variance, case.get("variance"), bound);
    let mut dx = vec![W::ZERO; x.len()];
    moments::backward(&x, columns, &group, &found, case.get("dmean"), case.get("dvariance"), &mut dx).unwrap();
    assert_close("dx", &wide(&dx), case.get("dx"), bound);
}

#[test]
fn recorded_case() {
    replay::<f64>(1e-10);
    replay::<f32>(2e-5);
    let case = Case::load("group_moments");
    let group: Vec<i64> = case.get("group").iter().map(|&g| g as i64).collect();
    let (_, mean, variance) = reference::moments::forward(case.get("x"), 10, &group, 3).unwrap();
    assert_close("reference mean", &mean, case.get("mean"), 1e-12);
    assert_close("reference variance", &variance, case.get("variance"), 1e-12);
    let dx = reference::moments::backward(case.get("x"), 10, &group, 3, case.get("dmean"), case.get("dvariance")).unwrap();
    assert_close("reference dx", &dx, case.get("dx"), 1e-12);
}

#[test]
fn a_large_mean_costs_no_digits() {
    for (mean, spread) in [(100.0, 1.0), (100.0, 1e-3), (1e4, 1e-2), (1e-3, 1e-6)] {
        let x: Vec<f32> = uniform(1, 2000 * 10).iter().map(|v| (mean + spread * v) as f32).collect();
        for groups in [1, 3] {
            let group: Vec<i64> = (0..2000).map(|row| row % groups).collect();
            let found = moments::forward(&x, 10, &group, groups as usize).unwrap();
            let (count, mean, variance) = reference::moments::forward(&wide(&x), 10, &group, groups as usize).unwrap();
            assert_eq!(found.count, count);
            assert_close("mean", &found.mean, &mean, 1e-12);
            assert_close("variance", &found.variance, &variance, 1e-9);
        }
    }
    // The same in f64, where the offset is far larger.
    let x: Vec<f64> = uniform(1, 2000).iter().map(|v| 1e8 + v).collect();
    let (_, _, variance) = reference::moments::forward(&x, 1, &[0; 2000], 1).unwrap();
    assert_close("variance", &moments::forward(&x, 1, &[0; 2000], 1).unwrap().variance, &variance, 1e-9);
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    let (x, group) = (narrow::<f32>(&uniform(2, 5000 * 7)), (0..5000).map(|row| row * row % 5 - 1).collect::<Vec<i64>>());
    let all = || {
        let found = moments::forward(&x, 7, &group, 4).unwrap();
        let mut dx = vec![0.0; x.len()];
        moments::backward(&x, 7, &group, &found, &[0.3; 28], &[0.7; 28], &mut dx).unwrap();
        (found, dx)
    };
    let one = on_threads(1, all);
    assert!((0..3).all(|_| on_threads(2, all) == one));
}

#[test]
fn too_few_rows_give_zero() {
    let found = moments::forward(&[1.0, 2.0, 5.0], 1, &[2, 0, 2], 4).unwrap();
    assert_eq!((&found.count[..], &found.mean[..]), (&[1, 0, 2, 0][..], &[2.0, 0.0, 3.0, 0.0][..]));
    assert_eq!(found.variance, [0.0, 0.0, 8.0, 0.0]);
    let mut dx = [0.0; 3];
    moments::backward(&[1.0, 2.0, 5.0], 1, &[2, 0, 2], &found, &[1.0; 4], &[1.0; 4], &mut dx).unwrap();
    assert_eq!(dx, [0.5 - 4.0, 1.0, 0.5 + 4.0]);
    assert_eq!(moments::forward::<f32>(&[], 3, &[], 2).unwrap().mean, [0.0; 6]);
    assert_eq!(moments::forward::<f32>(&[], 3, &[], 0).unwrap().mean, [0.0; 0]);
}

#[test]
fn nan_stays_in_its_group_and_column() {
    for bad in [f64::NAN, f64::INFINITY] {
        let mut x = uniform(3, 600 * 2);
        x[2 * 301] = bad;
        let group: Vec<i64> = (0..600).map(|row| row % 2).collect();
        let found = moments::forward(&x, 2, &group, 2).unwrap();
        let finite: Vec<bool> = found.variance.iter().map(|v| v.is_finite()).collect();
        assert_eq!(finite, [true, true, false, true]);
    }
}

#[test]
fn bad_input_is_an_error() {
    let message =
        |x: &[f32], columns, group: &[i64], groups| moments::forward(x, columns, group, groups).unwrap_err().to_string();
    assert_eq!(message(&[0.0; 5], 2, &[0, 0], 1), "x must have shape [2, 2] (4 elements), but has 5 elements");
    assert_eq!(message(&[], 0, &[], 1), "the number of columns must be at least 1, but is 0");
    assert_eq!(message(&[0.0; 2], 1, &[0, 3], 3), "the group ids must be from 0 to 2, or -1 for none, but number 1 is 3");
    assert!(message(&[0.0; 2], 1, &[0, i64::MIN], 3).contains("number 1"));
    assert!(message(&[0.0; 2], usize::MAX, &[0, 0], 3).contains("too many"));
    for groups in [65537, usize::MAX] {
        let want = format!("the number of groups must be at most 65536, but is {groups}");
        assert_eq!(message(&[0.0; 2], 1, &[0, 0], groups), want);
        let group = [0, 0];
        assert_eq!(reference::moments::forward(&[0.0; 2], 1, &group, groups).unwrap_err().to_string(), want);
    }
    moments::forward(&[0.0; 2], 1, &[0, 65535], 65536).unwrap();
    assert!(message(&[], usize::MAX, &[], 3).contains("overflows"));
    let memory = "there is no memory for the moments of all groups, of shape [32768, 1099511627776]";
    assert_eq!(message(&[], 1 << 40, &[], 1 << 15), memory);
    let found = moments::forward(&[0.0_f64; 4], 2, &[0, 0], 1).unwrap();
    let back = |dmean: &[f64], dx: &mut [f64]| moments::backward(&[0.0; 4], 2, &[0, 0], &found, dmean, &[0.0; 2], dx).is_err();
    assert!(back(&[0.0; 3], &mut [0.0; 4]) && back(&[0.0; 2], &mut [0.0; 3]) && !back(&[0.0; 2], &mut [0.0; 4]));
}

#[test]
fn gradients_agree_with_finite_differences() {
    let (x, group) = (uniform(4, 9 * 3), [0, 1, -1, 1, 0, 1, 1, 2, 1]);
    let (dmean, dvariance) = (uniform(5, 9), uniform(6, 9));
    let found = moments::forward(&x, 3, &group, 3).unwrap();
    let want = finite_differences(&x, 1e-5, |x| {
        let at = moments::forward(x, 3, &group, 3).unwrap();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        dot(&at.mean, &dmean) + dot(&at.variance, &dvariance)
    });
    let mut dx = vec![1.0; x.len()];
    moments::backward(&x, 3, &group, &found, &dmean, &dvariance, &mut dx).unwrap();
    // It adds to what was there.
    assert_close("dx", &dx.iter().map(|d| d - 1.0).collect::<Vec<_>>(), &want, 1e-8);
}

proptest! {
    #[test]
    fn any_shape(seed: u64, rows in 0usize..900, columns in 1usize..12, groups in 1usize..6, offset in -1e3..1e3) {
        let x: Vec<f64> = uniform(seed, rows * columns).iter().map(|v| v + offset).collect();
        let group: Vec<i64> = uniform(!seed, rows).iter().map(|v| ((v + 1.0) / 2.0 * (groups as f64 + 1.0)) as i64 - 1).collect();
        let found = moments::forward(&x, columns, &group, groups).unwrap();
        let (count, mean, variance) = reference::moments::forward(&x, columns, &group, groups).unwrap();
        prop_assert_eq!(&found.count, &count);
        assert_close("mean", &found.mean, &mean, 1e-13);
        assert_close("variance", &found.variance, &variance, 1e-11);
        let (dmean, dvariance) = (uniform(seed ^ 1, mean.len()), uniform(seed ^ 2, mean.len()));
        let mut dx = vec![0.0; x.len()];
        moments::backward(&x, columns, &group, &found, &dmean, &dvariance, &mut dx).unwrap();
        let want = reference::moments::backward(&x, columns, &group, groups, &dmean, &dvariance).unwrap();
        assert_close("dx", &dx, &want, 1e-10);
    }
}
