//! The area under the ROC curve.

/// The share of (positive, negative) pairs in which the positive has the higher score, ties counting one half: the
/// Mann-Whitney statistic, equal to the trapezoidal area under the ROC curve. None without a positive or without a negative.
///
/// scored: (score, whether positive), in any order; it comes back sorted. Scores are numbers.
pub(super) fn auc(scored: &mut [(f64, bool)]) -> Option<f64> {
    scored.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut wins) = (0u64, 0.0);
    for tied in scored.chunk_by(|a, b| a.0 == b.0) {
        let positive = tied.iter().filter(|s| s.1).count() as u64;
        let negative = tied.len() as u64 - positive;
        wins += positive as f64 * (below as f64 + 0.5 * negative as f64);
        below += negative;
    }
    let (negatives, positives) = (below, scored.len() as u64 - below);
    (positives > 0 && negatives > 0).then(|| wins / (positives as f64 * negatives as f64))
}
