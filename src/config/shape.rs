//! Holds the tables of a file against the schema: unknown keys and values of the wrong shape are reported and taken
//! out, so that what is left can be read whole and every mistake of a file is found in one go.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::near::nearest;
use super::scalar::quote;

/// Where the keys of the file are.
#[derive(Default)]
pub(super) struct Index {
    /// By the first byte of the value.
    keys: HashMap<usize, Key>,
    /// Keys that were taken out or that an unknown key was probably meant to be, by the first byte of their table:
    /// their absence is no news.
    excused: HashSet<(usize, String)>,
    /// The first byte of the table that is the whole file.
    root: usize,
}

/// A key in the file.
#[derive(Clone)]
pub(super) struct Key {
    /// Its place.
    pub(super) span: Range<usize>,
    /// Its name from the top of the file, as in `listener.tls.policy`.
    pub(super) path: String,
}

impl Index {
    /// The key whose value starts here.
    pub(super) fn key(&self, value: &Range<usize>) -> Option<&Key> {
        self.keys.get(&value.start)
    }

    /// Whether the absence of a section is explained by another finding.
    pub(super) fn is_section_excused(&self, section: &str) -> bool {
        self.excused.contains(&(self.root, section.to_owned()))
    }

    /// Whether the absence of a key is explained by another finding.
    pub(super) fn is_excused(&self, table: &Range<usize>, key: &str) -> bool {
        self.excused.contains(&(table.start, key.to_owned()))
    }
}

/// Takes out of `root` what the schema does not know.
pub(super) fn prune(root: &mut Spanned<DeTable<'_>>, schema: &Value) -> (Index, Vec<Diagnostic>) {
    let start = root.span().start;
    let mut walk = Walk { index: Index { root: start, ..Index::default() }, findings: Vec::new() };
    walk.table(root.get_mut(), start, schema, "");
    (walk.index, walk.findings)
}

struct Walk {
    index: Index,
    findings: Vec<Diagnostic>,
}

impl Walk {
    fn table(&mut self, table: &mut DeTable<'_>, start: usize, schema: &Value, path: &str) {
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, mut value) in std::mem::take(table) {
            let text: &str = name.get_ref();
            let Some(property) = properties.and_then(|properties| properties.get(text)) else {
                let known = properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str));
                self.unknown(name.span(), text, start, path, known);
                continue;
            };
            let path = if path.is_empty() { text.to_owned() } else { format!("{path}.{text}") };
            self.index.keys.insert(value.span().start, Key { span: name.span(), path: path.clone() });
            if self.value(&mut value, &name.span(), property, &path) {
                table.insert(name, value);
            } else {
                self.index.excused.insert((start, text.to_owned()));
            }
        }
    }

    /// Whether the value has the shape that the schema asks for; reports it where not.
    fn value(&mut self, value: &mut Spanned<DeValue<'_>>, key: &Range<usize>, schema: &Value, path: &str) -> bool {
        let span = value.span();
        match (schema.get("type").and_then(Value::as_str), value.get_mut()) {
            (Some("object"), DeValue::Table(table)) => {
                self.table(table, span.start, schema, path);
                true
            }
            (Some("array"), DeValue::Array(array)) => {
                let none = Value::Null;
                let items = schema.get("items").unwrap_or(&none);
                let mut all_fit = true;
                for item in array.iter_mut() {
                    let item_key = Key { span: key.clone(), path: path.to_owned() };
                    self.index.keys.entry(item.span().start).or_insert(item_key);
                    all_fit &= self.value(item, key, items, path);
                }
                all_fit
            }
            (Some(kind @ ("object" | "array")), other) => {
                let finding = wrong_shape(kind, other.type_str(), schema, path);
                self.findings
                    .push(finding.at(span, format!("found {}", article(other.type_str()))).and_at(key.clone(), ""));
                false
            }
            _ => true,
        }
    }

    fn unknown<'a>(
        &mut self,
        span: Range<usize>,
        name: &str,
        table: usize,
        path: &str,
        known: impl Iterator<Item = &'a str> + Clone,
    ) {
        let place = if path.is_empty() { "at the top of the file".to_owned() } else { format!("in `{path}`") };
        let mut finding = Diagnostic::error(format!("unknown key {} {place}", quote(name))).at(span, "unknown key");
        finding = finding.allowed(format!("known keys: {}", known.clone().collect::<Vec<_>>().join(", ")));
        if let Some(meant) = nearest(name, known) {
            self.index.excused.insert((table, meant.to_owned()));
            finding = finding.help(format!("did you mean `{meant}`?"));
        }
        self.findings.push(finding);
    }
}

fn wrong_shape(kind: &str, found: &str, schema: &Value, path: &str) -> Diagnostic {
    let holds_tables = schema.pointer("/items/type").and_then(Value::as_str) == Some("object");
    let (allowed, help) = match (kind, holds_tables) {
        ("object", _) => ("a table", format!("write it as a section: [{path}]")),
        (_, true) if found == "table" && !path.contains('.') => {
            ("an array of tables", format!("double the brackets: [[{path}]]"))
        }
        (_, true) => ("an array of tables", "put it in brackets: [ { .. } ]".to_owned()),
        _ => ("an array", "put it in brackets: [ .. ]".to_owned()),
    };
    Diagnostic::error(format!("`{path}` is not {allowed}")).allowed(format!("allowed: {allowed}")).help(help)
}

fn article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {kind}")
}
