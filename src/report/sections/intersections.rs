//! Groups of two attributes at once.

use super::gaps::cell;
use super::named;
use crate::metrics::{AttributeMetrics, GroupMetrics};
use crate::report::input::Model;
use crate::report::page::{Figures, Section, table};
use crate::report::plot::{Mark, Rows, Scale, Section as Rowed, Shape};
use crate::report::words::{count, interval, plain, thousands, with_interval};
use maud::{Markup, html};

pub(super) fn section(model: &Model, figures: &mut Figures) -> Option<Section> {
    let pairs = &model.metrics.intersections;
    let scale = super::attributes::auc_scale([&model.metrics].into_iter());
    let reach = pairs
        .values()
        .flat_map(|a| a.groups.values())
        .filter_map(|g| interval(&g.intervals, "auc").or(g.auc.map(|auc| [auc; 2])));
    let scale = Scale::around(reach.flatten().chain(model.metrics.auc), 0.1).unwrap_or(scale);
    let body = html! {
        p {
            "A model can be alike for both genders and for every race, and still worse for the women of one race. Of groups too small to "
            "be judged only the numbers of images are told."
        }
        div class="figures" {
            @for (name, pair) in pairs { @if let Some(rows) = aucs(model, name, pair, scale) { (figures.show(rows.draw(), "Dashed: all images.")) } }
        }
        details { summary { "All numbers by two attributes" } (numbers(model)) }
    };
    (!pairs.is_empty()).then_some(Section { id: "intersections", title: "Two attributes at once", body })
}

/// The groups that can be judged; none if none can.
fn aucs(model: &Model, name: &str, pair: &AttributeMetrics, scale: Scale) -> Option<Rows> {
    let judged = pair.groups.iter().filter(|(_, g)| g.auc.is_some());
    let mark = |(group, g): (&String, &GroupMetrics)| {
        let interval = interval(&g.intervals, "auc");
        Mark { label: group.clone(), value: g.auc, interval, text: with_interval(g.auc, interval), series: 0 }
    };
    let mut marks: Vec<Mark> = judged.map(mark).collect();
    let small = pair.groups.len() - marks.len();
    if marks.is_empty() {
        return None;
    }
    if small > 0 {
        let label = format!("and {} too small to judge", count(small, "group", "groups"));
        marks.push(Mark { label, value: None, interval: None, text: String::new(), series: 0 });
    }
    Some(Rows {
        name: named(&["intersection", name]),
        title: format!("AUC by {}", plain(name).replace(" x ", " and ")),
        axis: "AUC".into(),
        scale,
        shape: Shape::Dot,
        reference: model.metrics.auc,
        sections: vec![Rowed { heading: String::new(), marks }],
    })
}

fn numbers(model: &Model) -> Markup {
    let rows = html! {
        thead {
            tr {
                th scope="col" { "Group" } th scope="col" { "Images" } th scope="col" { "Glaucoma" } th scope="col" { "AUC" }
                th scope="col" { "Sensitivity" } th scope="col" { "False alarms" } th scope="col" { "Called positive" }
            }
        }
        @for (name, pair) in &model.metrics.intersections {
            tbody {
                tr { th scope="rowgroup" colspan="7" { (plain(name)) } }
                @for (group, g) in &pair.groups {
                    tr {
                        th scope="row" { (group) @if pair.small.contains(group) { span class="tag" { "small" } } }
                        td { (thousands(g.samples)) } td { (thousands(g.positives)) }
                        (cell(g.auc, interval(&g.intervals, "auc")))
                        (cell(g.true_positive_rate, interval(&g.intervals, "true_positive_rate")))
                        (cell(g.false_positive_rate, interval(&g.intervals, "false_positive_rate")))
                        (cell(g.positive_rate, interval(&g.intervals, "positive_rate")))
                    }
                }
            }
        }
    };
    table("Figures by two attributes", "– is undefined, or of a group too small to be judged.", rows)
}
