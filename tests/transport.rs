//! Distances of 1-D sample sets, against geomloss's own figures, the literal reference, and what a distance must be.

mod support;

use fair_moe::{reference, transport};
use proptest::prelude::*;
use support::{assert_close, finite_differences, on_threads, uniform};

const X: [f64; 4] = [0.1, 0.2, 0.4, 0.7];

/// Figures of geomloss 0.2.6 in f64: the distance of `X` from y, and its gradient on `X`.
#[test]
fn geomloss_figures() {
    let (three, four) = (&[0.15, 0.25, 0.3][..], &[0.15, 0.25, 0.3, 0.35][..]);
    let steep = [-0.0125, 0.0125, 0.0375, 0.1];
    let figures = [
        (three, 1e-4, 0.5, 0.0215963390015, steep),
        (three, 1e-6, 0.5, 0.0215963390015, steep),
        (three, 1e-4, 0.9, 0.0224469388035, steep),
        (three, 0.05, 0.5, 0.0217343759293, [-0.0098933069, 0.00541336543, 0.036823007, 0.100495764]),
        (three, 0.05, 0.9, 0.0221300071067, [-0.00981463448, -0.000330678646, 0.0360155116, 0.100226388]),
        (four, 1e-4, 0.5, 0.0171875, [-0.0125, -0.0125, 0.025, 0.0875]),
        (four, 0.05, 0.5, 0.017206568685, [-0.0103557035, -0.00478223549, 0.0300719735, 0.0887691019]),
    ];
    for (y, blur, scaling, distance, dx) in figures {
        let found = transport::sinkhorn(&X, y, blur, scaling).unwrap();
        assert_close("distance", &[found.distance], &[distance], 1e-9);
        assert_close("dx", &found.dx, &dx, 1e-8);
        let found = reference::transport::sinkhorn(&X, y, blur, scaling).unwrap();
        assert_close("reference's distance", &[found.0], &[distance], 1e-9);
        assert_close("reference's dx", &found.1, &dx, 1e-8);
    }
    let exact = transport::exact(&X, three).unwrap();
    assert_close("exact distance", &[exact.distance], &[0.55 / 24.0], 1e-12);
    assert_close("exact dx", &exact.dx, &[-0.0125, -0.1 / 24.0, 0.8 / 24.0, 0.1], 1e-12);
    assert_close("exact distance", &[transport::exact(&X, four).unwrap().distance], &[0.0171875], 1e-12);
}

/// Figures of geomloss 0.2.6 in f64 where blur is a power of scaling times the diameter, so that rounding decides how many
/// temperatures there are: 5 and 25 before the last. One more would change the first distance by 0.3 %.
#[test]
fn as_many_temperatures_as_numpy_counts() {
    let (x, y) = ([0.0, 0.2, 0.4, 1.0], [0.15, 0.25, 0.3]);
    let figures = [
        (0.07775999999999998, 0.6, 0.0653495816896365, [-0.0363510397929, 0.00348213806869, 0.0363733186546, 0.175942888565]),
        (2f64.powi(-25), 0.5, 0.0647918361149957, [-0.0375, 0.0125, 0.0375, 0.175]),
    ];
    for (blur, scaling, distance, dx) in figures {
        let found = transport::sinkhorn(&x, &y, blur, scaling).unwrap();
        assert_close("distance", &[found.distance], &[distance], 1e-12);
        assert_close("dx", &found.dx, &dx, 1e-8);
        let found = reference::transport::sinkhorn(&x, &y, blur, scaling).unwrap();
        assert_close("reference's distance", &[found.0], &[distance], 1e-12);
        assert_close("reference's dx", &found.1, &dx, 1e-8);
    }
}

#[test]
fn equal_sets_are_exactly_nothing_apart() {
    let x = uniform(1, 37);
    let mut turned = x.clone();
    turned.rotate_left(11);
    for y in [&x, &turned] {
        for found in [transport::exact(&x, y), transport::sinkhorn(&x, y, 1e-4, 0.5), transport::sinkhorn(&x, y, 0.3, 0.9)] {
            let found = found.unwrap();
            assert_eq!(found.distance, 0.0);
            assert!(found.dx.iter().chain(&found.dy).all(|&d| d == 0.0));
        }
    }
}

#[test]
fn sets_of_one_point_have_no_diameter() {
    for (x, y) in [(&[3.0][..], &[3.0; 5][..]), (&[0.0; 4], &[0.0; 4]), (&[1e-200, 0.0], &[0.0])] {
        let found = transport::sinkhorn(x, y, 1e-4, 0.5).unwrap();
        assert_eq!((found.distance, found.dx, found.dy), (0.0, vec![0.0; x.len()], vec![0.0; y.len()]));
        assert_eq!(transport::exact(x, y).unwrap().distance, 0.0);
    }
}

/// A diameter below the blur leaves geomloss two temperatures.
#[test]
fn a_blur_wider_than_the_sets() {
    let y = [0.15, 0.25];
    let (distance, dx) = reference::transport::sinkhorn(&X, &y, 5.0, 0.5).unwrap();
    let found = transport::sinkhorn(&X, &y, 5.0, 0.5).unwrap();
    assert_close("distance", &[found.distance], &[distance], 1e-9);
    assert_close("dx", &found.dx, &dx, 1e-9);
}

#[test]
fn gradients_agree_with_finite_differences() {
    for (n, m) in [(5, 5), (4, 7), (7, 4), (1, 3), (6, 1)] {
        let (x, y) = (uniform(n as u64, n), uniform(100 + m as u64, m));
        let found = transport::exact(&x, &y).unwrap();
        let dx = finite_differences(&x, 1e-6, |x| transport::exact(x, &y).unwrap().distance);
        let dy = finite_differences(&y, 1e-6, |y| transport::exact(&x, y).unwrap().distance);
        assert_close("exact dx", &found.dx, &dx, 1e-8);
        assert_close("exact dy", &found.dy, &dy, 1e-8);
        // Sinkhorn's gradient holds the potentials: exact as far as they have converged.
        let found = transport::sinkhorn(&x, &y, 0.7, 0.999).unwrap();
        let dx = finite_differences(&x, 1e-5, |x| transport::sinkhorn(x, &y, 0.7, 0.999).unwrap().distance);
        let dy = finite_differences(&y, 1e-5, |y| transport::sinkhorn(&x, y, 0.7, 0.999).unwrap().distance);
        assert_close("Sinkhorn dx", &found.dx, &dx, 3e-3);
        assert_close("Sinkhorn dy", &found.dy, &dy, 3e-3);
    }
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    let (x, y) = (uniform(1, 300), uniform(2, 220));
    let one = on_threads(1, || transport::sinkhorn(&x, &y, 1e-3, 0.5).unwrap());
    assert!((0..3).all(|_| on_threads(2, || transport::sinkhorn(&x, &y, 1e-3, 0.5).unwrap()) == one));
}

#[test]
fn what_is_not_finite_gives_nan() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        for (x, y) in [(&[bad][..], &[1.0][..]), (&[0.0, bad, 1.0], &[1.0, 2.0]), (&[0.0, 1.0], &[bad, bad])] {
            let found = transport::sinkhorn(x, y, 1e-4, 0.5).unwrap();
            assert!(found.distance.is_nan() && found.dx.iter().chain(&found.dy).all(|d| d.is_nan()));
            assert!(!transport::exact(x, y).unwrap().distance.is_finite());
            assert!(reference::transport::sinkhorn(x, y, 1e-4, 0.5).unwrap().0.is_nan());
        }
    }
    assert!(transport::sinkhorn(&[-1e308, 1e308], &[0.0], 1e-150, 0.9).unwrap().distance.is_nan());
    transport::sinkhorn(&[-1e-160, 1e-160], &[0.0], 1e-150, 0.9).unwrap();
    transport::sinkhorn(&[-1.0, 1.0], &[0.0], 1e150, 1e-300).unwrap();
}

#[test]
fn bad_input_is_an_error() {
    assert_eq!(transport::exact(&[], &[1.0]).unwrap_err().to_string(), "x must be at least one sample, but is empty");
    assert_eq!(transport::exact(&[1.0], &[]).unwrap_err().to_string(), "y must be at least one sample, but is empty");
    assert!(transport::sinkhorn(&[], &[], 1e-4, 0.5).is_err());
    for (blur, scaling) in [(0.0, 0.5), (-1.0, 0.5), (f64::NAN, 0.5), (1e-4, 0.0), (1e-4, 1.0), (1e-4, f64::NAN)] {
        assert!(transport::sinkhorn(&[1.0], &[2.0], blur, scaling).is_err());
        assert!(reference::transport::sinkhorn(&[1.0], &[2.0], blur, scaling).is_err());
    }
}

proptest! {
    /// Both ways agree with the reference, ties and all; the gradient on y is that on x of the swapped call.
    #[test]
    fn any_sets(seed: u64, n in 1usize..20, m in 1usize..20, ties: bool, blur in 1e-3f64..0.3, scaling in 0.3f64..0.9) {
        let rounded = |v: f64| if ties { (v * 4.0).round() / 4.0 } else { v };
        let set = |seed, n| uniform(seed, n).into_iter().map(rounded).collect::<Vec<_>>();
        let (x, y) = (set(seed, n), set(!seed, m));
        let exact = transport::exact(&x, &y).unwrap();
        let (distance, dx) = reference::transport::exact(&x, &y).unwrap();
        let (_, dy) = reference::transport::exact(&y, &x).unwrap();
        // Against 1, the size of the sets: a gradient may vanish.
        let near = |got: &[f64], want: &[f64], bound: f64| got.iter().zip(want).all(|(g, w)| (g - w).abs() <= bound);
        prop_assert!(near(&[exact.distance], &[distance], 1e-14));
        prop_assert!(near(&exact.dx, &dx, 1e-14) && near(&exact.dy, &dy, 1e-14));

        let found = transport::sinkhorn(&x, &y, blur, scaling).unwrap();
        let (distance, dx) = reference::transport::sinkhorn(&x, &y, blur, scaling).unwrap();
        let (_, dy) = reference::transport::sinkhorn(&y, &x, blur, scaling).unwrap();
        prop_assert!(near(&[found.distance], &[distance], 1e-11));
        prop_assert!(near(&found.dx, &dx, 1e-8) && near(&found.dy, &dy, 1e-8));
    }
}
