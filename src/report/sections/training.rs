//! How the model came to be: the loss before the first step, and each epoch.

use super::named;
use crate::report::input::Model;
use crate::report::page::{Figures, Section, table};
use crate::report::plot::{Chart, Figure, Line, Scale};
use crate::report::words::{number, plain};
use crate::train::{Epoch, GroupTerms, Module, Start, Terms};
use maud::{Markup, html};
use std::collections::BTreeSet;

type Of<S> = fn(&S) -> f64;

/// The loss's terms, as the log calls them.
const TERMS: [(&str, Of<Terms>); 6] = [
    ("total", |e| e.total),
    ("clip", |e| e.clip),
    ("distance", |e| e.distance),
    ("dispersion", |e| e.dispersion),
    ("batch_variance", |e| e.batch_variance),
    ("gate_ce", |e| e.gate_ce),
];

pub(super) fn section(model: &Model, figures: &mut Figures) -> Option<Section> {
    let epochs = &model.epochs;
    let body = html! {
        @if let Some(start) = &model.start { (first(start)) }
        @if !epochs.is_empty() {
            h3 { "Over the epochs" }
            p {
                @if on_test(model) {
                    "The model was taken from the epoch that was best on the test images themselves: what this report says of them is too good."
                } @else {
                    "The model was taken from the epoch that was best on the validation images; the test images had no part in it."
                }
            }
            div class="figures" {
                @if let Some(figure) = validation(epochs) { (figures.show(figure, "On the validation images, at the end of each epoch.")) }
                @for (term, of) in TERMS {
                    @if let Some(figure) = course(term, epochs, of) { (figures.show(figure, note(term))) }
                }
                @for figure in by_group(epochs) { (figures.show(figure, "How far each group is from the batch as a whole; lower is more alike.")) }
            }
        }
    };
    (model.start.is_some() || !epochs.is_empty()).then_some(Section { id: "training", title: "How it was trained", body })
}

/// Whether settings say that the test split chose the epoch, as published codes do.
fn on_test(model: &Model) -> bool {
    model.settings.pointer("/training/select_split").and_then(|split| split.as_str()) == Some("test")
}

fn note(term: &str) -> &'static str {
    match term {
        "total" => "The whole loss, all terms with their weights.",
        "clip" => "How badly images and texts are matched.",
        "distance" => "How far the groups’ matches are from the batch’s: transport.",
        "dispersion" => "How differently the gates spread over the experts, group by group.",
        "batch_variance" => "The gates’ own spread, which the published code rewards.",
        _ => "How badly the gates tell the groups apart.",
    }
}

/// The loss before the first step.
fn first(start: &Start) -> Markup {
    let rows = html! {
        thead { tr { th scope="col" { "Term" } th scope="col" { "Value" } th scope="col" { "Share of the loss" } th scope="col" { "Norm of its gradient" } } }
        tbody {
            @for (name, term) in &start.terms {
                tr { th scope="row" { (plain(name)) } td { (number(term.value)) } td { (number(100.0 * term.share)) "%" } td { (number(term.gradient_norm)) } }
            }
        }
    };
    let modules = html! {
        thead { tr { th scope="col" { "Module" } th scope="col" { "Norm of the loss’s gradient" } } }
        tbody { @for (module, norm) in &start.gradient_norms { tr { th scope="row" { (called(*module)) } td { (number(*norm)) } } } }
    };
    html! {
        h3 { "Before the first step" }
        p { "A term with a tiny share and a tiny gradient steers nothing, whatever its name promises." }
        (table("Terms of the loss", "Weights counted in.", rows))
        @if !start.gradient_norms.is_empty() { details { summary { "Gradients by module" } (table("Gradient norms by module", "", modules)) } }
    }
}

/// What files call a part of the model, in words.
fn called(module: Module) -> String {
    plain(serde_json::to_value(module).ok().as_ref().and_then(|name| name.as_str()).unwrap_or_default())
}

/// Epochs from the first to the last; a single one still has a width.
fn over(epochs: &[Epoch]) -> Scale {
    let numbers = || epochs.iter().map(|e| e.epoch as f64);
    let (first, last) = (numbers().fold(f64::INFINITY, f64::min), numbers().fold(0.0, f64::max));
    Scale::new(first, last.max(first + 1.0))
}

/// A line of what each epoch shows, without the epochs that do not; none if none does.
fn line(label: &str, series: usize, epochs: &[Epoch], of: impl Fn(&Epoch) -> Option<f64>) -> Option<Line> {
    let points: Vec<[f64; 2]> = epochs.iter().filter_map(|e| Some([e.epoch as f64, of(e)?])).collect();
    (!points.is_empty()).then(|| Line { label: label.to_owned(), marked: points.len() <= 30, points, series })
}

fn chart(name: String, title: String, axis: &'static str, epochs: &[Epoch], up: Scale, lines: Vec<Line>) -> Figure {
    let ends = |line: &Line| {
        let [first, last] = [line.points.first(), line.points.last()].map(|p| p.map_or(0.0, |p| p[1]));
        format!("{}: from {} to {}", line.label, number(first), number(last))
    };
    let about = format!("By epoch. {}.", lines.iter().map(ends).collect::<Vec<_>>().join("; "));
    Chart { name, title, about, axes: ["epoch", axis], scales: [over(epochs), up], height: 190.0, diagonal: false, lines }.draw()
}

fn values(lines: &[Line]) -> impl Iterator<Item = f64> {
    lines.iter().flat_map(|line| line.points.iter().map(|p| p[1]))
}

fn validation(epochs: &[Epoch]) -> Option<Figure> {
    let attributes: BTreeSet<&String> = epochs.iter().flat_map(|e| e.validation_es_auc.keys()).collect();
    let equity = attributes.into_iter().enumerate().filter_map(|(n, name)| {
        line(&format!("ES-AUC, {}", plain(name)), n + 1, epochs, |e| e.validation_es_auc.get(name).copied().flatten())
    });
    let lines: Vec<Line> = line("AUC", 0, epochs, |e| e.validation_auc).into_iter().chain(equity).collect();
    let up = Scale::around(values(&lines), 0.1)?;
    Some(chart("validation".into(), "AUC in validation".into(), "AUC", epochs, up, lines))
}

/// One term over the epochs; none where it is never there or always zero.
fn course(term: &str, epochs: &[Epoch], of: Of<Terms>) -> Option<Figure> {
    let lines = vec![line(&plain(term), 0, epochs, |e| Some(of(&e.terms)))?];
    let title = if term == "total" { "Loss".into() } else { format!("Loss: {}", plain(term)) };
    let up = Scale::from_zero(values(&lines));
    let moves = values(&lines).any(|v| v != 0.0);
    moves.then(|| chart(named(&["loss", term]), title, "mean over the epoch", epochs, up, lines))
}

/// Transport and dispersion of each attribute's groups.
fn by_group(epochs: &[Epoch]) -> Vec<Figure> {
    let terms: [(&str, &str, Of<GroupTerms>); 2] =
        [("distance", "Transport", |g| g.distance), ("dispersion", "Dispersion", |g| g.dispersion)];
    let attributes: BTreeSet<&String> = epochs.iter().flat_map(|e| e.groups.keys()).collect();
    let figure = |name: &String, (term, title, of): (&str, &str, Of<GroupTerms>)| {
        let groups: BTreeSet<&String> =
            epochs.iter().filter_map(|e| e.groups.get(name)).flat_map(|groups| groups.keys()).collect();
        let group = |(series, group): (usize, &String)| line(group, series, epochs, |e| e.groups.get(name)?.get(group).map(of));
        let lines: Vec<Line> = groups.into_iter().enumerate().filter_map(group).collect();
        let up = Scale::from_zero(values(&lines));
        let title = format!("{title} by {}", plain(name));
        (!lines.is_empty()).then(|| chart(named(&["epochs", term, name]), title, "mean over the epoch", epochs, up, lines))
    };
    attributes.into_iter().flat_map(|name| terms.into_iter().filter_map(move |term| figure(name, term))).collect()
}
