//! Cases of kinds `metrics` and `preprocess`.

use super::{Case, Results, check_room};
use crate::data::{Image, preprocess as pixels_of};
use crate::error::{Error, Result};
use crate::metrics::{Attribute, evaluate};

/// The published figures; one that is undefined comes out as NaN.
pub(super) fn metrics(case: &mut Case) -> Result<Results> {
    let samples = case.size("samples")?;
    let count = case.list("attributes")?.len();
    let probability: Vec<f64> = case.floats("probability", &[samples])?;
    let label: Vec<u8> = case.integers("label", &[samples])?.iter().map(|&y| u8::try_from(y).unwrap_or(u8::MAX)).collect();
    let values = case.integers("attributes", &[count, samples])?;

    let attributes = values.chunks_exact(samples).enumerate().map(|(i, values)| Groups::of(case, i, values));
    let attributes = attributes.collect::<Result<Vec<Groups>>>()?;
    let names: Vec<Vec<&str>> = attributes.iter().map(|a| a.names.iter().map(String::as_str).collect()).collect();
    let views = attributes.iter().zip(&names).map(|(a, groups)| Attribute { name: &a.attribute, groups, values: &a.values });
    let found = evaluate(&probability, &label, &views.collect::<Vec<_>>()).map_err(|why| case.error(why))?;

    let mut results = Results::default();
    let undefined = |figure: Option<f64>| figure.unwrap_or(f64::NAN);
    results.put_number("auc", undefined(found.auc));
    results.put_number("accuracy", found.accuracy);
    for a in &attributes {
        let figures = &found.attributes[&a.attribute];
        let group_auc: Vec<f64> = a.names.iter().map(|name| undefined(figures.group_auc[name])).collect();
        results.put(format!("{}.group_auc", a.attribute), &[group_auc.len()], &group_auc);
        for (name, figure) in [
            ("es_auc", figures.es_auc),
            ("es_acc", figures.es_acc),
            ("dpd", figures.dpd),
            ("eod", figures.eod),
            ("disparity_std", figures.disparity_std),
            ("disparity_max", figures.disparity_max),
        ] {
            results.put_number(format!("{}.{name}", a.attribute), undefined(figure));
        }
    }
    Ok(results)
}

/// One attribute, its groups renumbered from 0: those present, ascending.
struct Groups {
    /// `attr{i}`.
    attribute: String,
    names: Vec<String>,
    values: Vec<i8>,
}

impl Groups {
    fn of(case: &Case, i: usize, ids: &[i64]) -> Result<Groups> {
        let mut present: Vec<i64> = ids.iter().copied().filter(|&id| id != -1).collect();
        present.sort_unstable();
        present.dedup();
        if let Some(index) = ids.iter().position(|&id| id < -1) {
            let expected = "-1 for unknown, or a group's number from 0".into();
            return Err(case.error(Error::Value { what: "attributes", expected, index, got: ids[index].to_string() }));
        }
        if present.len() > i8::MAX as usize {
            return Err(case.error(format!("an attribute must have at most {} groups, but has {}", i8::MAX, present.len())));
        }
        let number = |id: &i64| present.binary_search(id).map_or(-1, |g| g as i8);
        let values = ids.iter().map(number).collect();
        Ok(Groups { attribute: format!("attr{i}"), names: present.iter().map(i64::to_string).collect(), values })
    }
}

/// An image as the model sees it.
pub(super) fn preprocess(case: &mut Case) -> Result<Results> {
    let size = case.size("size")?;
    // Before anything of that size is made: a setting can ask for far more than the file holds.
    if !case.agrees("pixels", &[3, size, size])? {
        check_room::<f64>("the pixels", &[size, size, 3])?;
    }
    let shape = case.shape("image", 2)?;
    let grey: Vec<f32> = case.integers("image", &shape)?.iter().map(|&v| v as f32).collect();
    let pixels = pixels_of(&Image { height: shape[0], width: shape[1], pixels: grey }, size).map_err(|why| case.error(why))?;
    let mut results = Results::default();
    results.put("pixels", &[3, size, size], &pixels);
    Ok(results)
}
