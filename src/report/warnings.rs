//! What a reader must know before believing any figure.

use super::input::Model;
use super::words::{count, figure, interval, list, number, plain, with_interval};
use crate::metrics::AttributeMetrics;
use maud::{Markup, html};

/// All warnings, the gravest first.
pub(super) fn of(model: &Model) -> Vec<Markup> {
    let metrics = &model.metrics;
    let mut all = Vec::new();
    if let Some(made) = &model.made {
        let bias = made.get("bias").and_then(serde_json::Value::as_f64).map_or("some".to_owned(), number);
        all.push(html! { b { "Generated images. " } "These are no patients: the images were made by a program, with a known bias (" (bias) ") against one group." });
    }
    match (metrics.auc, interval(&metrics.intervals, "auc")) {
        (None, _) => all.push(html! { b { "No AUC. " } "The test images are all with glaucoma or all without." }),
        (Some(auc), Some([low, _])) if low <= 0.5 => all.push(html! {
            b { "Perhaps no better than chance. " } "The AUC is " (with_interval(Some(auc), interval(&metrics.intervals, "auc"))) ": 0.5, a coin, is not ruled out. Gaps of a model that cannot tell mean nothing."
        }),
        (Some(auc), None) if auc <= 0.55 => all.push(html! { b { "Close to chance. " } "The AUC is " (figure(Some(auc))) "; 0.5 is a coin." }),
        _ => {}
    }
    if let Some(rate) = called(model).filter(|rate| [0.0, 1.0].contains(rate)) {
        let (who, word) = if rate == 0.0 { ("No image is", "below") } else { ("Every image is", "at or above") };
        all.push(html! {
            b { (who) " called positive. " } "All probabilities lie " (word) " 0.5, so that DPD, EOD and equal opportunity are 0 for no merit of the model."
        });
    }
    if metrics.bootstrap.is_none() {
        all.push(html! { b { "No intervals. " } "How far chance alone could move these figures is not known." });
    }
    for (name, attribute) in &metrics.attributes {
        all.extend(groups(name, attribute));
    }
    let small: usize = metrics.intersections.values().map(|pair| pair.small.len()).sum();
    if small > 0 {
        all.push(html! { b { "Two attributes at once: " } (count(small, "group is", "groups are")) " too small to be judged." });
    }
    all.extend(
        model
            .start
            .iter()
            .flat_map(|start| &start.warnings)
            .map(|warning| html! { b { "Training: " } (warning.trim_end_matches('.')) "." }),
    );
    all.extend(idle(model));
    all
}

/// What is wrong with an attribute's groups.
fn groups(name: &str, attribute: &AttributeMetrics) -> Vec<Markup> {
    let name = plain(name);
    let chance = |group: &&String| {
        attribute.groups.get(*group).and_then(|g| interval(&g.intervals, "auc")).is_some_and(|[low, _]| low <= 0.5)
    };
    let no_better: Vec<String> = attribute.groups.keys().filter(chance).cloned().collect();
    let mut all = Vec::new();
    if !attribute.undefined.is_empty() {
        all.push(html! { b { "Undefined: " } "of " (name) ", " (list(&attribute.undefined)) " has no image of one kind, and so no AUC. Gaps leave it out." });
    }
    if !attribute.small.is_empty() {
        all.push(html! { b { "Few images: " } "of " (name) ", " (list(&attribute.small)) ". What is said of such a group is mostly chance." });
    }
    if !no_better.is_empty() {
        all.push(
            html! { b { "Perhaps chance: " } "of " (name) ", the AUC of " (list(&no_better)) " cannot be told from a coin’s." },
        );
    }
    if attribute.unknown > 0 {
        all.push(html! { b { "Left out: " } (count(attribute.unknown, "image", "images")) " of unknown " (name) "." });
    }
    all
}

/// The share of images called positive.
fn called(model: &Model) -> Option<f64> {
    let all = &model.predictions.probability;
    (!all.is_empty()).then(|| all.iter().filter(|&&p| p >= 0.5).count() as f64 / all.len() as f64)
}

/// Experts that nothing reaches.
fn idle(model: &Model) -> Vec<Markup> {
    let mixtures = model.routing.iter().flat_map(|routing| &routing.mixtures);
    let idle = mixtures.filter_map(|(name, mixture)| {
        let load = &mixture.all.load;
        let without: Vec<String> = (0..load.len()).filter(|&e| load[e] == 0.0).map(|e| (e + 1).to_string()).collect();
        (!without.is_empty() && load.iter().sum::<f64>() > 0.0)
            .then(|| html! { b { "Idle experts: " } "in the mixture " (plain(name)) ", nothing reaches " (list(&without)) "." })
    });
    idle.collect()
}
