//! Sums of what one mixture does, over all samples and over each group's.

use super::routing::{Load, MixtureRouting};
use crate::data::{ATTRIBUTES, GROUP_NAMES};
use crate::error::Result;
use crate::model::GateScores;
use candle_core::{DType, Tensor};

/// What one mixture does.
pub(super) struct Tally {
    experts: usize,
    top_k: usize,
    all: Sum,
    /// Of each attribute, of each group.
    groups: [Vec<Sum>; 4],
}

impl Tally {
    pub fn new(experts: usize, top_k: usize) -> Self {
        let zero = Sum::zero(experts);
        Self { experts, top_k, groups: GROUP_NAMES.map(|names| vec![zero.clone(); names.len()]), all: zero }
    }

    /// Adds what the gate said of samples of these groups; `counted` [B·T] are the rows that count, none for all.
    pub fn add(&mut self, scores: &GateScores, counted: Option<&[bool]>, groups: &[[i8; 4]]) -> Result<()> {
        let (weights, probabilities) = (values(&scores.weights)?, values(&scores.probabilities)?);
        let rows = weights.len() / self.experts / groups.len().max(1);
        for (b, groups) in groups.iter().enumerate() {
            let counts = |row: &usize| counted.is_none_or(|counted| counted[*row]);
            let rows: Vec<usize> = (b * rows..(b + 1) * rows).filter(counts).collect();
            let sum = Sum::of(self.experts, &rows, &weights, &probabilities);
            self.all.merge(&sum);
            for (of, &group) in self.groups.iter_mut().zip(groups) {
                if let Some(group) = usize::try_from(group).ok().and_then(|g| of.get_mut(g)) {
                    group.merge(&sum);
                }
            }
        }
        Ok(())
    }

    pub fn routing(&self, input: &str) -> MixtureRouting {
        let load = |sum: &Sum| sum.load(self.top_k);
        let named = |a: usize| GROUP_NAMES[a].iter().zip(&self.groups[a]).map(|(name, sum)| ((*name).to_owned(), load(sum)));
        MixtureRouting {
            experts: self.experts,
            input: input.to_owned(),
            all: load(&self.all),
            attributes: ATTRIBUTES.iter().enumerate().map(|(a, name)| ((*name).to_owned(), named(a).collect())).collect(),
        }
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// Sums over the rows of some samples.
#[derive(Clone)]
struct Sum {
    samples: usize,
    rows: usize,
    entropy: f64,
    experts: Vec<Expert>,
}

/// What one expert gets.
#[derive(Clone, Copy, Default)]
struct Expert {
    kept: usize,
    /// Mean of its final weights, and the sum of their squared distances from it.
    mean: f64,
    squares: f64,
}

impl Sum {
    fn zero(experts: usize) -> Self {
        Self { samples: 0, rows: 0, entropy: 0.0, experts: vec![Expert::default(); experts] }
    }

    /// That of one sample.
    fn of(experts: usize, rows: &[usize], weights: &[f64], probabilities: &[f64]) -> Self {
        let n = rows.len() as f64;
        let expert = |e: usize| {
            let column = || rows.iter().map(|row| weights[row * experts + e]);
            let mean = if rows.is_empty() { 0.0 } else { column().sum::<f64>() / n };
            Expert { kept: column().filter(|w| *w > 0.0).count(), mean, squares: column().map(|w| (w - mean) * (w - mean)).sum() }
        };
        let all = rows.iter().flat_map(|row| &probabilities[row * experts..][..experts]);
        let entropy = all.filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        Self { samples: 1, rows: rows.len(), entropy, experts: (0..experts).map(expert).collect() }
    }

    /// Adds other rows; squares by Chan's formula, which does not cancel.
    fn merge(&mut self, other: &Self) {
        let (n, m) = (self.rows as f64, other.rows as f64);
        self.samples += other.samples;
        self.rows += other.rows;
        self.entropy += other.entropy;
        if other.rows == 0 {
            return;
        }
        for (expert, other) in self.experts.iter_mut().zip(&other.experts) {
            let apart = other.mean - expert.mean;
            expert.kept += other.kept;
            expert.mean += apart * m / (n + m);
            expert.squares += other.squares + apart * apart * n * m / (n + m);
        }
    }

    fn load(&self, top_k: usize) -> Load {
        let each = |of: &dyn Fn(&Expert) -> f64| self.experts.iter().map(of).collect::<Vec<f64>>();
        let shares = |all: Vec<f64>| {
            let whole = all.iter().sum::<f64>();
            all.into_iter().map(|one| if whole > 0.0 { one / whole } else { 0.0 }).collect()
        };
        let kept: usize = self.experts.iter().map(|e| e.kept).sum();
        let rows = self.rows as f64;
        let some = |value: f64| (self.rows > 0).then_some(value);
        Load {
            samples: self.samples,
            load: shares(each(&|e| e.kept as f64)),
            importance: shares(each(&|e| e.mean)),
            dropped: some(1.0 - kept as f64 / (rows * top_k as f64)),
            entropy: some(self.entropy / rows),
            dispersion: each(&|e| if self.rows > 1 { e.squares / (rows - 1.0) } else { 0.0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Two samples of three rows and two experts, top-1, capacity 1; the last row of the second sample is padding.
    #[test]
    fn a_mixture_by_hand() {
        let weights = [0.9, 0.0, 0.0, 0.0, 0.0, 0.6, 0.7, 0.0, 0.0, 0.0, 0.0, 0.8];
        let probabilities = [0.9, 0.1, 0.8, 0.2, 0.4, 0.6, 0.7, 0.3, 0.5, 0.5, 0.2, 0.8];
        let tensor = |values: &[f64]| Tensor::from_slice(values, (2, 3, 2), &Device::Cpu).unwrap();
        let logits = tensor(&probabilities).log().unwrap();
        let scores = GateScores { weights: tensor(&weights), probabilities: tensor(&probabilities), logits };
        let mut tally = Tally::new(2, 1);
        tally.add(&scores, Some(&[true, true, true, true, true, false]), &[[0, 1, -1, 0], [2, 1, 0, 0]]).unwrap();
        let found = tally.routing("notes");
        let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} instead of {want}");
        let all = &found.all;
        assert_eq!((all.samples, found.experts, &*found.input), (2, 2, "notes"));
        // Kept: rows 0 and 3 by expert 0, row 2 by expert 1; of five rows two are dropped.
        close(all.load[0], 2.0 / 3.0);
        close(all.importance[0], 1.6 / 2.2);
        close(all.dropped.unwrap(), 0.4);
        // NumPy: np.var([.9, 0, 0, .7, 0], ddof=1), np.var([0, 0, .6, 0, 0], ddof=1), mean of scipy.stats.entropy of the five.
        close(all.dispersion[0], 0.197);
        close(all.dispersion[1], 0.072);
        close(all.entropy.unwrap(), 0.560_501_709_310_746_3);
        let asian = &found.attributes["race"]["Asian"];
        assert_eq!((asian.samples, asian.load.clone(), found.attributes["race"]["Black"].samples), (1, vec![0.5, 0.5], 0));
        assert_eq!(found.attributes["gender"]["Male"], *all);
        assert_eq!(found.attributes["race"]["Black"].dropped, None);
        assert_eq!(found.attributes["ethnicity"]["Non-Hispanic"].samples, 1);
    }
}
