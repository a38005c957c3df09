//! The closing table: accuracy and fairness of models beside each other.

use crate::data::{ATTRIBUTES, GROUP_NAMES};
use crate::metrics::Metrics;
use std::fmt::Write;

/// Takes a figure of a model; none where it is undefined.
type Take = Box<dyn Fn(&Metrics) -> Option<f64>>;

/// One figure of a model, and what it is called.
pub(super) struct Row {
    /// Such as `race ES-AUC`.
    pub name: String,
    /// The figure.
    pub figure: Take,
}

/// The figures of the table, for models on the test split that `of` was measured on: AUC and accuracy, then for each attribute
/// ES-AUC, DPD and EOD, the AUC of each group with its positives and samples, and the gap between the best group and the worst.
pub(super) fn rows(of: &Metrics) -> Vec<Row> {
    let row = |name: String, figure: Take| Row { name, figure };
    let mut rows = vec![row("AUC".into(), Box::new(|m| m.auc)), row("accuracy".into(), Box::new(|m| Some(m.accuracy)))];
    for (attribute, groups) in ATTRIBUTES.into_iter().zip(GROUP_NAMES) {
        let Some(counts) = of.attributes.get(attribute) else { continue };
        let named = |figure: &str| format!("{attribute} {figure}");
        rows.push(row(named("ES-AUC"), Box::new(move |m| m.attributes.get(attribute)?.es_auc)));
        rows.push(row(named("DPD"), Box::new(move |m| m.attributes.get(attribute)?.dpd)));
        rows.push(row(named("EOD"), Box::new(move |m| m.attributes.get(attribute)?.eod)));
        for &group in groups {
            let (positives, samples) = counts.groups.get(group).map_or((0, 0), |g| (g.positives, g.samples));
            let name = named(&format!("AUC {group} ({positives} of {samples})"));
            rows.push(row(name, Box::new(move |m| *m.attributes.get(attribute)?.group_auc.get(group)?)));
        }
        rows.push(row(named("AUC, best less worst"), Box::new(move |m| m.attributes.get(attribute)?.auc_gap)));
    }
    rows
}

/// A table of models on one test split. Undefined figures are dashes.
pub fn comparison(models: &[(&str, &Metrics)]) -> String {
    let mut table = String::new();
    let mut line = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>16}")).collect();
        // Writing to a text cannot fail.
        let _ = writeln!(table, "{name:<42}{cells}");
    };
    line("", models.iter().map(|(name, _)| (*name).to_owned()).collect());
    for row in models.first().map(|(_, first)| rows(first)).unwrap_or_default() {
        let cell = |metrics: &Metrics| (row.figure)(metrics).map_or("-".to_owned(), |v| format!("{v:.4}"));
        line(&row.name, models.iter().map(|(_, metrics)| cell(metrics)).collect());
    }
    table
}
