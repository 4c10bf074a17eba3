//! Tables and plots of a comparison, from its JSON form alone: an old `compare.json` can be drawn anew.

pub mod page;
pub mod plot;
pub mod table;
pub mod words;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::compare::schema::{Comparison, SCHEMA_VERSION};

/// Writes `compare.json`, `table.md` and `index.html` into `directory`, which is made if needed.
pub fn write(comparison: &Comparison, directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let mut json = serde_json::to_vec_pretty(comparison).context("cannot write the comparison as JSON")?;
    json.push(b'\n');
    let files = [
        ("compare.json", json),
        ("table.md", table::markdown(comparison).into_bytes()),
        ("index.html", page::page(comparison)?.into_bytes()),
    ];
    for (name, content) in files {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Reads a `compare.json` of this build's schema version.
pub fn read(path: &Path) -> anyhow::Result<Comparison> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    let version = value.get("schema_version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(SCHEMA_VERSION)) {
        bail!("{} has schema version {version:?}, this build reads {SCHEMA_VERSION}", path.display());
    }
    serde_json::from_value(value).with_context(|| format!("{} is not a comparison", path.display()))
}
