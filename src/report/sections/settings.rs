//! Every setting.

use crate::report::input::Model;
use crate::report::page::{Section, table};
use maud::html;
use serde_json::Value;

pub(super) fn section(model: &Model) -> Option<Section> {
    let mut settings = Vec::new();
    flatten("", &model.settings, &mut settings);
    let rows = html! {
        thead { tr { th scope="col" { "Setting" } th scope="col" class="words" { "Value" } } }
        tbody class="settings" { @for (name, value) in &settings { tr { th scope="row" { code { (name) } } td { (value) } } } }
    };
    let body = html! {
        p { "With these settings, the same data and the same version, training gives the same model." }
        details { summary { "All " (settings.len()) " settings" } (table("Settings of this model", "", rows)) }
    };
    (!settings.is_empty()).then_some(Section { id: "settings", title: "Settings", body })
}

/// Each value that holds no others, under its whole name, such as `loss.lambda_dispersion`.
fn flatten(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
    let inner = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(all) => all.iter().for_each(|(key, value)| flatten(&inner(key), value, into)),
        Value::Array(all) if all.iter().any(Value::is_object) => {
            all.iter().enumerate().for_each(|(n, value)| flatten(&inner(&(n + 1).to_string()), value, into));
        }
        Value::Null if name.is_empty() => {}
        Value::String(text) => into.push((name.to_owned(), text.clone())),
        other => into.push((name.to_owned(), other.to_string())),
    }
}
