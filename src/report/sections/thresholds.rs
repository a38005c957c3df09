//! What thresholds other than one half would do.

use super::named;
use crate::metrics::{AttributeMetrics, GroupMetrics, GroupRates, ThresholdChoice};
use crate::report::input::Model;
use crate::report::page::{Figures, Section, table};
use crate::report::plot::{Figure, Mark, Rows, Scale, Section as Rowed, Shape, key};
use crate::report::words::{capital, figure, list, percent, plain};
use maud::{Markup, html};
use std::collections::BTreeMap;

type Choices = BTreeMap<String, ThresholdChoice>;

/// What the figures and tables call a probability of one half for everyone.
const HALF: &str = "0.5 for all";

pub(super) fn section(model: &Model, figures: &mut Figures) -> Option<Section> {
    let metrics = &model.metrics;
    let known = || metrics.thresholds.iter().filter_map(|(name, choices)| Some((name, metrics.attributes.get(name)?, choices)));
    let body = html! {
        p {
            "The same probabilities, called positive at other thresholds. These were chosen on the validation images; what they do is "
            "measured here on the test images, which had no part in the choice."
        }
        @for (name, attribute, choices) in known() {
            h3 { (capital(name)) }
            div class="figures" {
                @for rate in &RATES { (figures.show(rows(name, attribute, choices, rate), rate.note)) }
            }
            details { summary { "All numbers by " (plain(name)) } (numbers(name, attribute, choices)) }
        }
    };
    known().next().map(|_| Section { id: "thresholds", title: "Other thresholds", body })
}

/// A rate of each group, before and after.
struct Rate {
    title: &'static str,
    note: &'static str,
    before: fn(&GroupMetrics) -> Option<f64>,
    after: fn(&GroupRates) -> Option<f64>,
}

const RATES: [Rate; 3] = [
    Rate {
        title: "Sensitivity",
        note: "Of those with glaucoma: how many are found.",
        before: |g| g.true_positive_rate,
        after: |r| r.true_positive_rate,
    },
    Rate {
        title: "False alarms",
        note: "Of those without: how many are called positive.",
        before: |g| g.false_positive_rate,
        after: |r| r.false_positive_rate,
    },
    Rate { title: "Called positive", note: "Of all: how many.", before: |g| g.positive_rate, after: |r| r.positive_rate },
];

fn rows(name: &str, attribute: &AttributeMetrics, choices: &Choices, rate: &Rate) -> Figure {
    let section = |(group, g): (&String, &GroupMetrics)| {
        let after = choices.iter().map(|(choice, c)| (capital(choice), c.rates.get(group).and_then(rate.after)));
        let mark = |(series, (label, value))| Mark { label, value, interval: None, text: percent(value), series };
        let marks = std::iter::once((HALF.to_owned(), (rate.before)(g))).chain(after).enumerate().map(mark).collect();
        Rowed { heading: group.clone(), marks }
    };
    let rows = Rows {
        name: named(&["thresholds", rate.title, name]),
        title: format!("{} by {}", rate.title, plain(name)),
        axis: "share".into(),
        scale: Scale::new(0.0, 1.0),
        shape: Shape::Dot,
        reference: None,
        sections: attribute.groups.iter().map(section).collect(),
    };
    rows.draw()
}

fn numbers(name: &str, attribute: &AttributeMetrics, choices: &Choices) -> Markup {
    let gaps = |equal: Option<f64>, eod: Option<f64>, dpd: Option<f64>| {
        html! {
            tr {
                th scope="row" { "Gaps" }
                td colspan="5" { "equal opportunity " (figure(equal)) ", EOD " (figure(eod)) ", DPD " (figure(dpd)) }
            }
        }
    };
    let rows = html! {
        thead {
            tr {
                th scope="col" { "Group" } th scope="col" { "Threshold" } th scope="col" { "Sensitivity" } th scope="col" { "False alarms" }
                th scope="col" { "Called positive" } th scope="col" { "Accuracy" }
            }
        }
        tbody {
            tr { th scope="rowgroup" colspan="6" { (key(0)) (HALF) } }
            @for (group, g) in &attribute.groups {
                tr {
                    th scope="row" { (group) } td { "0.500" }
                    td { (percent(g.true_positive_rate)) } td { (percent(g.false_positive_rate)) }
                    td { (percent(g.positive_rate)) } td { (percent(g.accuracy)) }
                }
            }
            (gaps(attribute.equal_opportunity, attribute.eod, attribute.dpd))
        }
        @for (n, (choice, c)) in choices.iter().enumerate() {
            tbody {
                tr { th scope="rowgroup" colspan="6" { (key(n + 1)) (capital(choice)) ": accuracy " (percent(Some(c.accuracy))) } }
                @for (group, rates) in &c.rates {
                    tr {
                        th scope="row" { (group) } td { (figure(Some(c.groups.get(group).copied().unwrap_or(c.threshold)))) }
                        td { (percent(rates.true_positive_rate)) } td { (percent(rates.false_positive_rate)) }
                        td { (percent(rates.positive_rate)) } td { (percent(rates.accuracy)) }
                    }
                }
                (gaps(c.equal_opportunity, c.eod, c.dpd))
                @if !c.small.is_empty() {
                    tr { th scope="row" { "Too small" } td colspan="5" { "no threshold of their own: " (list(&c.small)) } }
                }
            }
        }
    };
    table(&format!("Thresholds by {}", plain(name)), "Smaller gaps can cost accuracy: read both.", rows)
}
