//! The curves behind figures, for drawing.

use super::check;
use super::members::Members;
use super::scores::Scores;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// A point of a ROC curve: what calling samples positive from a threshold on gives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RocPoint {
    /// The smallest probability that is called positive; none where none is.
    pub threshold: Option<f64>,
    /// The share of negatives called positive.
    pub false_positive_rate: f64,
    /// The share of positives called positive.
    pub true_positive_rate: f64,
}

/// The ROC curve: from (0, 0) a point for each distinct probability, descending, to (1, 1). Empty without a positive or without a
/// negative.
///
/// probability: `[samples]`, from 0 to 1; label: `[samples]`, 0 or 1.
///
/// # Errors
/// When lengths differ, a probability is not a number from 0 to 1, or a label is neither 0 nor 1.
pub fn roc(probability: &[f64], label: &[u8]) -> Result<Vec<RocPoint>> {
    check(probability, label, &[])?;
    let positives = label.iter().filter(|&&y| y == 1).count();
    let negatives = label.len() - positives;
    if positives == 0 || negatives == 0 {
        return Ok(vec![]);
    }
    let scores = Scores::new(probability, label, |_| false);
    let mut called = [0usize; 2];
    let mut point = |threshold: Option<f64>, tied: &[u32]| {
        tied.iter().for_each(|&i| called[usize::from(label[i as usize])] += 1);
        RocPoint {
            threshold,
            false_positive_rate: called[0] as f64 / negatives as f64,
            true_positive_rate: called[1] as f64 / positives as f64,
        }
    };
    let descending: Vec<u32> = scores.order.iter().rev().copied().collect();
    let same = |a: &u32, b: &u32| probability[*a as usize] == probability[*b as usize];
    let mut points = vec![point(None, &[])];
    points.extend(descending.chunk_by(same).map(|tied| point(Some(probability[tied[0] as usize]), tied)));
    Ok(points)
}

/// A bin of a calibration curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// How many samples.
    pub samples: usize,
    /// Their mean probability.
    pub probability: f64,
    /// The share of them that are labelled positive.
    pub positive: f64,
}

/// The calibration curve: ten bins of equal mass by ascending probability. Edges are the deciles of the probabilities, equal
/// probabilities share a bin, and a bin that nothing falls into is left out.
///
/// probability: `[samples]`, from 0 to 1; label: `[samples]`, 0 or 1.
///
/// # Errors
/// When lengths differ, a probability is not a number from 0 to 1, or a label is neither 0 nor 1.
pub fn calibration(probability: &[f64], label: &[u8]) -> Result<Vec<CalibrationBin>> {
    check(probability, label, &[])?;
    let scores = Scores::new(probability, label, |_| false);
    Ok(Members::new(&scores, |_| true).calibration(&scores))
}
