//! Metrics against recorded cases, figures of scikit-learn and fairlearn, and the meaning of undefined.
#![cfg(feature = "model")]

mod support;

use fair_moe::metrics::{Attribute, Metrics, evaluate};
use support::{Case, assert_close};

const LETTERS: [&str; 3] = ["a", "b", "c"];

fn close(what: &str, got: Option<f64>, want: f64) {
    assert_close(what, &[got.unwrap_or_else(|| panic!("{what} is undefined"))], &[want], 1e-10);
}

#[test]
fn recorded_case() {
    let case = Case::load("metrics");
    let samples = case.size("samples");
    let label: Vec<u8> = case.get("label").iter().map(|&y| y as u8).collect();
    let values: Vec<i8> = case.get("attributes").iter().map(|&v| v as i8).collect();
    let names = ["race", "gender", "ethnicity", "language"];
    let count = |v: &[i8]| 1 + *v.iter().max().unwrap() as usize;
    let attribute = |(name, values)| Attribute { name, groups: &LETTERS[..count(values)], values };
    let attributes: Vec<_> = names.into_iter().zip(values.chunks_exact(samples)).map(attribute).collect();

    let metrics = evaluate(case.get("probability"), &label, &attributes).unwrap();
    close("auc", metrics.auc, case.get("auc")[0]);
    close("accuracy", Some(metrics.accuracy), case.get("accuracy")[0]);
    for (i, name) in names.into_iter().enumerate() {
        let got = &metrics.attributes[name];
        let want = |figure: &str| case.get(&format!("attr{i}.{figure}"));
        let figures = [
            ("es_auc", got.es_auc),
            ("es_acc", got.es_acc),
            ("dpd", got.dpd),
            ("eod", got.eod),
            ("disparity_std", got.disparity_std),
            ("disparity_max", got.disparity_max),
        ];
        for (figure, value) in figures {
            close(&format!("{name} {figure}"), value, want(figure)[0]);
        }
        let aucs: Vec<f64> = got.group_auc.values().map(|auc| auc.unwrap()).collect();
        assert_close(&format!("{name} group_auc"), &aucs, want("group_auc"), 1e-10);
    }
}

const PROBABILITY: [f64; 12] = [0.2, 0.5, 0.8, 0.5, 0.4, 0.1, 0.9, 0.6, 0.5, 0.3, 0.5, 0.7];
const GROUP: [i8; 12] = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2];

fn small(label: &[u8; 12]) -> Metrics {
    evaluate(&PROBABILITY, label, &[Attribute { name: "letter", groups: &LETTERS, values: &GROUP }]).unwrap()
}

/// The figures of scikit-learn 1.5.2 and fairlearn 0.9.0.
#[test]
fn small_case_with_ties() {
    let metrics = small(&[0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1]);
    let letter = &metrics.attributes["letter"];
    close("auc", metrics.auc, 29.0 / 36.0);
    close("accuracy", Some(metrics.accuracy), 2.0 / 3.0);
    for (name, auc) in [("a", 0.875), ("b", 0.75), ("c", 0.875)] {
        close(name, letter.group_auc[name], auc);
    }
    close("dpd", letter.dpd, 0.25);
    close("eod", letter.eod, 0.5);
    close("es_acc", letter.es_acc, 0.5);
    assert!((letter.es_auc.unwrap() - 0.6744186).abs() < 1e-7);
    assert!((letter.disparity_std.unwrap() - 0.0731490).abs() < 1e-7);
    assert!((letter.disparity_max.unwrap() - 0.1551724).abs() < 1e-7);
    assert!(letter.undefined.is_empty());
}

#[test]
fn group_without_positives_is_undefined() {
    let metrics = small(&[0, 1, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0]);
    let letter = &metrics.attributes["letter"];
    let c = &letter.groups["c"];
    assert_eq!((c.samples, c.positives, c.auc, c.true_positive_rate), (4, 0, None, None));
    assert_eq!(letter.undefined, ["c"]);
    // What is left compares a and b alone: their AUCs, and the true positive rates 1 and 0.5.
    let auc = metrics.auc.unwrap();
    close("es_auc", letter.es_auc, auc / (1.0 + (0.875 - auc).abs() + (0.75 - auc).abs()));
    close("equal opportunity", letter.equal_opportunity, 0.5);
    let json = serde_json::to_value(&metrics).unwrap();
    assert!(json["attributes"]["letter"]["group_auc"]["c"].is_null());
    assert_eq!(json["attributes"]["letter"]["groups"]["c"]["samples"], 4);
}

#[test]
fn nothing_to_compare_is_undefined_and_never_zero() {
    let one = Attribute { name: "letter", groups: &LETTERS, values: &[0, 0, -1] };
    let metrics = evaluate(&[0.1, 0.9, 0.4], &[0, 1, 0], &[one]).unwrap();
    let letter = &metrics.attributes["letter"];
    assert_eq!((letter.dpd, letter.eod, letter.equal_opportunity, letter.disparity_max), (None, None, None, None));
    assert_eq!((letter.unknown, letter.groups["b"].samples), (1, 0));
    let metrics = evaluate(&[0.1, 0.9], &[1, 1], &[]).unwrap();
    assert_eq!((metrics.auc, metrics.accuracy), (None, 0.5));
}

#[test]
fn same_bytes_every_time() {
    let text = || serde_json::to_string_pretty(&small(&[0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1])).unwrap();
    assert_eq!(text(), text());
}

#[test]
fn bad_input_is_named() {
    let message = |p: &[f64], y: &[u8], values: &[i8]| {
        evaluate(p, y, &[Attribute { name: "letter", groups: &LETTERS, values }]).unwrap_err().to_string()
    };
    assert_eq!(message(&[], &[], &[]), "there are no samples to measure");
    assert_eq!(message(&[0.1, f64::NAN], &[0, 1], &[0, 0]), "the probabilities must be from 0 to 1, but number 1 is NaN");
    assert_eq!(message(&[0.1, 0.2], &[0, 2], &[0, 0]), "the labels must be 0 or 1, but number 1 is 2");
    assert!(message(&[0.1], &[0, 1], &[0, 0]).contains("the probabilities must have shape [2]"));
    assert!(message(&[0.1, 0.2], &[0, 1], &[0]).contains("the attribute letter must have shape [2]"));
    assert!(message(&[0.1, 0.2], &[0, 1], &[0, 3]).contains("number 1 is 3"));
    assert!(message(&[0.1, 0.2], &[0, 1], &[0, -2]).contains("number 1 is -2"));
    let race = Attribute { name: "race", groups: &["Asian", "Black"], values: &[0] };
    let message = |attributes: &[Attribute<'_>]| evaluate(&[0.1], &[0], attributes).unwrap_err().to_string();
    assert_eq!(message(&[race, race]), "two attributes are called race");
    let groups = &["Asian", "Black", "Asian"];
    assert_eq!(message(&[Attribute { groups, ..race }]), "two groups of the attribute race are called Asian");
}
