//! Reports: complete, well-formed, safe, readable, the same every time. The recorded folder is what training and evaluation leave
//! behind, with figures of scikit-learn (`data/make_report.py`).
#![cfg(feature = "model")]

use fair_moe::report;
use scraper::{ElementRef, Html, Selector};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/report");

/// A copy of the recorded folder without some of its files, in a folder to be called `name`.
fn folder(name: &str, without: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join(name);
    fs::create_dir(&folder).unwrap();
    for file in fs::read_dir(RECORDED).unwrap().map(|entry| entry.unwrap().path()) {
        let file_name = file.file_name().unwrap();
        if !without.iter().any(|name| file_name == *name) {
            fs::copy(&file, folder.join(file_name)).unwrap();
        }
    }
    (above, folder)
}

fn edit(file: &Path, change: impl Fn(&str) -> String) {
    let text = fs::read_to_string(file).unwrap();
    let changed = change(&text);
    assert_ne!(text, changed, "the change changes nothing");
    fs::write(file, changed).unwrap();
}

/// The page, read as strictly as a browser never does.
fn page(path: &Path) -> Html {
    let html = Html::parse_document(&fs::read_to_string(path).unwrap());
    assert!(html.errors.is_empty(), "{:?}", html.errors);
    html
}

fn all<'a>(html: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    html.select(&Selector::parse(selector).unwrap()).collect()
}

fn text(element: ElementRef<'_>) -> String {
    element.text().collect::<Vec<_>>().join(" ")
}

fn whole(html: &Html) -> String {
    text(html.root_element())
}

/// Every file of a report, by its name.
fn written(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("figures")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(folder.join("report.html"));
    files.sort();
    files.into_iter().map(|file| (file.display().to_string(), fs::read(&file).unwrap())).collect()
}

#[test]
fn a_page_is_valid_and_needs_nothing_beside_itself() {
    let (_above, folder) = folder("paper", &[]);
    let path = report::write(&folder).unwrap();
    let source = fs::read_to_string(&path).unwrap();
    for outside in
        ["http", "//", "<script", "<link", "<img", "<iframe", "<object", "url(", "@import", "src=", "javascript", " on"]
    {
        let found = source.match_indices(outside).filter(|(at, _)| {
            outside != " on"
                || source[at + 3..]
                    .split('=')
                    .next()
                    .is_some_and(|name| name.len() < 12 && name.chars().all(|c| c.is_ascii_lowercase()))
        });
        assert_eq!(found.count(), 0, "{outside}");
    }
    let html = page(&path);
    assert_eq!(html.root_element().attr("lang"), Some("en"));
    assert_eq!(all(&html, "h1").len(), 1);
    assert_eq!(all(&html, "table").len(), all(&html, "table > caption").len());

    let mut level = 1;
    for heading in all(&html, "h1, h2, h3, h4, h5, h6") {
        let this: u32 = heading.value().name()[1..].parse().unwrap();
        assert!(this <= level + 1, "a heading of level {this} follows one of level {level}: {}", text(heading));
        level = this;
    }
    let ids: Vec<&str> = all(&html, "[id]").iter().map(|e| e.attr("id").unwrap()).collect();
    let distinct: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(distinct.len(), ids.len(), "an id stands twice");
    for named in all(&html, "[aria-labelledby]") {
        for id in named.attr("aria-labelledby").unwrap().split(' ') {
            assert!(distinct.contains(id), "nothing has the id {id}");
        }
    }
    for link in all(&html, "a") {
        assert!(distinct.contains(&link.attr("href").unwrap()[1..]), "{:?}", link.attr("href"));
    }
}

#[test]
fn every_figure_is_a_file_that_stands_alone_and_says_what_it_shows() {
    let (_above, folder) = folder("paper", &[]);
    let html = page(&report::write(&folder).unwrap());
    let shown = all(&html, "figure svg");
    let files: Vec<PathBuf> = fs::read_dir(folder.join("figures")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), shown.len());
    assert!(files.len() > 30, "{}", files.len());
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        assert_eq!(source.matches("http").count(), 1, "{} names more than its own format", file.display());
        let svg = roxmltree::Document::parse(&source).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let root = svg.root_element();
        for part in ["title", "desc"] {
            let said = root.children().find(|c| c.has_tag_name(("http://www.w3.org/2000/svg", part))).and_then(|c| c.text());
            assert!(said.is_some_and(|said| said.len() > 3), "{} has no {part}", file.display());
        }
        for number in svg
            .descendants()
            .flat_map(|n| n.attributes())
            .filter(|a| ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"].contains(&a.name()))
        {
            assert!(
                number.value().parse::<f64>().is_ok_and(f64::is_finite),
                "{}: {} = {}",
                file.display(),
                number.name(),
                number.value()
            );
        }
    }
}

#[test]
fn every_groups_numbers_are_told() {
    let (_above, folder) = folder("paper", &[]);
    let html = page(&report::write(&folder).unwrap());
    let metrics: Value = serde_json::from_str(&fs::read_to_string(folder.join("metrics.json")).unwrap()).unwrap();
    let table = |caption: &str| -> Vec<Vec<String>> {
        let found = all(&html, "table")
            .into_iter()
            .find(|t| text(t.select(&Selector::parse("caption b").unwrap()).next().unwrap()) == caption);
        let found = found.unwrap_or_else(|| panic!("there is no table {caption}"));
        let rows = Selector::parse("tbody tr").unwrap();
        let cells = Selector::parse("th, td").unwrap();
        found.select(&rows).map(|row| row.select(&cells).map(|cell| text(cell).trim().to_owned()).collect()).collect()
    };
    let figure = |g: &Value, name: &str| match (g[name].as_f64(), g["intervals"][name].as_array()) {
        (None, _) => "–".to_owned(),
        (Some(value), Some(ends)) => format!("{value:.3} {:.3}–{:.3}", ends[0].as_f64().unwrap(), ends[1].as_f64().unwrap()),
        (Some(value), None) => format!("{value:.3}"),
    };
    let mut undefined = 0;
    for (attribute, a) in metrics["attributes"].as_object().unwrap() {
        let rows = table(&format!("All figures by {attribute}"));
        assert_eq!(rows.len(), a["groups"].as_object().unwrap().len());
        for (row, (group, g)) in rows.iter().zip(a["groups"].as_object().unwrap()) {
            assert!(row[0].starts_with(group.as_str()), "{row:?}");
            assert_eq!(row[1..3], [g["samples"].to_string(), g["positives"].to_string()]);
            let figures =
                ["auc", "accuracy", "true_positive_rate", "false_positive_rate", "positive_rate", "calibration_error", "brier"];
            assert_eq!(row[3..], figures.map(|name| figure(g, name)), "{group}");
            undefined += usize::from(g["auc"].is_null());
        }
        let gaps = table("Gaps and equity-scaled figures");
        let row = gaps.iter().find(|row| row[0].to_lowercase() == *attribute).unwrap();
        let names = ["es_auc", "auc_gap", "equal_opportunity", "eod", "dpd", "calibration_gap", "es_acc"];
        assert_eq!(row[1..], names.map(|name| figure(a, name)), "{attribute}");
    }
    assert_eq!(undefined, 1, "the record has a group without an AUC");
    let told = whole(&html);
    assert!(told.contains("Undefined:") && told.contains("Few images:") && told.contains("16 images of unknown ethnicity"));
    assert!(told.contains("steer nothing; raise loss.lambda_dispersion"), "what training warned of");
    for (pair, p) in metrics["intersections"].as_object().unwrap() {
        for (group, g) in p["groups"].as_object().unwrap() {
            let rows = table("Figures by two attributes");
            let row = rows.iter().find(|row| row[0].starts_with(group.as_str())).unwrap_or_else(|| panic!("{pair}: {group}"));
            assert_eq!(row[1..4], [g["samples"].to_string(), g["positives"].to_string(), figure(g, "auc")]);
        }
    }
}

#[test]
fn names_from_files_are_text_and_nothing_else() {
    let hostile = r#"</style></title><script>alert('1')</script> & "x" <img src=x onerror=y>"#;
    let (_above, folder) = folder("<b>&\"model\"", &[]);
    let json = serde_json::to_string(hostile).unwrap();
    edit(&folder.join("metrics.json"), |t| {
        t.replace("\"Black\"", &json).replace("\"race\"", &json).replace("\"tiny\"", &json).replace("\"paper\"", "null")
    });
    edit(&folder.join("start.json"), |t| t.replace("\"clip\"", &json).replace("the dispersions are", "<script>"));
    edit(&folder.join("routing.json"), |t| t.replace("\"Black\"", &json).replace("\"vision_token\"", &json));
    edit(&folder.join("log.jsonl"), |t| t.replace("\"Black\"", &json).replace("\"race\"", &json));
    let html = page(&report::write(&folder).unwrap());
    for element in ["script", "img", "h1 b"] {
        assert!(all(&html, element).is_empty(), "<{element}> came from a name");
    }
    assert_eq!(all(&html, "style").len(), 1);
    assert!(text(all(&html, "h1")[0]).starts_with("<b>&\"model\""));
    assert!(whole(&html).matches(hostile).count() > 10);
    for (name, bytes) in written(&folder).into_iter().filter(|(name, _)| name.ends_with(".svg")) {
        let svg = String::from_utf8(bytes).unwrap();
        let svg = roxmltree::Document::parse(&svg).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!svg.descendants().any(|n| n.tag_name().name() == "script"), "{name}");
    }
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let (_above, folder) = folder("paper", &[]);
    report::write(&folder).unwrap();
    let first = written(&folder);
    report::write(&folder).unwrap();
    assert!(first == written(&folder));
}

#[test]
fn drawings_of_an_earlier_report_go_and_files_of_others_stay() {
    let (_above, first) = folder("paper", &[]);
    report::write(&first).unwrap();
    let many = written(&first).len();
    fs::remove_file(first.join("routing.json")).unwrap();
    report::write(&first).unwrap();
    let few = written(&first).len();
    assert!(few < many, "{few} of {many}");
    fs::write(first.join("figures/mine.svg"), "<svg/>").unwrap();
    report::write(&first).unwrap();
    assert_eq!(written(&first).len(), few + 1);
}

#[test]
fn who_was_left_out_is_told() {
    let (_above, folder) = folder("paper", &[]);
    let told = || whole(&page(&report::write(&folder).unwrap()));
    assert!(!told().contains("Not among them"));
    edit(&folder.join("metrics.json"), |text| text.replacen('{', r#"{"left_out": {"Validation": 3, "Test": 7},"#, 1));
    assert!(told().contains("Not among them are 7 test images of which race, gender, ethnicity or language is unknown."));
}

#[test]
fn a_plain_clip_has_no_routing_and_a_bare_folder_still_a_report() {
    let (_above, clip) = folder("clip", &["routing.json"]);
    let html = page(&report::write(&clip).unwrap());
    assert!(all(&html, "#routing").is_empty() && !all(&html, "#training").is_empty());
    assert!(!whole(&html).contains("Load of each expert"));

    let (_above, bare) = folder("bare", &["routing.json", "log.jsonl", "start.json", "settings.json"]);
    let html = page(&report::write(&bare).unwrap());
    assert!(all(&html, "#training").is_empty() && !all(&html, "#gaps").is_empty());
}

#[test]
fn a_model_that_cannot_tell_is_said_to() {
    let (_above, folder) = folder("paper", &[]);
    edit(&folder.join("metrics.json"), |t| {
        let mut metrics: Value = serde_json::from_str(t).unwrap();
        (metrics["auc"], metrics["intervals"]["auc"]) = (0.52.into(), vec![0.46, 0.58].into());
        metrics.to_string()
    });
    edit(&folder.join("predictions.csv"), |t| {
        let line = |line: &str| match line.split(',').collect::<Vec<_>>()[..] {
            [file, label @ ("0" | "1"), _, ref rest @ ..] => format!("{file},{label},0.6,{}", rest.join(",")),
            _ => line.to_owned(),
        };
        t.lines().map(line).collect::<Vec<_>>().join("\n")
    });
    let told = whole(&page(&report::write(&folder).unwrap()));
    assert!(told.contains("Perhaps no better than chance.") && told.contains("0.520 (0.460–0.580)"));
    assert!(told.contains("Every image is called positive."));
}

#[test]
fn models_side_by_side() {
    let (above, first) = folder("paper", &[]);
    let second = above.path().join("clip");
    fs::create_dir(&second).unwrap();
    for file in ["metrics.json", "predictions.csv"] {
        fs::copy(first.join(file), second.join(file)).unwrap();
    }
    edit(&second.join("metrics.json"), |t| t.replace("\"paper\"", "\"clip\""));
    let pages = report::write_all(&[above.path().to_owned()], None).unwrap();
    assert_eq!(pages, [second.join("report.html"), first.join("report.html"), above.path().join("report.html")]);
    let html = page(&pages[2]);
    let told = whole(&html);
    assert!(told.contains("Plain CLIP") && told.contains("Fair-MoE") && told.contains("2 models side by side"));
    assert!(!told.contains("Not the same images"));
    assert_eq!(all(&html, "#summary tbody tr").len(), 2);

    edit(&second.join("predictions.csv"), |t| {
        let mut lines: Vec<&str> = t.lines().collect();
        lines[1..].reverse();
        lines.join("\n")
    });
    let path = report::compare(&[first, second], above.path()).unwrap();
    assert!(whole(&page(&path)).contains("Not the same images"));
}

#[test]
fn what_is_no_model_is_refused_in_a_sentence() {
    let (above, model) = folder("paper", &[]);
    let why = |e: fair_moe::Error| e.to_string();
    assert!(
        why(report::compare(std::slice::from_ref(&model), above.path()).unwrap_err()).contains("two models at least, but 1 came")
    );
    edit(&model.join("predictions.csv"), |t| t.lines().take(10).collect::<Vec<_>>().join("\n"));
    assert!(
        why(report::write(&model).unwrap_err())
            .contains("predictions.csv: must be what metrics.json was measured on, 360 samples")
    );
    for (file, text, says) in [
        ("predictions.csv", "file,label\na,1\n", "the columns must be file,label,probability"),
        (
            "predictions.csv",
            "file,label,probability,race,gender,ethnicity,language\na,1,1.5,0,0,0,0\n",
            "from 0 to 1, but is \"1.5\"",
        ),
        ("log.jsonl", "{\"epoch\": -1}\n", "log.jsonl: line 1"),
        ("metrics.json", "{\"samples\": 1e999}", "metrics.json"),
    ] {
        let (_above, model) = folder("paper", &[]);
        fs::write(model.join(file), text).unwrap();
        let got = why(report::write(&model).unwrap_err());
        assert!(got.contains(says) && got.lines().count() == 1, "{got}");
        assert!(!model.join("report.html").exists());
    }
    fs::remove_dir_all(&model).unwrap();
    assert!(why(report::write_all(&[above.path().to_owned()], None).unwrap_err()).contains("holds a metrics.json"));
}

/// The colours of the light or the dark palette, by their names.
fn palette(css: &str, dark: bool) -> Vec<(String, [f64; 3])> {
    let part = css.split("@media").nth(usize::from(dark)).unwrap();
    let colour = |line: &str| {
        let (name, value) = line.trim().strip_prefix("--")?.strip_suffix(';')?.split_once(": #")?;
        let channel = |n: usize| f64::from(u8::from_str_radix(&value[2 * n..2 * n + 2], 16).unwrap()) / 255.0;
        Some((name.to_owned(), [channel(0), channel(1), channel(2)]))
    };
    part.lines().filter_map(colour).collect()
}

/// As WCAG 2 defines it.
fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
    let light = |c: [f64; 3]| 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]) + 0.05;
    let (a, b) = (light(a), light(b));
    a.max(b) / a.min(b)
}

#[test]
fn every_colour_stands_out_by_day_and_by_night() {
    let read = |name: &str| fs::read_to_string(format!("{}/src/report/{name}.css", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (css, styles) = (read("palette"), read("figure") + &read("page"));
    assert!(!styles.contains('#') && !styles.contains("rgb"), "a colour that is not in the palette");
    // Whatever colours text, by its declarations.
    let coloured = |property: &str| -> BTreeSet<String> {
        let found = styles
            .split(['{', ';', '}'])
            .filter_map(|d| d.trim().strip_prefix(property)?.strip_prefix(": var(--")?.strip_suffix(')'));
        found.map(str::to_owned).collect()
    };
    let texts = coloured("color");
    assert!(
        texts.len() >= 4 && texts.iter().all(|name| ["ink", "quiet", "accent", "alert"].contains(&name.as_str())),
        "{texts:?}"
    );
    for dark in [false, true] {
        let colours = palette(&css, dark);
        assert_eq!(colours.len(), 16);
        let of = |name: &str| colours.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no colour {name}")).1;
        let mut pairs = vec![
            ("ink", "heat", 4.5),
            ("ink", "accent-ground", 4.5),
            ("ink", "alert-ground", 4.5),
            ("quiet", "alert-ground", 4.5),
            ("accent", "accent-ground", 4.5),
            ("alert", "alert-ground", 4.5),
        ];
        for ground in ["paper", "card"] {
            pairs.extend(["ink", "quiet", "accent", "alert"].map(|text| (text, ground, 4.5)));
        }
        // Lines and markers: 3 is asked of what is no text.
        pairs.extend(["s0", "s1", "s2", "s3", "s4", "s5"].map(|series| (series, "card", 3.0)));
        for (text, ground, least) in pairs {
            let found = contrast(of(text), of(ground));
            assert!(found >= least, "{text} on {ground}, dark {dark}: {found:.2}");
        }
    }
}
