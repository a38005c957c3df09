//! How far apart the groups of each attribute are.

use crate::metrics::AttributeMetrics;
use crate::report::input::Model;
use crate::report::page::{Figures, Section, table};
use crate::report::plot::{Mark, Rows, Scale, Section as Rowed, Shape};
use crate::report::words::{capital, figure, interval, with_interval};
use maud::{Markup, html};

/// A figure that compares an attribute's groups.
pub(in crate::report) struct Gap {
    /// What metrics call it.
    pub(in crate::report) name: &'static str,
    pub(in crate::report) title: &'static str,
    pub(in crate::report) note: &'static str,
    pub(in crate::report) of: fn(&AttributeMetrics) -> Option<f64>,
}

/// The gaps: the smaller, the fairer.
pub(in crate::report) const GAPS: [Gap; 5] = [
    Gap { name: "auc_gap", title: "AUC gap", note: "Highest less lowest AUC of the groups.", of: |a| a.auc_gap },
    Gap {
        name: "equal_opportunity",
        title: "Equal opportunity difference",
        note: "Of those with glaucoma: how much more often one group is found than another.",
        of: |a| a.equal_opportunity,
    },
    Gap {
        name: "eod",
        title: "Equalised odds difference (EOD)",
        note: "The larger of two gaps: in who is found, and in false alarms.",
        of: |a| a.eod,
    },
    Gap {
        name: "dpd",
        title: "Demographic parity difference (DPD)",
        note: "How much more often one group is called positive than another.",
        of: |a| a.dpd,
    },
    Gap {
        name: "calibration_gap",
        title: "Calibration gap",
        note: "Highest less lowest calibration error of the groups.",
        of: |a| a.calibration_gap,
    },
];

/// AUC with the groups' differences taken off: the larger, the better.
pub(in crate::report) const ES_AUC: Gap = Gap {
    name: "es_auc",
    title: "Equity-scaled AUC (ES-AUC)",
    note: "AUC, lowered by how far each group’s AUC is from it. Dashed: the AUC.",
    of: |a| a.es_auc,
};

pub(super) fn section(model: &Model, figures: &mut Figures) -> Section {
    let attributes = &model.metrics.attributes;
    let reach = attributes.values().flat_map(|a| {
        GAPS.iter().flat_map(|gap| {
            let ends = interval(&a.intervals, gap.name).into_iter().flatten();
            ends.chain((gap.of)(a))
        })
    });
    let scale = Scale::from_zero(reach);
    let mut shown = vec![es_auc(model, figures)];
    for gap in &GAPS {
        let marks = attributes.iter().map(|(name, a)| mark(gap, name, a, 0)).collect();
        let rows = Rows {
            name: format!("gap-{}", gap.name.replace('_', "-")),
            title: gap.title.into(),
            axis: "difference; 0 is alike".into(),
            scale,
            shape: Shape::Bar,
            reference: None,
            sections: vec![Rowed { heading: String::new(), marks }],
        };
        shown.push(figures.show(rows.draw(), gap.note));
    }
    let body = html! {
        p { "How differently the model treats the groups of each attribute, in six ways that are in use. All gaps have the same axis." }
        div class="figures" { @for figure in shown { (figure) } }
        (numbers(model))
    };
    Section { id: "gaps", title: "Gaps between groups", body }
}

/// One attribute's gap.
pub(in crate::report) fn mark(gap: &Gap, name: &str, attribute: &AttributeMetrics, series: usize) -> Mark {
    let (value, interval) = ((gap.of)(attribute), interval(&attribute.intervals, gap.name));
    Mark { label: capital(name), value, interval, text: with_interval(value, interval), series }
}

fn es_auc(model: &Model, figures: &mut Figures) -> Markup {
    let marks: Vec<Mark> = model.metrics.attributes.iter().map(|(name, a)| mark(&ES_AUC, name, a, 0)).collect();
    let values = marks.iter().flat_map(|m| m.interval.into_iter().flatten().chain(m.value)).chain(model.metrics.auc);
    let rows = Rows {
        name: "gap-es-auc".into(),
        title: ES_AUC.title.into(),
        axis: "ES-AUC".into(),
        scale: Scale::around(values, 0.1).unwrap_or(Scale::new(0.0, 1.0)),
        shape: Shape::Dot,
        reference: model.metrics.auc,
        sections: vec![Rowed { heading: String::new(), marks }],
    };
    figures.show(rows.draw(), ES_AUC.note)
}

fn numbers(model: &Model) -> Markup {
    let columns = || [&ES_AUC].into_iter().chain(&GAPS);
    let rows = html! {
        thead { tr { th scope="col" { "Attribute" } @for gap in columns() { th scope="col" { (gap.title) } } th scope="col" { "Equity-scaled accuracy" } } }
        tbody {
            @for (name, a) in &model.metrics.attributes {
                tr {
                    th scope="row" { (capital(name)) }
                    @for gap in columns() { (cell((gap.of)(a), interval(&a.intervals, gap.name))) }
                    (cell(a.es_acc, interval(&a.intervals, "es_acc")))
                }
            }
        }
    };
    table("Gaps and equity-scaled figures", "– is undefined: fewer than two groups have what it compares.", rows)
}

/// A figure over its interval.
pub(in crate::report) fn cell(value: Option<f64>, interval: Option<[f64; 2]>) -> Markup {
    html! {
        td {
            (figure(value))
            @if let (Some(_), Some(interval)) = (value, interval) { span class="between" { (crate::report::words::between(interval)) } }
        }
    }
}
