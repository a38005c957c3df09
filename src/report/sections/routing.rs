//! Where the mixtures send each group. A plain CLIP has none.

use super::named;
use crate::eval::{Load, MixtureRouting};
use crate::report::input::Model;
use crate::report::page::{Figures, Section, table};
use crate::report::plot::{Figure, Heat, HeatRow};
use crate::report::words::{capital, percent, plain, ten_to, thousands};
use maud::{Markup, html};

pub(super) fn section(model: &Model, figures: &mut Figures) -> Option<Section> {
    let routing = model.routing.as_ref()?;
    let mut mixtures: Vec<(&String, &MixtureRouting)> = routing.mixtures.iter().collect();
    mixtures.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
    let body = html! {
        p {
            "The model sends parts of each image and each text to experts of its own choosing. If a group’s row looks unlike the others, the "
            "model treats that group by other means: that need not be unfair, but it is where to look. Capacity limits how much an expert "
            "takes; what it drops is lost to that expert."
        }
        @for (name, mixture) in &mixtures {
            h3 { (title(name)) @if !mixture.input.is_empty() { span class="quiet" { ", given " (plain(&mixture.input)) } } }
            div class="figures" {
                (figures.show(load(name, mixture), &format!("Percent of what the experts get. Alike for all would be {:.0}.", 100.0 / mixture.experts.max(1) as f64)))
                (figures.show(dispersion(name, mixture), "Variance of the gate’s weights: what the fairness loss wants alike for all groups."))
                (numbers(name, mixture))
            }
        }
    };
    (!mixtures.is_empty()).then_some(Section { id: "routing", title: "Inside the mixtures", body })
}

/// In the order in which a model has them; others, which it does not know, after those.
const ORDER: [&str; 4] = ["vision_token", "text_token", "vision_feature", "text_feature"];

/// `vision_token` is the image tower's mixture over patches.
fn title(name: &str) -> String {
    match name {
        "vision_token" => "Image patches".into(),
        "text_token" => "Words".into(),
        "vision_feature" => "Image as a whole".into(),
        "text_feature" => "Text as a whole".into(),
        other => capital(other),
    }
}

/// All samples, and each attribute's groups under its name.
fn lines(mixture: &MixtureRouting) -> Vec<(String, Option<&Load>)> {
    let mut lines = vec![("All".to_owned(), Some(&mixture.all))];
    for (attribute, groups) in &mixture.attributes {
        lines.push((capital(attribute), None));
        lines.extend(groups.iter().map(|(group, load)| (group.clone(), Some(load))));
    }
    lines
}

fn heat(
    name: [&str; 2],
    title: String,
    over: String,
    mixture: &MixtureRouting,
    of: impl Fn(&Load) -> &[f64],
    written: impl Fn(f64) -> String,
) -> Figure {
    let rows = lines(mixture).into_iter().map(|(label, load)| {
        let values = load.map_or(&[][..], &of);
        let cell = |e: usize| values.get(e).map(|v| (*v, written(*v)));
        HeatRow { label, cells: if load.is_some() { (0..mixture.experts).map(cell).collect() } else { vec![] } }
    });
    let rows: Vec<HeatRow> = rows.collect();
    let told = rows.iter().filter(|row| !row.cells.is_empty()).map(|row| {
        let cells: Vec<&str> = row.cells.iter().map(|cell| cell.as_ref().map_or("undefined", |(_, text)| text)).collect();
        format!("{}: {}", row.label, cells.join(", "))
    });
    let about = format!("{over}, a row for each group and a column for each expert. {}.", told.collect::<Vec<_>>().join("; "));
    let columns = (1..=mixture.experts).map(|e| e.to_string()).collect();
    Heat { name: named(&name), title, about, over, columns, rows }.draw()
}

/// Where pairs go; or, where every expert keeps every row, whose word weighs how much.
fn load(name: &str, mixture: &MixtureRouting) -> Figure {
    let keeps_all = mixture.all.load.windows(2).all(|pair| pair[0] == pair[1]);
    let (what, of): (&str, fn(&Load) -> &[f64]) =
        if keeps_all { ("Weight", |load| &load.importance) } else { ("Load", |load| &load.load) };
    let title = format!("{what} of each expert: {}", title(name).to_lowercase());
    heat(["load", name], title, "expert; percent of each row".into(), mixture, of, |v| format!("{:.0}", 100.0 * v))
}

fn dispersion(name: &str, mixture: &MixtureRouting) -> Figure {
    let all = lines(mixture).into_iter().filter_map(|(_, load)| load).flat_map(|load| load.dispersion.iter().copied());
    let largest = all.fold(0.0, f64::max);
    // Two digits fit a cell: all share one power of ten.
    let power = if largest > 0.0 { largest.log10().floor() as i32 - 1 } else { 0 };
    let unit = 10f64.powi(power);
    let title = format!("Dispersion of each expert: {}", title(name).to_lowercase());
    let over = format!("expert; variance × {}", ten_to(power));
    heat(["dispersion", name], title, over, mixture, |load| &load.dispersion, |v| format!("{:.0}", v / unit))
}

fn numbers(name: &str, mixture: &MixtureRouting) -> Markup {
    let most = (mixture.experts.max(1) as f64).ln();
    let rows = html! {
        thead {
            tr { th scope="col" { "Group" } th scope="col" { "Images" } th scope="col" { "Dropped by capacity" } th scope="col" { "Entropy of the gate" } }
        }
        tbody {
            @for (label, load) in lines(mixture) {
                @match load {
                    Some(load) => tr {
                        th scope="row" { (label) } td { (thousands(load.samples)) } td { (percent(load.dropped)) }
                        td { (crate::report::words::figure(load.entropy)) }
                    },
                    None => tr { th scope="rowgroup" colspan="4" { (label) } },
                }
            }
        }
    };
    let note = format!("Entropy goes from 0, one expert for all, to {most:.2}, every expert alike.");
    table(&format!("Drop rate and entropy: {}", title(name).to_lowercase()), &note, rows)
}
