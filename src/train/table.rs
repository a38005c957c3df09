//! The closing table: accuracy and fairness of models beside each other.

use crate::data::{ATTRIBUTES, GROUP_NAMES};
use crate::metrics::Metrics;
use std::fmt::Write;

/// A table of models on one test split: AUC and accuracy, then for each attribute ES-AUC, DPD and EOD, the AUC of each group
/// with its positives and samples, and the gap between the best group and the worst. Undefined figures are dashes.
pub fn comparison(models: &[(&str, &Metrics)]) -> String {
    let mut table = String::new();
    let mut row = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>14}")).collect();
        // Writing to a text cannot fail.
        let _ = writeln!(table, "{name:<34}{cells}");
    };
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.4}"));
    let each = |of: &dyn Fn(&Metrics) -> Option<f64>| models.iter().map(|(_, m)| figure(of(m))).collect::<Vec<_>>();
    row("", models.iter().map(|(name, _)| (*name).to_owned()).collect());
    row("AUC", each(&|m| m.auc));
    row("accuracy", each(&|m| Some(m.accuracy)));
    for (attribute, groups) in ATTRIBUTES.into_iter().zip(GROUP_NAMES) {
        let Some(counts) = models.first().and_then(|(_, m)| m.attributes.get(attribute)) else { continue };
        row(attribute, vec![]);
        row("  ES-AUC", each(&|m| m.attributes.get(attribute)?.es_auc));
        row("  DPD", each(&|m| m.attributes.get(attribute)?.dpd));
        row("  EOD", each(&|m| m.attributes.get(attribute)?.eod));
        for group in groups {
            let (positives, samples) = counts.groups.get(*group).map_or((0, 0), |g| (g.positives, g.samples));
            row(
                &format!("  AUC {group} ({positives} of {samples})"),
                each(&|m| *m.attributes.get(attribute)?.group_auc.get(*group)?),
            );
        }
        row("  AUC, best less worst", each(&|m| gap(m, attribute)));
    }
    table
}

/// The largest less the smallest defined AUC of an attribute's groups.
fn gap(metrics: &Metrics, attribute: &str) -> Option<f64> {
    let aucs: Vec<f64> = metrics.attributes.get(attribute)?.group_auc.values().filter_map(|auc| *auc).collect();
    let best = aucs.iter().copied().reduce(f64::max)?;
    Some(best - aucs.into_iter().reduce(f64::min)?)
}
