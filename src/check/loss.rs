//! The loss's stages against the reference.

use super::{Difference, Finding, Watch, difference, norm, relative_l2};
use crate::contrast::Contrast;
use crate::dtype::Float;
use crate::error::Result;
use crate::fol::Correlation;
use crate::transport::{exact, sinkhorn};
use crate::{moments, reference};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// Sizes: rows and columns for moments, samples for contrast, both sets of samples for transport.
const CASES: [(&str, usize, usize); 5] =
    [("32 of 32", 32, 32), ("odd sizes", 37, 11), ("one", 1, 1), ("few", 3, 2), ("2,000 rows of mean 100", 2000, 10)];

/// Checks moments, contrast and transport in `W`, on values that f32 holds exactly. Bounds: 1e-10 in f64, 2e-5 in f32; gradients
/// through Sinkhorn 1e-6 and 1e-4.
///
/// # Errors
/// Those of the stages.
pub fn check_loss<W: Float>(watch: &mut dyn Watch) -> Result<()> {
    let (bound, sinkhorn_bound) = if size_of::<W>() == 8 { (1e-10, 1e-6) } else { (2e-5, 1e-4) };
    for (number, (case, rows, columns)) in CASES.into_iter().enumerate() {
        if !watch.begin(case) {
            continue;
        }
        let mut rng = Pcg64::seed_from_u64(number as u64);
        let mut values = |n: usize| (0..n).map(|_| f64::from(rng.random::<f32>())).collect::<Vec<f64>>();
        let mut find = |stage, pass, what, difference: Difference, bound| {
            let Difference { error, at } = difference;
            watch.find(Finding { stage, pass, case, what, error, bound, at });
        };
        let narrow = |v: &[f64]| v.iter().map(|&v| W::from_f64(v)).collect::<Vec<W>>();
        let wide = |v: &[W]| v.iter().map(|v| v.to_f64()).collect::<Vec<f64>>();

        let offset = if rows > 1000 { 100.0 } else { 0.0 };
        let x: Vec<f64> = values(rows * columns).iter().map(|v| f64::from((v + offset) as f32)).collect();
        let group: Vec<i64> = (0..rows).map(|row| row as i64 % 4 - 1).collect();
        let (dmean, dvariance) = (values(3 * columns), values(3 * columns));
        let got = moments::forward(&narrow(&x), columns, &group, 3)?;
        let (_, mean, variance) = reference::moments::forward(&x, columns, &group, 3)?;
        find("moments", "forward", "mean", relative_l2(&got.mean, &mean), bound);
        find("moments", "forward", "variance", relative_l2(&got.variance, &variance), bound);
        let mut dx = vec![W::ZERO; x.len()];
        moments::backward(&narrow(&x), columns, &group, &got, &dmean, &dvariance, &mut dx)?;
        let want = reference::moments::backward(&x, columns, &group, 3, &dmean, &dvariance)?;
        find("moments", "backward", "dx", relative_l2(&wide(&dx), &want), bound);

        let samples = columns;
        let logits: Vec<f64> = values(samples * samples).iter().map(|v| 20.0 * v - 10.0).map(|v| f64::from(v as f32)).collect();
        let narrow_logits = narrow(&logits);
        let contrast = Contrast::new(&narrow_logits, samples, 1.0)?;
        let (loss, dlogits) = reference::contrast::clip(&logits, samples)?;
        find("contrast", "forward", "cross entropy", relative_l2(&[contrast.clip_loss()], &[loss]), bound);
        let mut gradient = contrast.no_gradient();
        contrast.clip_backward(1.0, &mut gradient)?;
        find(
            "contrast",
            "backward",
            "cross entropy",
            difference(&gradient.dsimilarity, &dlogits).over(norm(&dlogits).max(1e-3)),
            bound,
        );
        let (kind, all): (_, Vec<usize>) = (Correlation::DiagonalOfSquare, (0..samples).collect());
        let want = reference::contrast::diagonal_of_square(&logits, samples)?;
        find("contrast", "forward", "correlation", relative_l2(&contrast.correlation(kind, &all)?, &want), bound);
        let upstream = values(samples);
        let mut gradient = contrast.no_gradient();
        contrast.correlation_backward(kind, &all, &upstream, &mut gradient)?;
        let want = reference::contrast::diagonal_of_square_backward(&logits, samples, &upstream)?;
        find("contrast", "backward", "correlation", relative_l2(&gradient.dsimilarity, &want), bound);

        let (a, b) = (values(rows.min(100)), values(columns));
        let (got, want) = (exact(&a, &b)?, reference::transport::exact(&a, &b)?);
        find("transport", "forward", "exact", relative_l2(&[got.distance], &[want.0]), bound);
        find("transport", "backward", "exact", relative_l2(&got.dx, &want.1), bound);
        let (got, want) = (sinkhorn(&a, &b, 0.01, 0.5)?, reference::transport::sinkhorn(&a, &b, 0.01, 0.5)?);
        find("transport", "forward", "sinkhorn", relative_l2(&[got.distance], &[want.0]), bound);
        find("transport", "backward", "sinkhorn", relative_l2(&got.dx, &want.1), sinkhorn_bound);
    }
    Ok(())
}
