//! The configuration as it takes effect: the file, the defaults of the keys that are not in it, and absolute paths.
//!
//! Made from the schema, so that a key that is added there is shown without further ado.

use std::path::Path;

use serde_json::{Map, Value};

use crate::worker;

use super::cpu::show_list;

/// What `written` means under `schema`, for the eyes of the operator. Relative paths start at `directory`; the workers
/// are those that were found.
pub(super) fn effective(written: &Value, schema: &Value, directory: &Path, workers: &worker::Settings) -> Value {
    let mut shown = Map::new();
    for (name, section) in schema["properties"].as_object().into_iter().flatten() {
        // A section that is absent has its defaults all the same; a list of sections is empty then.
        let value = match written.get(name) {
            None if section["type"] == "object" => Some(Value::Object(Map::new())),
            value => value.cloned(),
        };
        shown.extend(value.map(|value| (name.clone(), show(&value, section, directory))));
    }
    let mut shown = Value::Object(shown);
    if let Some(section) = shown.get_mut("workers") {
        section["count"] = workers.cpus.len().into();
        section["cpus"] = show_list(&workers.cpus).into();
    }
    shown
}

fn show(written: &Value, schema: &Value, directory: &Path) -> Value {
    match written {
        Value::Object(table) => {
            let mut shown = Map::new();
            for (name, key) in schema["properties"].as_object().into_iter().flatten() {
                let value = table.get(name).map(|value| show(value, key, directory));
                shown.extend(value.or_else(|| key.get("default").cloned()).map(|value| (name.clone(), value)));
            }
            Value::Object(shown)
        }
        Value::Array(items) => items.iter().map(|item| show(item, &schema["items"], directory)).collect(),
        Value::String(text) => match (schema["x-unit"].as_str(), text.split_once("unix:")) {
            (Some("path"), _) => absolute(directory, text).into(),
            (Some(_), Some(("", path))) => format!("unix:{}", absolute(directory, path)).into(),
            _ => text.as_str().into(),
        },
        other => other.clone(),
    }
}

fn absolute(directory: &Path, path: &str) -> String {
    directory.join(path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_keys_have_their_defaults_and_paths_are_absolute() {
        let schema = json!({ "properties": {
            "server": { "type": "object", "properties": {
                "timeout": { "type": "string", "default": "30s" },
                "file": { "type": "string", "x-unit": "path" },
            } },
            "workers": { "type": "object", "properties": { "count": { "default": "auto" } } },
            "backend": { "type": "array", "items": { "type": "object", "properties": {
                "servers": { "type": "array", "items": { "type": "string", "x-unit": "server" } },
                "mode": { "default": "off" },
            } } },
            "listener": { "type": "array" },
        } });
        let written = json!({
            "server": { "file": "a.pem" },
            "backend": [{ "servers": ["127.0.0.1:1", "unix:b.sock", "unix:/c"] }],
        });
        let workers = worker::Settings::for_cpus(vec![0, 1, 5]);
        let expected = json!({
            "server": { "file": "/etc/sluice/a.pem", "timeout": "30s" },
            "workers": { "count": 3, "cpus": "0-1,5" },
            "backend": [{ "servers": ["127.0.0.1:1", "unix:/etc/sluice/b.sock", "unix:/c"], "mode": "off" }],
        });
        assert_eq!(effective(&written, &schema, Path::new("/etc/sluice"), &workers), expected);
    }
}
