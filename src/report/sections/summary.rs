//! The figures that matter most, in words.

use crate::metrics::AttributeMetrics;
use crate::report::input::Model;
use crate::report::page::Section;
use crate::report::words::{between, capital, count, figure, interval, percent, percents, plain, thousands};
use maud::{Markup, html};

pub(super) fn section(model: &Model) -> Section {
    let metrics = &model.metrics;
    let auc = interval(&metrics.intervals, "auc");
    let accuracy = interval(&metrics.intervals, "accuracy");
    let body = html! {
        dl class="facts" {
            (fact("AUC", &figure(metrics.auc), auc.map(between), &match metrics.auc {
                Some(auc) => format!(
                    "Of 100 pairs of an image with glaucoma and one without, the right one has the higher probability in {:.0}.",
                    100.0 * auc
                ),
                None => "Undefined: the images are all of one kind.".into(),
            }))
            (fact("Accuracy", &percent(Some(metrics.accuracy)), accuracy.map(percents),
                "Images that are called what they are, if a probability of 0.5 or more counts as glaucoma."))
            @if let Some((name, attribute, group)) = worst(model) {
                @let of = &attribute.groups.get(group);
                (fact("Lowest AUC of a group", &figure(attribute.worst_auc), of.and_then(|g| interval(&g.intervals, "auc")).map(between),
                    &format!("{group} ({}): {}, {} of them with glaucoma.", plain(name),
                        count(of.map_or(0, |g| g.samples), "image", "images"), thousands(of.map_or(0, |g| g.positives)))))
            }
            @if let Some((name, attribute)) = widest(model) {
                (fact("Largest AUC gap", &figure(attribute.auc_gap), interval(&attribute.intervals, "auc_gap").map(between),
                    &format!("{}: between the group with the highest AUC and that with the lowest.", capital(name))))
            }
        }
        p class="quiet" {
            @match &metrics.bootstrap {
                Some(bootstrap) => {
                    "Behind each figure stands its interval: where it lies in " (percent(Some(bootstrap.level)).replace(".0", "")) " of "
                    (thousands(bootstrap.resamples)) " resamples of the test images. The wider it is, the less the figure is to be relied on. "
                    "A gap is never below 0, and chance alone makes some gap, the more so in small groups: where an interval comes close to "
                    "0, chance may be all there is. Resampling itself widens gaps, so that a small gap can lie below its own interval."
                }
                None => { "The metrics hold no intervals: how far chance alone could move these figures is not known." }
            }
        }
    };
    Section { id: "summary", title: "In short", body }
}

fn fact(name: &str, value: &str, interval: Option<String>, words: &str) -> Markup {
    html! {
        div {
            dt { (name) }
            dd class="big" { (value) }
            @if let Some(interval) = interval { dd class="quiet" { (interval) } }
            dd { (words) }
        }
    }
}

/// The group with the lowest AUC of all: its attribute, and its name.
fn worst(model: &Model) -> Option<(&str, &AttributeMetrics, &str)> {
    let all = model.metrics.attributes.iter();
    let known = all.filter_map(|(name, a)| Some((name.as_str(), a, a.worst_group.as_deref()?, a.worst_auc?)));
    known.min_by(|a, b| a.3.total_cmp(&b.3)).map(|(name, a, group, _)| (name, a, group))
}

/// The attribute whose groups' AUCs are furthest apart.
fn widest(model: &Model) -> Option<(&str, &AttributeMetrics)> {
    let known = model.metrics.attributes.iter().filter_map(|(name, a)| Some((name.as_str(), a, a.auc_gap?)));
    known.max_by(|a, b| a.2.total_cmp(&b.2)).map(|(name, a, _)| (name, a))
}
