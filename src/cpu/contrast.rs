//! What `[B, B]` logits = scale · similarity say: the CLIP cross entropy, and each sample's correlation; in f64.

use crate::dtype::Float;
use crate::error::{Error, Result, expect_shape};
use crate::fol::Correlation;
use rayon::prelude::*;

/// B images (rows) against B texts (columns).
#[derive(Clone, Copy, Debug)]
pub struct Contrast<'a, W> {
    similarity: &'a [W],
    samples: usize,
    scale: f64,
}

/// A gradient on the similarity and its scale, to which several terms add.
#[derive(Clone, Debug, PartialEq)]
pub struct ContrastGradient {
    /// `[B, B]`.
    pub dsimilarity: Vec<f64>,
    /// On the scale.
    pub dscale: f64,
}

impl<'a, W: Float> Contrast<'a, W> {
    /// `similarity` `[B, B]` with B = `samples`.
    ///
    /// # Errors
    /// When the similarity has another shape.
    pub fn new(similarity: &'a [W], samples: usize, scale: f64) -> Result<Self> {
        expect_shape("the similarity", &[samples, samples], similarity.len())?;
        Ok(Self { similarity, samples, scale })
    }

    /// No gradient yet.
    pub fn no_gradient(&self) -> ContrastGradient {
        ContrastGradient { dsimilarity: vec![0.0; self.similarity.len()], dscale: 0.0 }
    }

    fn similarity(&self, image: usize, text: usize) -> f64 {
        self.similarity[image * self.samples + text].to_f64()
    }

    fn logit(&self, image: usize, text: usize) -> f64 {
        self.scale * self.similarity(image, text)
    }

    /// Of each sample's row (its image against all texts), and of its column.
    fn log_sums(&self) -> Vec<(LogSum, LogSum)> {
        let others = 0..self.samples;
        let one = |i| {
            let row = LogSum::of(others.clone().map(|j| self.logit(i, j)));
            (row, LogSum::of(others.clone().map(|j| self.logit(j, i))))
        };
        (0..self.samples).into_par_iter().map(one).collect()
    }

    /// ½ (mean over rows + mean over columns) of the cross entropy between a row's (column's) softmax and its own sample.
    pub fn clip_loss(&self) -> f64 {
        let sums = self.log_sums();
        let losses = sums.iter().enumerate().map(|(i, (row, column))| {
            let own = self.logit(i, i);
            row.minus(own) + column.minus(own)
        });
        0.5 * losses.sum::<f64>() / self.samples as f64
    }

    /// Adds `upstream` times the gradient of [`Contrast::clip_loss`]: of a logit, ½ (its share in its row + that in its column)
    /// / B, minus 1 / B on the diagonal.
    ///
    /// # Errors
    /// When the gradient is that of another number of samples.
    pub fn clip_backward(&self, upstream: f64, gradient: &mut ContrastGradient) -> Result<()> {
        self.check_gradient(gradient)?;
        let (sums, n) = (self.log_sums(), self.samples);
        let one = |(i, row): (usize, &mut [f64])| {
            let mut dscale = 0.0;
            for (j, d) in row.iter_mut().enumerate() {
                let logit = self.logit(i, j);
                let shares = 0.5 * ((-sums[i].0.minus(logit)).exp() + (-sums[j].1.minus(logit)).exp());
                let dlogit = upstream / n as f64 * (shares - f64::from(u8::from(i == j)));
                *d += dlogit * self.scale;
                dscale += dlogit * self.similarity(i, j);
            }
            dscale
        };
        let dscale: Vec<f64> = gradient.dsimilarity.par_chunks_mut(n.max(1)).enumerate().map(one).collect();
        gradient.dscale += dscale.iter().sum::<f64>();
        Ok(())
    }

    /// The correlation of each of `members`, which are samples, as if they were the batch.
    ///
    /// # Errors
    /// When a member is not a sample.
    pub fn correlation(&self, kind: Correlation, members: &[usize]) -> Result<Vec<f64>> {
        self.check_members(members)?;
        let one = |&i: &usize| match kind {
            Correlation::Diagonal => self.similarity(i, i),
            Correlation::DiagonalLogit => self.logit(i, i),
            Correlation::DiagonalOfSquare => members.iter().map(|&j| self.logit(i, j) * self.logit(j, i)).sum(),
        };
        Ok(members.par_iter().map(one).collect())
    }

    /// Adds the gradient that `dcorrelation` (one for each member) gives: for the diagonal of L·L, on L_ij (d_i + d_j) · L_ji.
    ///
    /// # Errors
    /// When a member is not a sample or has no gradient, or the gradient is that of another number of samples.
    pub fn correlation_backward(
        &self,
        kind: Correlation,
        members: &[usize],
        dcorrelation: &[f64],
        gradient: &mut ContrastGradient,
    ) -> Result<()> {
        self.check_members(members)?;
        self.check_gradient(gradient)?;
        expect_shape("the correlation's gradient", &[members.len()], dcorrelation.len())?;
        for (&i, &di) in members.iter().zip(dcorrelation) {
            let diagonal = i * self.samples + i;
            match kind {
                Correlation::Diagonal => gradient.dsimilarity[diagonal] += di,
                Correlation::DiagonalLogit => {
                    gradient.dsimilarity[diagonal] += di * self.scale;
                    gradient.dscale += di * self.similarity(i, i);
                }
                Correlation::DiagonalOfSquare => self.square_backward(i, di, members, dcorrelation, gradient),
            }
        }
        Ok(())
    }

    /// Row `i` of the gradient through the diagonal of L·L.
    fn square_backward(&self, i: usize, di: f64, members: &[usize], dcorrelation: &[f64], gradient: &mut ContrastGradient) {
        for (&j, &dj) in members.iter().zip(dcorrelation) {
            let dlogit = (di + dj) * self.logit(j, i);
            gradient.dsimilarity[i * self.samples + j] += dlogit * self.scale;
            gradient.dscale += dlogit * self.similarity(i, j);
        }
    }

    fn check_gradient(&self, gradient: &ContrastGradient) -> Result<()> {
        expect_shape("the similarity's gradient", &[self.samples, self.samples], gradient.dsimilarity.len())
    }

    fn check_members(&self, members: &[usize]) -> Result<()> {
        let bad = members.iter().position(|&i| i >= self.samples);
        bad.map_or(Ok(()), |index| {
            let expected = format!("below the number of samples, {}", self.samples);
            Err(Error::Value { what: "a group's members", expected, index, got: members[index].to_string() })
        })
    }
}

/// log Σ exp of some logits, in two parts so that nothing overflows, nor is the logarithm lost beside large logits.
struct LogSum {
    largest: f64,
    log: f64,
}

impl LogSum {
    fn of(logits: impl Iterator<Item = f64> + Clone) -> Self {
        let largest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
        Self { largest, log: logits.map(|l| (l - largest).exp()).sum::<f64>().ln() }
    }

    fn minus(&self, logit: f64) -> f64 {
        (self.largest - logit) + self.log
    }
}
