//! Comparisons as text.

use super::{ALL, Comparison, Difference, Figure, auc_of};
use crate::data::{ATTRIBUTES, GROUP_NAMES};
use std::fmt;

/// What is shown of each section: the figure's name, and what it is called.
const SHOWN: [&[(&str, &str)]; 2] = [
    &[("auc", "AUC"), ("accuracy", "accuracy"), ("calibration_error", "calibration error"), ("brier", "Brier score")],
    &[
        ("es_auc", "ES-AUC"),
        ("auc_gap", "AUC, best less worst"),
        ("worst_auc", "AUC of the worst group"),
        ("dpd", "DPD"),
        ("eod", "EOD"),
        ("equal_opportunity", "equal opportunity"),
        ("calibration_gap", "calibration gap"),
    ],
];

impl fmt::Display for Comparison {
    /// A table of figures, models beside each other, and a table of differences.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = 100.0 * self.bootstrap.level;
        let names: Vec<&str> = self.models.iter().map(|m| &*m.name).collect();
        let cell = |m: usize, section: &str, name: &str| figure(&self.models[m].figures[section][name]);
        table(f, &names, cell)?;
        let runs = self.models.iter().any(|m| m.runs.len() > 1);
        let what = if runs { "mean ± standard deviation over seeds, and the " } else { "" };
        writeln!(f, "{what}{level}% interval of {} resamples", self.bootstrap.resamples)?;

        let paired: Vec<_> = self.models.iter().filter_map(|m| Some((&*m.name, m.difference.as_ref()?))).collect();
        if let (Some(first), false) = (names.first(), paired.is_empty()) {
            writeln!(f, "\nless {first}, on the same samples")?;
            let names: Vec<&str> = paired.iter().map(|(name, _)| *name).collect();
            table(f, &names, |m, section, name| difference(&paired[m].1[section][name]))?;
            writeln!(f, "* the {level}% interval does not hold 0")?;
        }
        for other in self.models.iter().skip(1).filter(|m| m.difference.is_none()) {
            writeln!(f, "{} was measured on other samples: no difference can be told", other.name)?;
        }
        Ok(())
    }
}

/// A row for each figure, a column for each name.
fn table(f: &mut fmt::Formatter<'_>, names: &[&str], cell: impl Fn(usize, &str, &str) -> String) -> fmt::Result {
    let rows = |section: &'static str, shown: &'static [(&str, &str)], indent: &'static str| {
        shown.iter().map(move |(name, called)| (section, (*name).to_owned(), format!("{indent}{called}")))
    };
    let heading = |attribute: &'static str| (attribute, String::new(), attribute.to_owned());
    let mut all: Vec<_> = rows(ALL, SHOWN[0], "").collect();
    for (attribute, groups) in ATTRIBUTES.into_iter().zip(GROUP_NAMES) {
        all.extend([heading(attribute)].into_iter().chain(rows(attribute, SHOWN[1], "  ")));
        all.extend(groups.iter().map(|group| (attribute, auc_of(group), format!("  AUC of {group}"))));
    }
    let cells =
        |m: usize| all.iter().map(|(s, n, _)| if n.is_empty() { String::new() } else { cell(m, s, n) }).collect::<Vec<_>>();
    let columns: Vec<Vec<String>> = (0..names.len()).map(cells).collect();
    let wide = |m: usize| columns[m].iter().map(|c| c.chars().count()).chain([names[m].chars().count()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(wide).collect();
    let mut line = |first: &str, cells: Vec<&str>| {
        let cells: String = cells.iter().zip(&widths).map(|(cell, width)| format!("  {cell:>width$}")).collect();
        writeln!(f, "{}", format!("{first:<26}{cells}").trim_end())
    };
    line("", names.to_vec())?;
    for (r, (_, _, called)) in all.iter().enumerate() {
        line(called, columns.iter().map(|column| &*column[r]).collect())?;
    }
    Ok(())
}

fn figure(figure: &Figure) -> String {
    let Some(mean) = figure.mean else { return "-".into() };
    let sd = figure.sd.map(|sd| format!(" ± {sd:.4}")).unwrap_or_default();
    format!("{mean:.4}{sd}{}", interval(figure.interval, ""))
}

fn difference(difference: &Difference) -> String {
    let Some(mean) = difference.mean else { return "-".into() };
    let is_told = difference.interval.is_some_and(|[low, high]| low > 0.0 || high < 0.0);
    format!("{mean:+.4}{} {}", interval(difference.interval, "+"), if is_told { "*" } else { " " })
}

fn interval(ends: Option<[f64; 2]>, sign: &str) -> String {
    let end = |v: f64| if sign == "+" { format!("{v:+.3}") } else { format!("{v:.3}") };
    ends.map(|[low, high]| format!(" [{}, {}]", end(low), end(high))).unwrap_or_default()
}
