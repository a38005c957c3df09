//! Calibration, intervals, intersections and thresholds against figures of scikit-learn and NumPy (tests/data/make_audit.py).
#![cfg(feature = "model")]

mod support;

use fair_moe::metrics::{Answers, Attribute, AttributeMetrics, Bootstrap, Metrics, audit, calibration, evaluate, roc};
use support::{Case, assert_close, on_threads};

const ATTRIBUTES: [(&str, &[&str]); 3] =
    [("race", &["Asian", "Black", "White"]), ("gender", &["Female", "Male"]), ("language", &["English", "Spanish", "Other"])];

/// One split of the recorded samples.
struct Split {
    probability: Vec<f64>,
    label: Vec<u8>,
    values: Vec<Vec<i8>>,
}

impl Split {
    fn of(case: &Case, name: &str) -> Self {
        let label: Vec<u8> = case.get(&format!("{name}.label")).iter().map(|&y| y as u8).collect();
        let values = case.get(&format!("{name}.attributes")).chunks_exact(label.len());
        let values = values.map(|values| values.iter().map(|&v| v as i8).collect()).collect();
        Self { probability: case.get(&format!("{name}.probability")).to_vec(), label, values }
    }

    fn attributes(&self) -> Vec<Attribute<'_>> {
        ATTRIBUTES.iter().zip(&self.values).map(|(&(name, groups), values)| Attribute { name, groups, values }).collect()
    }
}

fn audited(case: &Case, bootstrap: &Bootstrap) -> Metrics {
    let (test, validation) = (Split::of(case, "test"), Split::of(case, "validation"));
    let (a, b) = (test.attributes(), validation.attributes());
    let test = Answers { probability: &test.probability, label: &test.label, attributes: &a };
    let validation = Answers { probability: &validation.probability, label: &validation.label, attributes: &b };
    audit(&test, Some(&validation), bootstrap).unwrap()
}

const FEW: Bootstrap = Bootstrap { resamples: 20, level: 0.95, seed: 3 };

#[track_caller]
fn close(what: &str, got: Option<f64>, want: &[f64]) {
    assert_close(what, &[got.unwrap_or_else(|| panic!("{what} is undefined"))], want, 1e-10);
}

fn spread_is_as_recorded(case: &Case, name: &str, found: &AttributeMetrics) {
    for (figure, value) in [
        ("es_auc", found.es_auc),
        ("dpd", found.dpd),
        ("eod", found.eod),
        ("equal_opportunity", found.equal_opportunity),
        ("auc_gap", found.auc_gap),
        ("worst_auc", found.worst_auc),
        ("calibration_gap", found.calibration_gap),
    ] {
        close(&format!("{name} {figure}"), value, case.get(&format!("{name}.{figure}")));
    }
    let worst = found.worst_group.as_ref().unwrap();
    assert_eq!(found.group_auc[worst], found.worst_auc);
}

#[test]
fn calibration_and_roc_are_those_of_scikit_learn() {
    let case = Case::load("audit");
    let test = Split::of(&case, "test");
    let metrics = evaluate(&test.probability, &test.label, &test.attributes()).unwrap();
    close("calibration error", Some(metrics.calibration_error), case.get("calibration_error"));
    close("Brier score", Some(metrics.brier), case.get("brier"));
    for (name, groups) in ATTRIBUTES {
        let of = |g: &&str| &metrics.attributes[name].groups[*g];
        let errors: Vec<f64> = groups.iter().map(|g| of(g).calibration_error.unwrap()).collect();
        assert_close(name, &errors, case.get(&format!("{name}.calibration_errors")), 1e-10);
        let briers: Vec<f64> = groups.iter().map(|g| of(g).brier.unwrap()).collect();
        assert_close(name, &briers, case.get(&format!("{name}.briers")), 1e-10);
        spread_is_as_recorded(&case, name, &metrics.attributes[name]);
    }
    let bins = calibration(&test.probability, &test.label).unwrap();
    assert_close("shares", &bins.iter().map(|b| b.positive).collect::<Vec<_>>(), case.get("calibration.positive"), 1e-10);
    assert_close("means", &bins.iter().map(|b| b.probability).collect::<Vec<_>>(), case.get("calibration.probability"), 1e-10);
    assert_close("counts", &bins.iter().map(|b| b.samples as f64).collect::<Vec<_>>(), case.get("calibration.samples"), 0.0);
    let points = roc(&test.probability, &test.label).unwrap();
    assert_close("fpr", &points.iter().map(|p| p.false_positive_rate).collect::<Vec<_>>(), case.get("roc.fpr"), 1e-12);
    assert_close("tpr", &points.iter().map(|p| p.true_positive_rate).collect::<Vec<_>>(), case.get("roc.tpr"), 1e-12);
    assert_close("thresholds", &points.iter().filter_map(|p| p.threshold).collect::<Vec<_>>(), case.get("roc.thresholds"), 0.0);
}

#[test]
fn intersections_tell_of_small_groups_how_many_they_are_and_nothing_else() {
    let case = Case::load("audit");
    let metrics = audited(&case, &FEW);
    for (i, (a, first)) in ATTRIBUTES.into_iter().enumerate() {
        for (b, second) in &ATTRIBUTES[i + 1..] {
            let name = format!("{a} x {b}");
            let found = &metrics.intersections[&name];
            spread_is_as_recorded(&case, &name, found);
            let cells: Vec<String> = first.iter().flat_map(|x| second.iter().map(move |y| format!("{x} x {y}"))).collect();
            let counts: Vec<f64> =
                cells.iter().flat_map(|c| [found.groups[c].samples, found.groups[c].positives]).map(|n| n as f64).collect();
            assert_close(&name, &counts, case.get(&format!("{name}.counts")), 0.0);
            let small: Vec<&str> = case.get(&format!("{name}.small")).iter().map(|&c| &*cells[c as usize]).collect();
            assert_eq!(found.small, small);
            for cell in &found.small {
                let group = &found.groups[cell];
                assert!(
                    group.figures().iter().all(|(_, figure)| figure.is_none()) && group.intervals.is_empty(),
                    "{cell} is told"
                );
            }
        }
    }
    assert_eq!(metrics.intersections.len(), 3);
    assert!(!metrics.intersections["race x language"].small.is_empty());
    // Of an attribute on its own everything published is told, and a small group named.
    let language = &metrics.attributes["language"];
    assert_eq!(language.small, ["Other"]);
    assert!(language.groups["Other"].auc.is_some());
}

#[test]
fn thresholds_are_those_that_trying_all_gives() {
    let case = Case::load("audit");
    let metrics = audited(&case, &FEW);
    for (name, groups) in ATTRIBUTES {
        let choices = &metrics.thresholds[name];
        assert_eq!(choices["published"].threshold, 0.5);
        assert_eq!(choices["published"].dpd, metrics.attributes[name].dpd);
        close("youden", Some(choices["youden"].threshold), case.get("youden"));
        for kind in ["equal_opportunity", "demographic_parity"] {
            let found = &choices[kind];
            let own: Vec<f64> = groups.iter().map(|g| found.groups[*g]).collect();
            assert_close(&format!("{name} {kind}"), &own, case.get(&format!("thresholds.{name}.{kind}")), 1e-12);
            let after = [Some(found.accuracy), found.dpd, found.eod, found.equal_opportunity].map(Option::unwrap);
            assert_close(&format!("{name} {kind}"), &after, case.get(&format!("thresholds.{name}.{kind}.after")), 1e-10);
        }
    }
    assert_eq!(metrics.thresholds["language"]["equal_opportunity"].small, ["Other"]);
}

/// NumPy drew other resamples, so the ends of intervals differ by chance: by at most 4.5 standard errors of both.
#[test]
fn intervals_are_those_of_other_resamples_in_numpy() {
    let case = Case::load("audit");
    let metrics = audited(&case, &Bootstrap { resamples: case.size("resamples"), level: case.number("level"), seed: 1 });
    let check = |name: &str,
                 found: &std::collections::BTreeMap<String, [f64; 2]>,
                 figures: &[&str],
                 figure_of: &dyn Fn(&str) -> String| {
        for recorded in figures {
            let got = found[&figure_of(recorded)];
            let (want, error) = case.get(&format!("interval.{name}.{recorded}")).split_at(2);
            for end in 0..2 {
                let bound = 4.5 * 2f64.sqrt() * error[end] + 1e-9;
                assert!((got[end] - want[end]).abs() <= bound, "{name} {recorded}: {got:?}, and NumPy's {want:?} ± {error:?}");
                assert!(error[end] < 0.1 * (want[1] - want[0]), "{name} {recorded} has an error too large to tell anything");
            }
        }
    };
    let same = |figure: &str| figure.to_owned();
    check("all", &metrics.intervals, &["auc", "accuracy", "calibration_error", "brier"], &same);
    let race = &metrics.attributes["race"];
    let figures = ["es_auc", "dpd", "eod", "equal_opportunity", "auc_gap", "worst_auc", "calibration_gap"];
    check("race", &race.intervals, &figures, &same);
    check("race", &race.groups["Asian"].intervals, &["Asian"], &|_| "auc".to_owned());
}

/// Of 200 sets of samples whose AUC is known, the interval misses it about 1 time in 20.
#[test]
fn intervals_hold_the_truth_as_often_as_they_say() {
    // Positives u are uniform in 0 to 1, negatives v² of such a v: P(u > v²) = 1 - E[v²] = 2/3.
    let mut missed = 0;
    for set in 0..200 {
        let drawn: Vec<f64> = support::uniform(set, 120).iter().map(|u| (u + 1.0) / 2.0).collect();
        let label: Vec<u8> = (0..120).map(|i| u8::from(i < 50)).collect();
        let probability: Vec<f64> = drawn.iter().zip(&label).map(|(u, y)| if *y == 1 { *u } else { u * u }).collect();
        let answers = Answers { probability: &probability, label: &label, attributes: &[] };
        let found = audit(&answers, None, &Bootstrap { resamples: 300, level: 0.95, seed: set }).unwrap();
        let [low, high] = found.intervals["auc"];
        missed += usize::from(!(low..=high).contains(&(2.0 / 3.0)));
    }
    // 10 expected; beyond these once in about ten thousand such tests.
    assert!((1..=23).contains(&missed), "{missed} of 200 missed");
}

#[test]
fn equal_input_gives_equal_bytes_on_any_number_of_threads_and_json_gives_back_what_it_was_given() {
    let case = Case::load("audit");
    let json = |threads| on_threads(threads, || serde_json::to_string(&audited(&case, &FEW)).unwrap());
    assert_eq!(json(1), json(5));
    let metrics = audited(&case, &FEW);
    let back: Metrics = serde_json::from_str(&serde_json::to_string_pretty(&metrics).unwrap()).unwrap();
    assert_eq!(back, metrics);
    let other = audited(&case, &Bootstrap { seed: 4, ..FEW });
    assert!(other.intervals != metrics.intervals && other.auc == metrics.auc);
}

#[test]
fn what_is_undefined_has_no_interval_and_one_class_gives_no_curve() {
    let letters: [&str; 2] = ["a", "b"];
    let values = [0, 0, 0, 1, 1];
    let attributes = [Attribute { name: "letter", groups: &letters, values: &values }];
    let answers = Answers { probability: &[0.2, 0.7, 0.6, 0.4, 0.9], label: &[0, 1, 0, 1, 1], attributes: &attributes };
    let found = audit(&answers, Some(&answers), &FEW).unwrap();
    let b = &found.attributes["letter"].groups["b"];
    assert!(b.auc.is_none() && !b.intervals.contains_key("auc") && b.intervals.contains_key("true_positive_rate"));
    assert!(!found.attributes["letter"].intervals.contains_key("auc_gap"));
    assert!(roc(&[0.2, 0.3], &[1, 1]).unwrap().is_empty());
    let one_class = Answers { label: &[1; 5], ..answers };
    let found = audit(&one_class, Some(&one_class), &FEW).unwrap();
    assert_eq!(found.thresholds["letter"].keys().collect::<Vec<_>>(), ["published"]);

    let message = |bootstrap: Bootstrap| audit(&answers, None, &bootstrap).unwrap_err().to_string();
    assert!(message(Bootstrap { resamples: 0, ..FEW }).contains("the number of resamples must be from 1"));
    assert!(message(Bootstrap { level: 1.0, ..FEW }).contains("the intervals' level must be between 0 and 1"));
    let others = Answers { attributes: &[], ..answers };
    assert!(audit(&answers, Some(&others), &FEW).unwrap_err().to_string().contains("letter"));
}
