//! Several seeds of each model: mean and standard deviation.

use super::run::Trained;
use super::settings::Preset;
use super::table::rows;
use crate::eval::mean_and_sd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// `summary.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Figures by their names, such as `race ES-AUC`, of each model by its preset's name.
    pub models: BTreeMap<String, BTreeMap<String, Figure>>,
}

/// A figure over several seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Over all seeds; none unless it is defined in each.
    pub mean: Option<f64>,
    /// Its standard deviation (n - 1); none of one seed.
    pub sd: Option<f64>,
    /// In how many seeds it is defined.
    pub seeds: usize,
}

impl Figure {
    fn of(values: &[Option<f64>]) -> Self {
        let (mean, sd) = mean_and_sd(values);
        Self { mean, sd, seeds: values.iter().flatten().count() }
    }
}

impl Summary {
    /// Of all models of a run.
    pub(super) fn of(models: &[Trained]) -> Self {
        let mut summary = Self::default();
        for model in models {
            if !summary.seeds.contains(&model.seed) {
                summary.seeds.push(model.seed);
            }
        }
        for preset in Preset::ALL {
            let own: Vec<_> = models.iter().filter(|model| model.preset == preset).collect();
            let Some(first) = own.first() else { continue };
            let figure = |row: super::table::Row| {
                let values: Vec<_> = own.iter().map(|model| (row.figure)(&model.metrics)).collect();
                (row.name, Figure::of(&values))
            };
            summary.models.insert(preset.name().into(), rows(&first.metrics).into_iter().map(figure).collect());
        }
        summary
    }
}

impl fmt::Display for Summary {
    /// Figures in lines, models in columns.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.models.values().next().map(|figures| figures.keys().collect()).unwrap_or_default();
        write!(f, "{:<42}", format!("mean ± sd of {} seeds", self.seeds.len()))?;
        self.models.keys().try_for_each(|model| write!(f, "{model:>18}"))?;
        writeln!(f)?;
        for name in names {
            write!(f, "{name:<42}")?;
            for figures in self.models.values() {
                let cell = match figures.get(name) {
                    Some(Figure { mean: Some(mean), sd: Some(sd), .. }) => format!("{mean:.4} ± {sd:.4}"),
                    Some(Figure { mean: Some(mean), .. }) => format!("{mean:.4}"),
                    _ => "-".into(),
                };
                write!(f, "{cell:>18}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As NumPy's `mean` and `std` with `ddof=1`.
    #[test]
    fn mean_and_deviation_are_those_of_a_sample() {
        let figure = Figure::of(&[0.7, 0.8, 0.75, 0.6].map(Some));
        approx::assert_abs_diff_eq!(figure.mean.unwrap(), 0.7125, epsilon = 1e-12);
        approx::assert_abs_diff_eq!(figure.sd.unwrap(), 0.085_391_256_382_996_66, epsilon = 1e-12);
        assert_eq!(Figure::of(&[Some(0.5)]), Figure { mean: Some(0.5), sd: None, seeds: 1 });
        assert_eq!(Figure::of(&[Some(0.5), None]), Figure { mean: None, sd: None, seeds: 1 });
    }
}
