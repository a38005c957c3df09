//! Figures in words.

use crate::metrics::Intervals;
use serde_json::Value;

/// What stands for a figure that nothing defines.
pub(super) const UNDEFINED: &str = "–";

/// A figure to a thousandth.
pub(super) fn figure(value: Option<f64>) -> String {
    value.map_or(UNDEFINED.into(), |v| format!("{v:.3}"))
}

/// A share in percent.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or(UNDEFINED.into(), |s| format!("{:.1}%", 100.0 * s))
}

/// Both ends of an interval, as figures.
pub(super) fn between(interval: [f64; 2]) -> String {
    format!("{:.3}–{:.3}", interval[0], interval[1])
}

/// Both ends of an interval, in percent.
pub(super) fn percents(interval: [f64; 2]) -> String {
    format!("{:.1}–{:.1}%", 100.0 * interval[0], 100.0 * interval[1])
}

/// A figure with its interval, where there is one.
pub(super) fn with_interval(value: Option<f64>, interval: Option<[f64; 2]>) -> String {
    match (value, interval) {
        (Some(_), Some(interval)) => format!("{} ({})", figure(value), between(interval)),
        _ => figure(value),
    }
}

/// The interval of a figure, by its name.
pub(super) fn interval(intervals: &Intervals, name: &str) -> Option<[f64; 2]> {
    intervals.get(name).copied().filter(|[low, high]| low <= high)
}

/// A number of any size, to three digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if value == 0.0 => "0".into(),
        _ if (1e-3..1e5).contains(&size) => {
            let decimals = (2 - size.log10().floor() as i32).clamp(0, 5) as usize;
            format!("{value:.decimals$}")
        }
        _ => {
            let text = format!("{value:.2e}");
            text.split_once('e')
                .map_or(text.clone(), |(digits, power)| format!("{digits} × {}", ten_to(power.parse().unwrap_or(0))))
        }
    }
}

/// `10⁻⁸` of -8.
pub(super) fn ten_to(power: i32) -> String {
    let raised = |c: char| match c {
        '-' => '⁻',
        c => c.to_digit(10).and_then(|d| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(d as usize)).unwrap_or(c),
    };
    format!("10{}", power.to_string().chars().map(raised).collect::<String>())
}

/// A name from a file, as words: `equal_opportunity` is equal opportunity.
pub(super) fn plain(name: &str) -> String {
    name.replace(['_', '-'], " ")
}

/// The same, with a capital.
pub(super) fn capital(name: &str) -> String {
    let plain = plain(name);
    let mut letters = plain.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

/// `1 image`, `2 images`.
pub(super) fn count(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", thousands(n), if n == 1 { one } else { many })
}

/// A whole number with its thousands apart.
pub(super) fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Names in a sentence: `a`, `a and b`, `a, b and c`.
pub(super) fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// What a model is called, by its settings, or by its folder where those do not tell.
pub(super) fn model_name(settings: &Value, folder: &str) -> String {
    match settings.get("preset").and_then(Value::as_str) {
        Some("clip") => "Plain CLIP".into(),
        Some("fairclip") => "FairCLIP".into(),
        Some("fairclip-paper") => "FairCLIP, as its paper says".into(),
        Some("paper") => "Fair-MoE".into(),
        Some("authors") => "Fair-MoE, as its published code does".into(),
        Some(other) => other.to_owned(),
        None => folder.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [0.0, 1.0, 12.345, 0.00345, 3.1415e-8, 123456.0, -0.5].map(number);
        assert_eq!(shown, ["0", "1.00", "12.3", "0.00345", "3.14 × 10⁻⁸", "1.23 × 10⁵", "-0.500"]);
    }

    #[test]
    fn lists_and_thousands_read_as_people_write_them() {
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
        assert_eq!([7, 1000, 1234567].map(thousands), ["7", "1,000", "1,234,567"]);
        assert_eq!(capital("equal_opportunity"), "Equal opportunity");
    }
}
