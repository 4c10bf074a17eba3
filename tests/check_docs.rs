//! The reference, the schema and the examples say what the program does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod pki_support;
#[path = "check_support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use support::Folder;

fn doc(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn schema_in_the_docs_is_the_one_of_the_program() {
    let output = assert_cmd::Command::cargo_bin("sluice").unwrap().args(["check", "--schema"]).output().unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout).unwrap() == doc("sluice.schema.json"),
        "docs/sluice.schema.json is stale; regenerate it: cargo run -- check --schema > docs/sluice.schema.json"
    );
}

#[test]
fn reference_has_every_key_of_the_schema_and_no_other() {
    let schema: Value = serde_json::from_str(&doc("sluice.schema.json")).unwrap();
    let mut expected = BTreeMap::new();
    collect(&schema, "", &mut expected);
    let found = rows(&doc("configuration.md"));
    for (key, row) in &expected {
        let found = found.get(key).unwrap_or_else(|| panic!("docs/configuration.md lacks {key}: {row:?}"));
        assert_eq!((&found.kind, &found.default), (&row.kind, &row.default), "docs/configuration.md, {key}");
        if !row.bounds.is_empty() {
            assert_eq!(found.bounds, row.bounds, "docs/configuration.md, {key}");
        }
    }
    let unknown: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).collect();
    assert!(unknown.is_empty(), "docs/configuration.md describes keys that do not exist: {unknown:?}");
}

#[test]
fn full_example_has_every_key_of_the_schema() {
    let schema: Value = serde_json::from_str(&doc("sluice.schema.json")).unwrap();
    let mut keys = BTreeMap::new();
    collect(&schema, "", &mut keys);
    let example: toml::Table = doc("examples/full.toml").parse().unwrap();
    for key in keys.keys() {
        let mut values = vec![toml::Value::Table(example.clone())];
        for part in key.split('.') {
            let items = values.into_iter().flat_map(|value| match value {
                toml::Value::Array(items) => items,
                other => vec![other],
            });
            values = items.filter_map(|value| value.get(part).cloned()).collect();
        }
        assert!(!values.is_empty(), "docs/examples/full.toml lacks {key}");
    }
}

#[test]
fn examples_are_good() {
    for name in ["minimal.toml", "full.toml"] {
        let folder = Folder::new();
        folder.make_ring("ticket.ring");
        folder.write_key("old.key", &[1; 80]);
        let clients = pki_support::Authority::root("Clients");
        clients.write(folder.path(), "clients.pem");
        folder.write("clients.crl", &clients.revocation_list(&[], 86_400));
        furnish(&folder);
        let outcome = folder.check(&doc(&format!("examples/{name}")));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "docs/examples/{name}");
        assert!(outcome.stdout.ends_with("0 warnings\n"), "{}", outcome.stdout);
    }
}

/// What the full example names beside `edge.crt` and `edge.key`.
fn furnish(folder: &Folder) {
    let key = support::ec_key();
    let certificate = |name: &str| support::issued(name, &key, (name, &key), openssl::hash::MessageDigest::sha256());
    let (mut builder, shop) = (openssl::pkcs12::Pkcs12::builder(), certificate("shop.example.org"));
    let archive = builder.name("shop").pkey(&key).cert(&shop).build2("secret").unwrap();
    folder.write_key("shop.p12", &archive.to_der().unwrap());
    folder.write_key("shop.pass", b"secret\n");
    fs::create_dir(folder.path().join("certificates")).unwrap();
    folder.write("certificates/more.crt", &certificate("more.example.org").to_pem().unwrap());
    folder.write_key("certificates/more.key", &key.private_key_to_pem_pkcs8().unwrap());
}

#[test]
fn help_names_every_exit_code() {
    let output = assert_cmd::Command::cargo_bin("sluice").unwrap().arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for code in ["\n  0 ", "\n  1 ", "\n  2 ", "\n  69 ", "\n  70 "] {
        assert!(help.contains(code), "{code:?}: {help}");
    }
}

/// What the reference says of a key.
#[derive(Debug, Default)]
struct Row {
    kind: String,
    default: String,
    bounds: String,
}

/// The keys below a schema, with their dotted names; sections themselves are left out.
fn collect(schema: &Value, path: &str, rows: &mut BTreeMap<String, Row>) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, key) in schema["properties"].as_object().unwrap() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let is_section =
            key["properties"].is_object() || (key["items"]["properties"].is_object() && !path.contains('.'));
        if !is_section {
            rows.insert(path.clone(), row(key, required.contains(&name.as_str())));
        }
        for nested in [key, &key["items"]].into_iter().filter(|nested| nested["properties"].is_object()) {
            collect(nested, &path, rows);
        }
    }
}

fn row(key: &Value, is_required: bool) -> Row {
    let code = |value: &Value| format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let default = match &key["default"] {
        Value::Null if is_required => "required".to_owned(),
        Value::Null => "none".to_owned(),
        default => code(default),
    };
    let ends = [["minimum", "maximum"], ["x-minimum", "x-maximum"]];
    let bounds = ends.into_iter().find(|[minimum, maximum]| !key[*minimum].is_null() && !key[*maximum].is_null());
    let bounds = bounds.map(|[minimum, maximum]| format!("{} to {}", code(&key[minimum]), code(&key[maximum])));
    Row { kind: kind(key), default, bounds: bounds.unwrap_or_default() }
}

fn kind(key: &Value) -> String {
    if let Some(names) = key["enum"].as_array() {
        return names.iter().map(|name| format!("`{}`", name.as_str().unwrap())).collect::<Vec<_>>().join(", ");
    }
    if key["anyOf"].is_array() {
        return "`auto` or integer".to_owned();
    }
    match key["type"].as_str().unwrap() {
        "array" if key["items"]["properties"].is_object() => "array of tables".to_owned(),
        "array" => format!("array of {}", kind(&key["items"])),
        plain => key["x-unit"].as_str().unwrap_or(plain).to_owned(),
    }
}

/// The rows of the reference by the dotted names of their keys.
fn rows(text: &str) -> BTreeMap<String, Row> {
    let mut section = String::new();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.trim_matches(|c| "`[]".contains(c)).to_owned();
            if section == "certificates" {
                section = "listener.tls.certificates".to_owned();
            }
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", key, kind, default, bounds, _, ""] = cells[..]
            && let Some(key) = key.strip_prefix('`')
        {
            let row = Row { kind: kind.to_owned(), default: default.to_owned(), bounds: bounds.to_owned() };
            let key = format!("{section}.{}", key.trim_end_matches('`'));
            assert!(rows.insert(key.clone(), row).is_none(), "{key} is described twice");
        }
    }
    rows
}
