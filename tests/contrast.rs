//! The CLIP cross entropy and the correlations, against the reference and finite differences.

mod support;

use fair_moe::contrast::Contrast;
use fair_moe::{Correlation, reference};
use proptest::prelude::*;
use support::{assert_close, finite_differences, on_threads, uniform};

const KINDS: [Correlation; 2] = [Correlation::Diagonal, Correlation::DiagonalOfSquare];

#[test]
fn gradients_agree_with_finite_differences() {
    let (b, members, d) = (5, [4, 0, 3], [0.3, -1.1, 0.7]);
    let all: Vec<f64> = uniform(1, b * b).into_iter().chain([2.5]).collect();
    let check = |what: &str, f: &dyn Fn(&Contrast<'_, f64>) -> f64, gradient: fair_moe::contrast::ContrastGradient| {
        let want = finite_differences(&all, 1e-6, |all| f(&Contrast::new(&all[..b * b], b, all[b * b]).unwrap()));
        let got: Vec<f64> = gradient.dsimilarity.into_iter().chain([gradient.dscale]).collect();
        assert_close(what, &got, &want, 1e-8);
    };
    let at = Contrast::new(&all[..b * b], b, all[b * b]).unwrap();
    let mut gradient = at.no_gradient();
    at.clip_backward(1.7, &mut gradient).unwrap();
    check("clip", &|at| 1.7 * at.clip_loss(), gradient);
    for kind in KINDS {
        let mut gradient = at.no_gradient();
        at.correlation_backward(kind, &members, &d, &mut gradient).unwrap();
        let dot = |c: Vec<f64>| c.iter().zip(&d).map(|(c, d)| c * d).sum();
        check("correlation", &|at| dot(at.correlation(kind, &members).unwrap()), gradient);
    }
}

/// A group's correlation is that of its own rows and columns alone.
#[test]
fn members_are_as_if_they_were_the_batch() {
    let (similarity, members) = (uniform(2, 49), [1, 2, 5, 6]);
    let own: Vec<f64> = members.iter().flat_map(|i| members.map(|j| 1.5 * similarity[7 * i + j])).collect();
    let got = Contrast::new(&similarity, 7, 1.5).unwrap().correlation(Correlation::DiagonalOfSquare, &members).unwrap();
    assert_close("correlation", &got, &reference::contrast::diagonal_of_square(&own, 4).unwrap(), 1e-14);
}

#[test]
fn large_logits_do_not_overflow() {
    let similarity: Vec<f32> = (0..64).map(|at| if at / 8 == at % 8 { 1e30 } else { -1e30 }).collect();
    let at = Contrast::new(&similarity, 8, 100.0).unwrap();
    assert_eq!(at.clip_loss(), 0.0);
    let mut gradient = at.no_gradient();
    at.clip_backward(1.0, &mut gradient).unwrap();
    assert!(gradient.dsimilarity.iter().all(|&d| d == 0.0));
    let equal = Contrast::new(&[1e30f32; 64], 8, 100.0).unwrap();
    assert_close("equal logits", &[equal.clip_loss()], &[8f64.ln()], 1e-12);
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    let similarity = uniform(3, 90 * 90);
    let all = || {
        let at = Contrast::new(&similarity, 90, 14.0).unwrap();
        let mut gradient = at.no_gradient();
        at.clip_backward(1.0, &mut gradient).unwrap();
        (at.clip_loss(), at.correlation(KINDS[1], &[0, 5, 89]).unwrap(), gradient)
    };
    let one = on_threads(1, all);
    assert!((0..3).all(|_| on_threads(2, all) == one));
}

#[test]
fn bad_input_is_an_error() {
    assert!(Contrast::new(&[0.0f32; 5], 2, 1.0).unwrap_err().to_string().contains("shape [2, 2]"));
    assert!(Contrast::new(&[0.0f32; 5], usize::MAX, 1.0).is_err());
    let at = Contrast::new(&[0.0f32; 4], 2, 1.0).unwrap();
    let message = at.correlation(KINDS[0], &[1, 2]).unwrap_err().to_string();
    assert_eq!(message, "a group's members must be below the number of samples, 2, but number 1 is 2");
    let mut other = Contrast::new(&[0.0f32; 9], 3, 1.0).unwrap().no_gradient();
    assert!(at.clip_backward(1.0, &mut other).is_err());
    assert!(at.correlation_backward(KINDS[1], &[0], &[1.0], &mut other).is_err());
    assert!(at.correlation_backward(KINDS[1], &[0], &[1.0, 2.0], &mut at.no_gradient()).is_err());
}

proptest! {
    #[test]
    fn any_size(seed: u64, b in 0usize..20, scale in 0.1f64..3.0) {
        let similarity = uniform(seed, b * b);
        let logits: Vec<f64> = similarity.iter().map(|s| scale * s).collect();
        let at = Contrast::new(&similarity, b, scale).unwrap();
        let mut gradient = at.no_gradient();
        at.clip_backward(1.0, &mut gradient).unwrap();
        let (loss, dlogits) = reference::contrast::clip(&logits, b).unwrap();
        if b > 0 {
            prop_assert!((at.clip_loss() - loss).abs() <= 1e-13 * (1.0 + loss));
        }
        assert_close("gradient", &gradient.dsimilarity, &dlogits.iter().map(|d| scale * d).collect::<Vec<_>>(), 1e-12);

        let (members, d): (Vec<usize>, _) = ((0..b).collect(), uniform(!seed, b));
        let mut gradient = at.no_gradient();
        at.correlation_backward(KINDS[1], &members, &d, &mut gradient).unwrap();
        let want = reference::contrast::diagonal_of_square_backward(&logits, b, &d).unwrap();
        assert_close("gradient", &gradient.dsimilarity, &want.iter().map(|d| scale * d).collect::<Vec<_>>(), 1e-12);
        let want = reference::contrast::diagonal_of_square(&logits, b).unwrap();
        assert_close("correlation", &at.correlation(KINDS[1], &members).unwrap(), &want, 1e-12);
    }
}
