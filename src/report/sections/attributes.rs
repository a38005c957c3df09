//! Each attribute's groups, one by one.

use super::gaps::cell;
use super::named;
use crate::metrics::{AttributeMetrics, GroupMetrics, Metrics, calibration, roc};
use crate::report::input::Model;
use crate::report::page::{Figures, Section, table};
use crate::report::plot::{Chart, Figure, Line, Mark, Rows, Scale, Section as Rowed, Shape, key};
use crate::report::words::{capital, figure, interval, list, percent, percents, plain, thousands, with_interval};
use maud::{Markup, html};

/// The fewest images that a calibration curve is drawn of: five in each of its ten bins.
const CALIBRATED: usize = 50;

type Of = fn(&GroupMetrics) -> Option<f64>;

pub(super) fn section(model: &Model, figures: &mut Figures) -> Section {
    let scale = auc_scale([&model.metrics].into_iter());
    let body = html! {
        p {
            "How well the model tells glaucoma from none within each group. Each group keeps its colour, its dash and its marker."
        }
        @for (name, attribute) in &model.metrics.attributes {
            h3 id={ "groups-" (named(&[name])) } { (capital(name)) }
            p { (in_words(name, attribute)) }
            div class="figures" {
                div class="stack" {
                    (figures.show(aucs(model, name, attribute, scale), "With intervals. Dashed: all images. 0.5 is chance, 1 is perfect."))
                    (figures.show(at_half(name, attribute), "If a probability of 0.5 or more is called positive."))
                }
                @if let Some(figure) = curve(model, name, attribute) {
                    (figures.show(figure, "For each threshold: how many with glaucoma are found, and how many without are called positive. Dashed: chance."))
                }
                @if let Some(figure) = reliability(model, name, attribute) {
                    (figures.show(figure, "Images sorted by probability, in bins of equal size. On the dashed line, probabilities are what they claim. The axis shows only the probabilities that occur; groups of fewer than 50 images are left out."))
                }
            }
            (rates(name, attribute))
        }
    };
    Section { id: "groups", title: "Group by group", body }
}

fn in_words(name: &str, attribute: &AttributeMetrics) -> Markup {
    let gap = with_interval(attribute.auc_gap, interval(&attribute.intervals, "auc_gap"));
    html! {
        @match (&attribute.worst_group, attribute.auc_gap) {
            (Some(worst), Some(_)) => {
                "The lowest AUC is " (figure(attribute.worst_auc)) ", of the group " b { (worst) } ". Between the highest and the lowest lies " (gap) "."
            }
            _ => { "Fewer than two groups of " (plain(name)) " have an AUC, so that none can be compared." }
        }
        @if !attribute.undefined.is_empty() {
            " Without an AUC, since they have no image of one kind: " (list(&attribute.undefined)) "."
        }
    }
}

/// The axis that every group's AUC has in common.
pub(in crate::report) fn auc_scale<'a>(models: impl Iterator<Item = &'a Metrics>) -> Scale {
    let values = models.flat_map(|metrics| {
        let groups = metrics.attributes.values().flat_map(|a| a.groups.values());
        groups.filter_map(|g| Some(interval(&g.intervals, "auc").map_or([g.auc?; 2], |ends| ends))).flatten().chain(metrics.auc)
    });
    Scale::around(values.chain([0.9]), 0.1).unwrap_or(Scale::new(0.0, 1.0))
}

fn aucs(model: &Model, name: &str, attribute: &AttributeMetrics, scale: Scale) -> Figure {
    let mark = |(series, (group, g)): (usize, (&String, &GroupMetrics))| {
        let interval = interval(&g.intervals, "auc");
        Mark { label: group.clone(), value: g.auc, interval, text: with_interval(g.auc, interval), series }
    };
    let rows = Rows {
        name: named(&["auc", name]),
        title: format!("AUC by {}", plain(name)),
        axis: "AUC".into(),
        scale,
        shape: Shape::Dot,
        reference: model.metrics.auc,
        sections: vec![Rowed { heading: String::new(), marks: attribute.groups.iter().enumerate().map(mark).collect() }],
    };
    rows.draw()
}

/// What each group gets at a threshold of one half.
fn at_half(name: &str, attribute: &AttributeMetrics) -> Figure {
    let section = |(heading, figure, of): &(&str, &str, Of)| {
        let mark = |(series, (group, g)): (usize, (&String, &GroupMetrics))| {
            let (value, interval) = (of(g), interval(&g.intervals, figure));
            let text = interval
                .filter(|_| value.is_some())
                .map_or(percent(value), |ends| format!("{} ({})", percent(value), percents(ends)));
            Mark { label: group.clone(), value, interval, text, series }
        };
        Rowed { heading: (*heading).into(), marks: attribute.groups.iter().enumerate().map(mark).collect() }
    };
    let rates: [(&str, &str, Of); 2] = [
        ("Sensitivity: found, of those with glaucoma", "true_positive_rate", |g| g.true_positive_rate),
        ("False alarms, of those without", "false_positive_rate", |g| g.false_positive_rate),
    ];
    let rows = Rows {
        name: named(&["rates", name]),
        title: format!("Found and false alarms by {}", plain(name)),
        axis: "share".into(),
        scale: Scale::new(0.0, 1.0),
        shape: Shape::Dot,
        reference: None,
        sections: rates.iter().map(section).collect(),
    };
    rows.draw()
}

fn curve(model: &Model, name: &str, attribute: &AttributeMetrics) -> Option<Figure> {
    let line = |(series, (group, g)): (usize, (&String, &GroupMetrics))| {
        let (probability, label) = model.of(name, group);
        let points: Vec<[f64; 2]> =
            roc(&probability, &label).ok()?.iter().map(|p| [p.false_positive_rate, p.true_positive_rate]).collect();
        if points.is_empty() {
            return None;
        }
        Some(Line { label: format!("{group}, AUC {}", figure(g.auc)), points, series, marked: false })
    };
    let lines: Vec<Line> = attribute.groups.iter().enumerate().filter_map(line).collect();
    let told: Vec<String> = lines.iter().map(|line| line.label.clone()).collect();
    let unit = Scale::new(0.0, 1.0);
    (!lines.is_empty()).then(|| {
        let chart = Chart {
            name: named(&["roc", name]),
            title: format!("ROC by {}", plain(name)),
            about: format!("ROC curves: {}.", told.join("; ")),
            axes: ["false positive rate", "true positive rate"],
            scales: [unit, unit],
            height: 280.0,
            diagonal: true,
            lines,
        };
        chart.draw()
    })
}

fn reliability(model: &Model, name: &str, attribute: &AttributeMetrics) -> Option<Figure> {
    let line = |(series, (group, g)): (usize, (&String, &GroupMetrics))| {
        let (probability, truth) = model.of(name, group);
        let points: Vec<[f64; 2]> =
            calibration(&probability, &truth).ok()?.iter().map(|bin| [bin.probability, bin.positive]).collect();
        let label = format!("{group}, error {}", figure(g.calibration_error));
        (truth.len() >= CALIBRATED && points.len() > 1).then_some(Line { label, points, series, marked: true })
    };
    let lines: Vec<Line> = attribute.groups.iter().enumerate().filter_map(line).collect();
    let across = Scale::around(lines.iter().flat_map(|line| line.points.iter().map(|p| p[0])), 0.1)?;
    let told: Vec<String> = lines.iter().map(|line| line.label.clone()).collect();
    let chart = Chart {
        name: named(&["calibration", name]),
        title: format!("Calibration by {}", plain(name)),
        about: format!("Share of images with glaucoma against the probability given. Calibration errors: {}.", told.join("; ")),
        axes: ["mean probability", "share with glaucoma"],
        scales: [across, Scale::new(0.0, 1.0)],
        height: 280.0,
        diagonal: true,
        lines,
    };
    Some(chart.draw())
}

fn rates(name: &str, attribute: &AttributeMetrics) -> Markup {
    let columns: [(&str, &str, Of); 7] = [
        ("AUC", "auc", |g| g.auc),
        ("Accuracy", "accuracy", |g| g.accuracy),
        ("Sensitivity", "true_positive_rate", |g| g.true_positive_rate),
        ("False alarms", "false_positive_rate", |g| g.false_positive_rate),
        ("Called positive", "positive_rate", |g| g.positive_rate),
        ("Calibration error", "calibration_error", |g| g.calibration_error),
        ("Brier score", "brier", |g| g.brier),
    ];
    let rows = html! {
        thead {
            tr {
                th scope="col" { "Group" } th scope="col" { "Images" } th scope="col" { "Glaucoma" }
                @for (title, ..) in &columns { th scope="col" { (title) } }
            }
        }
        tbody {
            @for (series, (group, g)) in attribute.groups.iter().enumerate() {
                tr {
                    th scope="row" { (key(series)) (group) @if attribute.small.contains(group) { span class="tag" { "small" } } }
                    td { (thousands(g.samples)) } td { (thousands(g.positives)) }
                    @for (_, name, of) in &columns { (cell(of(g), interval(&g.intervals, name))) }
                }
            }
        }
    };
    table(&format!("All figures by {}", plain(name)), "Called positive at a probability of 0.5 or more. – is undefined.", rows)
}
