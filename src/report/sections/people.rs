//! On whom it was measured.

use crate::data::Split;
use crate::report::input::Model;
use crate::report::page::{Section, table};
use crate::report::words::{capital, count, percent, thousands};
use maud::{Markup, html};

pub(super) fn section(model: &Model) -> Section {
    let metrics = &model.metrics;
    let (samples, positives) = (metrics.samples, metrics.positives);
    let left_out = metrics.left_out.get(&Split::Test.to_string()).copied().unwrap_or(0);
    let rows = html! {
        thead {
            tr {
                th scope="col" { "Group" } th scope="col" { "Images" } th scope="col" { "Share" }
                th scope="col" { "With glaucoma" } th scope="col" { "Without" }
            }
        }
        tbody { (row("All", samples, positives, samples, false)) }
        @for (name, attribute) in &metrics.attributes {
            tbody {
                tr { th scope="rowgroup" colspan="5" { (capital(name)) } }
                @for (group, g) in &attribute.groups { (row(group, g.samples, g.positives, samples, attribute.small.contains(group))) }
                @if attribute.unknown > 0 {
                    tr {
                        th scope="row" { "Unknown" }
                        td { (thousands(attribute.unknown)) } td { (share(attribute.unknown, samples)) }
                        td colspan="2" { "left out of this attribute’s groups" }
                    }
                }
            }
        }
    };
    let body = html! {
        p {
            "Measured on " (count(samples, "test image", "test images")) ", none of which the model was trained on: "
            (thousands(positives)) " with glaucoma and " (thousands(samples.saturating_sub(positives))) " without."
            @if left_out > 0 {
                " Not among them " (if left_out == 1 { "is " } else { "are " }) (count(left_out, "test image", "test images"))
                " of which race, gender, ethnicity or language is unknown."
            }
        }
        (table("Images by group", "“Small” marks a group with so few images that what it shows is mostly chance.", rows))
    };
    Section { id: "people", title: "Who was measured", body }
}

fn row(name: &str, samples: usize, positives: usize, all: usize, small: bool) -> Markup {
    let negatives = samples.saturating_sub(positives);
    html! {
        tr {
            th scope="row" { (name) @if small { span class="tag" { "small" } } }
            td { (thousands(samples)) }
            td { (share(samples, all)) }
            td { (thousands(positives)) " (" (share(positives, samples)) ")" }
            td { (thousands(negatives)) " (" (share(negatives, samples)) ")" }
        }
    }
}

fn share(part: usize, of: usize) -> String {
    percent((of > 0).then(|| part as f64 / of as f64))
}
