//! The parts of a model's report, each from what is known of the model.

mod attributes;
mod gaps;
mod intersections;
mod people;
mod routing;
mod settings;
mod summary;
mod terms;
mod thresholds;
mod training;

pub(super) use attributes::auc_scale;
pub(super) use gaps::{ES_AUC, GAPS, Gap, cell, mark};

use super::input::Model;
use super::page::{Figures, Section};

/// All parts, in the order in which they are read.
pub(super) fn all(model: &Model, figures: &mut Figures) -> Vec<Section> {
    let parts = [
        Some(summary::section(model)),
        Some(people::section(model)),
        Some(gaps::section(model, figures)),
        Some(attributes::section(model, figures)),
        intersections::section(model, figures),
        thresholds::section(model, figures),
        routing::section(model, figures),
        training::section(model, figures),
        Some(terms::section()),
        settings::section(model),
    ];
    parts.into_iter().flatten().collect()
}

/// A name for a figure's file: its parts in small letters, whatever else they are made of replaced.
pub(super) fn named(parts: &[&str]) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let whole: String = parts.join("-").chars().map(letter).take(60).collect();
    whole
}
