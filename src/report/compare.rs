//! Models beside each other.

use super::input::Model;
use super::page::{Figures, Page, Section, table};
use super::plot::{Mark, Rows, Scale, Section as Rowed, Shape, key};
use super::sections::{ES_AUC, GAPS, Gap, auc_scale, cell, named};
use super::words::{capital, count, interval, list, model_name, plain, thousands, with_interval};
use crate::error::{Error, Result};
use crate::metrics::{AttributeMetrics, GroupMetrics};
use maud::{Markup, PreEscaped, html};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Models with the names that tell them apart.
type Models = [(String, Model)];

/// Writes `report.html`, and its drawings in `figures`, to the folder `out`: the models of these folders side by side. Returns the
/// report's path.
///
/// # Errors
/// When there are fewer than two folders, one cannot be read as [`super::write`] reads it, or the report cannot be written.
pub fn compare(folders: &[PathBuf], out: &Path) -> Result<PathBuf> {
    if folders.len() < 2 {
        return Err(Error::Refused(format!("a comparison needs two models at least, but {} came", folders.len())));
    }
    let models = folders.iter().map(|folder| Model::open(folder)).collect::<Result<Vec<_>>>()?;
    let models: Vec<(String, Model)> = names(&models).into_iter().zip(models).collect();
    let mut figures = Figures::default();
    let sections = vec![summary(&models), gaps(&models, &mut figures), groups(&models, &mut figures)];
    let page = Page {
        title: format!("{} models side by side", models.len()),
        over: "Fairness comparison".into(),
        lead: html! {
            ul class="lead" { @for (n, (name, _)) in models.iter().enumerate() { li { (key(n)) (name) } } }
        },
        warnings: warnings(&models),
        sections,
    };
    page.write(&figures, out)
}

/// What settings call each model; beside it its folder, and its place, where that does not tell them apart.
fn names(models: &[Model]) -> Vec<String> {
    let mut names: Vec<String> = models.iter().map(|m| model_name(&m.settings, &m.folder)).collect();
    for more in [|_: usize, m: &Model| m.folder.clone(), |n: usize, _: &Model| (n + 1).to_string()] {
        let before = names.clone();
        let twice = |n: usize| before.iter().filter(|other| **other == before[n]).count() > 1;
        for n in (0..names.len()).filter(|&n| twice(n)) {
            names[n] = format!("{} ({})", before[n], more(n, &models[n]));
        }
    }
    names
}

fn warnings(models: &Models) -> Vec<Markup> {
    let same = models.windows(2).all(|pair| pair[0].1.predictions.same_samples(&pair[1].1.predictions));
    let mut all = Vec::new();
    if !same {
        all.push(html! { b { "Not the same images. " } "These models were measured on different images, so that their figures cannot be compared one to one." });
    }
    // What is to be said of several models is said once.
    let mut told: Vec<(String, Vec<String>)> = Vec::new();
    for (name, model) in models {
        for warning in super::warnings::of(model).into_iter().map(Markup::into_string) {
            match told.iter_mut().find(|(other, _)| *other == warning) {
                Some((_, names)) => names.push(name.clone()),
                None => told.push((warning, vec![name.clone()])),
            }
        }
    }
    all.extend(told.into_iter().map(|(warning, names)| {
        let whose = if names.len() == models.len() { String::new() } else { format!(" ({})", list(&names)) };
        html! { (PreEscaped(warning)) span class="quiet" { (whose) } }
    }));
    all
}

fn summary(models: &Models) -> Section {
    let rows = html! {
        thead {
            tr {
                th scope="col" { "Model" } th scope="col" { "Images" } th scope="col" { "AUC" } th scope="col" { "Accuracy" }
                th scope="col" { "Calibration error" } th scope="col" { "Brier score" }
            }
        }
        tbody {
            @for (n, (name, Model { metrics, .. })) in models.iter().enumerate() {
                tr {
                    th scope="row" { (key(n)) (name) } td { (thousands(metrics.samples)) }
                    (cell(metrics.auc, interval(&metrics.intervals, "auc")))
                    (cell(Some(metrics.accuracy), interval(&metrics.intervals, "accuracy")))
                    (cell(Some(metrics.calibration_error), interval(&metrics.intervals, "calibration_error")))
                    (cell(Some(metrics.brier), interval(&metrics.intervals, "brier")))
                }
            }
        }
    };
    let body = html! {
        p { "Each figure with its interval. Where the intervals of two models overlap widely, the test images do not tell which is better." }
        (table("Accuracy of each model", "", rows))
    };
    Section { id: "summary", title: "In short", body }
}

/// The attributes of any model, and of each its figures in every model that has it, by the model's place.
fn attributes(models: &Models) -> Vec<(&str, Vec<(usize, &AttributeMetrics)>)> {
    let names: BTreeSet<&str> = models.iter().flat_map(|(_, m)| m.metrics.attributes.keys().map(String::as_str)).collect();
    let of = |name| models.iter().enumerate().filter_map(move |(n, (_, m))| Some((n, m.metrics.attributes.get(name)?))).collect();
    names.into_iter().map(|name| (name, of(name))).collect()
}

fn gaps(models: &Models, figures: &mut Figures) -> Section {
    let attributes = attributes(models);
    let marks = |gap: &Gap| -> Vec<Rowed> {
        let mark =
            |(n, a): &(usize, &AttributeMetrics)| Mark { label: models[*n].0.clone(), ..super::sections::mark(gap, "", a, *n) };
        attributes.iter().map(|(name, of)| Rowed { heading: capital(name), marks: of.iter().map(mark).collect() }).collect()
    };
    let reach = |sections: &[Rowed]| -> Vec<f64> {
        sections.iter().flat_map(|s| &s.marks).flat_map(|m| m.interval.into_iter().flatten().chain(m.value)).collect()
    };
    let body = html! {
        p { "How differently each model treats the groups of each attribute. A gap is never below 0, and chance alone makes some gap." }
        div class="figures" {
            @for gap in [&ES_AUC].into_iter().chain(&GAPS) {
                @let sections = marks(gap);
                @let values = reach(&sections);
                @let dots = gap.name == ES_AUC.name;
                @let scale = if dots { Scale::around(values.into_iter(), 0.1) } else { Some(Scale::from_zero(values.into_iter())) };
                @let rows = Rows {
                    name: format!("gap-{}", gap.name.replace('_', "-")),
                    title: gap.title.into(),
                    axis: if dots { "ES-AUC" } else { "difference; 0 is alike" }.into(),
                    scale: scale.unwrap_or(Scale::new(0.0, 1.0)),
                    shape: if dots { Shape::Dot } else { Shape::Bar },
                    reference: None,
                    sections,
                };
                (figures.show(rows.draw(), if dots { "AUC, lowered by how far each group’s AUC is from it." } else { gap.note }))
            }
        }
        @for (name, of) in &attributes { (numbers(models, name, of)) }
    };
    Section { id: "gaps", title: "Gaps between groups", body }
}

fn numbers(models: &Models, name: &str, of: &[(usize, &AttributeMetrics)]) -> Markup {
    let columns = || [&ES_AUC].into_iter().chain(&GAPS);
    let rows = html! {
        thead { tr { th scope="col" { "Model" } @for gap in columns() { th scope="col" { (gap.title) } } } }
        tbody {
            @for (n, a) in of {
                tr { th scope="row" { (key(*n)) (models[*n].0) } @for gap in columns() { (cell((gap.of)(a), interval(&a.intervals, gap.name))) } }
            }
        }
    };
    table(&format!("Gaps by {}", plain(name)), "", rows)
}

fn groups(models: &Models, figures: &mut Figures) -> Section {
    let scale = auc_scale(models.iter().map(|(_, m)| &m.metrics));
    let body = html! {
        div class="figures" {
            @for (name, of) in attributes(models) {
                @let groups: BTreeSet<&String> = of.iter().flat_map(|(_, a)| a.groups.keys()).collect();
                @let sections = groups.into_iter().map(|group| section(models, group, &of)).collect();
                @let rows = Rows {
                    name: named(&["auc", name]), title: format!("AUC by {}", plain(name)), axis: "AUC".into(), scale, shape: Shape::Dot, reference: Some(0.5), sections,
                };
                (figures.show(rows.draw(), "0.5 is chance, 1 is perfect."))
            }
        }
    };
    Section { id: "groups", title: "Group by group", body }
}

/// One group in every model.
fn section(models: &Models, group: &str, of: &[(usize, &AttributeMetrics)]) -> Rowed {
    let mark = |(n, g): (usize, &GroupMetrics)| {
        let interval = interval(&g.intervals, "auc");
        Mark { label: models[n].0.clone(), value: g.auc, interval, text: with_interval(g.auc, interval), series: n }
    };
    let known: Vec<(usize, &GroupMetrics)> = of.iter().filter_map(|(n, a)| Some((*n, a.groups.get(group)?))).collect();
    let samples = known.first().map_or(0, |(_, g)| g.samples);
    Rowed { heading: format!("{group}, {}", count(samples, "image", "images")), marks: known.into_iter().map(mark).collect() }
}
