//! Configuration: TOML text to resolved settings, with errors that point at the line.
//!
//! A file goes through `shape` (unknown keys, wrong shapes), `raw` (values), `resolve` (bounds, references, files). No
//! stage stops at its first mistake: the operator sees all of them at once.

mod cpu;
mod diagnostic;
mod effective;
mod limit;
mod near;
mod raw;
mod report;
mod resolve;
mod scalar;
mod shape;
mod topology;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use schemars::generate::SchemaSettings;
use serde::Deserialize;
use toml::Deserializer;
use toml::de::DeTable;

use crate::server;
use crate::telemetry::Configuration;

pub use diagnostic::{Diagnostic, Diagnostics, RENDERED_COUNT_MAX, Severity, Style};

pub(crate) use cpu::{Machine, parse_list, show_list};
use report::Report;
use resolve::Environment;

/// What came of reading a file.
#[derive(Debug)]
pub struct Checked {
    /// The settings; none where an error was found.
    pub settings: Option<server::Settings>,
    /// Errors, warnings and notes.
    pub diagnostics: Diagnostics,
}

/// Reads, checks and resolves a file, and the files that it names. Warnings and notes go to the log.
///
/// # Errors
/// All errors of the file, and its warnings; see [`Diagnostics::render`].
pub fn load(path: &Path) -> Result<server::Settings, Diagnostics> {
    let Checked { settings, diagnostics } = check(path);
    let Some(settings) = settings else { return Err(diagnostics) };
    for finding in diagnostics.iter() {
        let line = diagnostics.line(finding);
        match finding.severity {
            Severity::Note => tracing::info!("{line}"),
            Severity::Warning | Severity::Error => tracing::warn!("{line}"),
        }
    }
    Ok(settings)
}

/// Like [`load`], but gives the warnings too.
pub fn check(path: &Path) -> Checked {
    match read(path) {
        Ok(bytes) => check_bytes(path, bytes),
        Err(finding) => refused(path, *finding),
    }
}

/// Checks and resolves `bytes` as if they were the content of `path`.
pub fn check_bytes(path: &Path, bytes: Vec<u8>) -> Checked {
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return refused(path, not_utf8(&error)),
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let environment = Environment { directory, now: SystemTime::now(), machine: Machine::read() };
    let (settings, findings) = check_in(&text, &environment);
    let settings = settings
        .map(|settings| server::Settings { shown: Arc::new(shown(path, &text, &settings, &environment)), ..settings });
    Checked { settings, diagnostics: Diagnostics::new(path, text, findings) }
}

/// The JSON schema of the file (JSON Schema 2020-12), with a newline at the end. `x-unit`, `x-minimum` and `x-maximum`
/// describe durations and sizes, whose bounds JSON Schema cannot express.
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&schema_value()).unwrap_or_default();
    text.push('\n');
    text
}

/// What is shown of a file that was found good.
fn shown(path: &Path, text: &str, settings: &server::Settings, environment: &Environment) -> Configuration {
    // It was read as TOML a moment ago; dates, which JSON has not, are in no key.
    let written = toml::from_str::<serde_json::Value>(text).unwrap_or_default();
    let effective = effective::effective(&written, &schema_value(), &environment.directory, &settings.workers);
    let digest = openssl::sha::sha256(text.as_bytes());
    Configuration {
        path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        loaded: environment.now,
        effective,
    }
}

fn check_in(text: &str, environment: &Environment) -> (Option<server::Settings>, Vec<Diagnostic>) {
    let (mut root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return (None, errors.iter().map(syntax).collect());
    }
    let (index, findings) = shape::prune(&mut root, &schema_value());
    let mut report = Report::new(index, findings);
    let settings = match raw::File::deserialize(Deserializer::from(root)) {
        Ok(file) => resolve::resolve(&file, environment, &mut report),
        // Out of reach, since `shape` has removed what could fail; still the operator's to see.
        Err(error) => {
            report.push(syntax(&error));
            None
        }
    };
    (settings, report.into_findings())
}

/// The file could not even be read as text.
fn refused(path: &Path, finding: Diagnostic) -> Checked {
    Checked { settings: None, diagnostics: Diagnostics::new(path, String::new(), vec![finding]) }
}

fn not_utf8(error: &std::string::FromUtf8Error) -> Diagnostic {
    let valid = error.utf8_error().valid_up_to();
    let line = error.as_bytes().iter().take(valid).filter(|&&byte| byte == b'\n').count() + 1;
    let finding = Diagnostic::error(format!("the file is not UTF-8 from byte {valid} on, in line {line}"));
    finding.allowed("allowed: TOML, which is UTF-8 text")
}

fn syntax(error: &toml::de::Error) -> Diagnostic {
    let mut lines = error.message().lines();
    let title = lines.next().unwrap_or("syntax error");
    let finding = match error.span() {
        Some(span) => Diagnostic::error(title).at(span, ""),
        None => Diagnostic::error(title),
    };
    let details = lines.collect::<Vec<_>>().join("; ");
    if details.is_empty() { finding } else { finding.allowed(details) }
}

fn read(path: &Path) -> Result<Vec<u8>, Box<Diagnostic>> {
    let failed = |error: std::io::Error| {
        let finding = Diagnostic::error(format!("cannot read the configuration: {error}"));
        Box::new(finding.help("name another file with --config, or start from one of docs/examples"))
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Err(Box::new(Diagnostic::error(format!("cannot read the configuration: this is {found}"))));
    }
    if metadata.len() > limit::FILE_BYTES_MAX {
        let finding = Diagnostic::error(format!("the configuration is too large: {} bytes", metadata.len()));
        return Err(Box::new(finding.allowed(format!("allowed: up to {} bytes", limit::FILE_BYTES_MAX))));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(limit::FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Without references, so that `shape` can walk it.
fn schema_value() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<raw::File>().to_value()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use std::collections::BTreeSet;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use openssl::ec::{EcGroup, EcKey};
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::x509::X509;
    use tempfile::TempDir;

    use super::*;
    use crate::backend::ServerAddress;
    use crate::record::ProtocolVersion::Tls13;
    use crate::ticket::{LockWait, Ring, RingFile, RingShape};
    use crate::{admin, ktls, tls, worker};

    /// A folder with `edge.crt` and `edge.key`, on a machine with two CPUs.
    fn environment(folder: &TempDir) -> Environment {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut certificate = X509::builder().unwrap();
        certificate.set_not_before(&openssl::asn1::Asn1Time::days_from_now(0).unwrap()).unwrap();
        certificate.set_not_after(&openssl::asn1::Asn1Time::days_from_now(90).unwrap()).unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate.sign(&key, openssl::hash::MessageDigest::sha256()).unwrap();
        fs::write(folder.path().join("edge.crt"), certificate.build().to_pem().unwrap()).unwrap();
        fs::write(folder.path().join("edge.key"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        let cpus = BTreeSet::from([0, 1]);
        let machine = Machine {
            present: cpus.clone(),
            online: cpus.clone(),
            allowed: cpus,
            topology: topology::Topology::default(),
        };
        Environment { directory: folder.path().to_owned(), now: SystemTime::now(), machine }
    }

    #[test]
    fn minimal_file_gets_every_default() {
        let folder = TempDir::new().unwrap();
        let text = include_str!("../../docs/examples/minimal.toml");
        let settings = check_in(text, &environment(&folder)).0.unwrap();
        assert_eq!(settings.workers.cpus, [0, 1]);
        assert_eq!(settings.workers.io, worker::IoDriver::Auto);
        assert_eq!(settings.workers.connections_max, 16_384);
        assert_eq!(settings.workers.buffer_bytes_max, 64 << 20);
        assert_eq!(settings.admin.address, None);
        assert_eq!((settings.tickets.ring, settings.tickets.count), (None, 2));
        assert_eq!(settings.tickets.lifetime, Duration::from_secs(12 * 3600));
        assert_eq!(settings.drain_timeout, Duration::from_secs(30));
        let [listener] = &settings.listeners[..] else { panic!("{:?}", settings.listeners) };
        assert_eq!((listener.name.as_str(), listener.backend), ("edge", 0));
        assert_eq!(listener.address, "0.0.0.0:8443".parse().unwrap());
        let expected = ktls::Settings {
            mode: ktls::Mode::Auto,
            promote_after_bytes: ktls::Settings::PROMOTE_AFTER_BYTES,
            bulk: ktls::Bulk::Auto,
            known_bugs: ktls::KnownBugs::Refuse,
        };
        assert_eq!(listener.kernel_tls, expected);
        assert_eq!(listener.timeouts.handshake, Duration::from_secs(10));
        assert_eq!(listener.timeouts.relay.idle, Duration::from_secs(300));
        assert_eq!(listener.timeouts.relay.close, Duration::from_secs(10));
        assert_eq!(listener.tls.protocol, tls::Protocol::of(tls::Policy::Intermediate));
        assert!(listener.tls.alpn.is_empty() && listener.tls.sections.is_empty());
        assert_eq!(listener.tls.unknown_server_name, tls::UnknownServerName::Default);
        let files = tls::CertificateFiles::pem(folder.path().join("edge.crt"), folder.path().join("edge.key"));
        assert_eq!((&listener.tls.certificates.entries, listener.tls.identities.identities().len()), (&vec![files], 1));
        assert_eq!(settings.backends[0].connect_timeout, Duration::from_secs(2));
    }

    #[test]
    fn every_key_of_the_file_reaches_the_settings() {
        let folder = TempDir::new().unwrap();
        let text = r#"
            server.drain_timeout = "1s"
            workers = { count = 1, cpus = "1", io = "epoll", connections_max = 7, buffer_memory = "2MiB" }
            admin.address = "[::1]:9180"
            tickets = { ring = "ring", keys = ["old.key"], lifetime = "0s", count = 1 }
            [[backend]]
            name = "other"
            servers = ["127.0.0.1:1"]
            [[backend]]
            name = "app"
            servers = ["127.0.0.1:8080", "unix:app.sock"]
            connect_timeout = "20ms"
            [[listener]]
            name = "edge"
            address = "[::]:443"
            backend = "app"
            kernel_tls = "required"
            kernel_tls_after = "16KiB"
            kernel_tls_bulk = "copy"
            handshake_timeout = "1s"
            idle_timeout = "2s"
            close_timeout = "3s"
            [listener.tls]
            policy = "modern"
            suites = ["TLS_AES_256_GCM_SHA384"]
            groups = ["P-384"]
            signature_algorithms = ["ecdsa_secp256r1_sha256"]
            certificates = [{ chain = "edge.crt", key = "edge.key" }]
            unknown_server_name = "refuse"
            alpn = ["h2", "x"]
            [[listener.server_name]]
            names = ["A.example.", "*.b.example"]
            backend = "other"
            [[listener.server_name]]
            names = ["c.example"]
        "#;
        make_ticket_keys(&folder);
        let settings = check_in(text, &environment(&folder)).0.unwrap();
        assert_eq!(settings.drain_timeout, Duration::from_secs(1));
        assert_eq!((&settings.workers.cpus[..], settings.workers.io), (&[1][..], worker::IoDriver::Epoll));
        assert_eq!((settings.workers.connections_max, settings.workers.buffer_bytes_max), (7, 2 << 20));
        assert_eq!(settings.admin.address, Some(admin::Address::Tcp("[::1]:9180".parse().unwrap())));
        assert_eq!(settings.admin.socket_mode, admin::SocketMode::User);
        assert_eq!(settings.tickets.ring, Some(folder.path().join("ring")));
        assert_eq!(settings.tickets.key_files, [folder.path().join("old.key")]);
        assert_eq!((settings.tickets.lifetime, settings.tickets.count), (Duration::ZERO, 1));
        let socket = ServerAddress::Unix(folder.path().join("app.sock"));
        assert_eq!(settings.backends[1].servers, [ServerAddress::Tcp("127.0.0.1:8080".parse().unwrap()), socket]);
        assert_eq!(settings.backends[1].connect_timeout, Duration::from_millis(20));
        let listener = &settings.listeners[0];
        assert_eq!((listener.backend, listener.address), (1, "[::]:443".parse().unwrap()));
        assert_eq!(listener.section_backends, [0, 1]);
        let names: Vec<_> = listener.tls.sections.iter().flat_map(|section| &section.names).collect();
        assert_eq!(
            names,
            ["a.example", "*.b.example", "c.example"]
                .map(|name| tls::ServerName::parse(name).unwrap())
                .iter()
                .collect::<Vec<_>>()
        );
        assert_eq!(listener.tls.unknown_server_name, tls::UnknownServerName::Refuse);
        let protocol = &listener.tls.protocol;
        assert_eq!((protocol.suites.len(), protocol.suites[0].code), (1, 0x1302));
        assert_eq!((&protocol.groups[..], protocol.signature_algorithms[0].code), (&[tls::Group::P384][..], 0x0403));
        let expected = ktls::Settings {
            mode: ktls::Mode::Required,
            promote_after_bytes: 16 << 10,
            bulk: ktls::Bulk::Copy,
            known_bugs: ktls::KnownBugs::Refuse,
        };
        assert_eq!(listener.kernel_tls, expected);
        let timeouts = [listener.timeouts.handshake, listener.timeouts.relay.idle, listener.timeouts.relay.close];
        assert_eq!(timeouts, [1, 2, 3].map(Duration::from_secs));
        assert_eq!(
            (listener.tls.protocol.versions.clone(), &listener.tls.alpn[..]),
            (Tls13..=Tls13, &["h2".into(), "x".into()][..])
        );
    }

    /// A ring whose tickets live for 12 hours, and a key file.
    fn make_ticket_keys(folder: &TempDir) {
        let file = RingFile::at(&folder.path().join("ring"));
        let ring = Ring::generate_at(RingShape::default(), SystemTime::now().into()).unwrap();
        file.create(&file.lock(LockWait::Try).unwrap(), &ring).unwrap();
        let key = folder.path().join("old.key");
        std::fs::write(&key, [7; 48]).unwrap();
        std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn ticket_settings_that_the_files_do_not_bear_out_are_found() {
        let folder = TempDir::new().unwrap();
        let environment = environment(&folder);
        make_ticket_keys(&folder);
        let findings = |tickets: &str| {
            let text = format!("tickets = {tickets}\n{}", include_str!("../../docs/examples/minimal.toml"));
            let findings = check_in(&text, &environment).1;
            let findings = findings.into_iter().map(|finding| (finding.severity, finding.title));
            findings.filter(|(_, title)| title.contains("tickets")).collect::<Vec<_>>()
        };
        assert_eq!(findings(r#"{ ring = "ring", keys = ["old.key"] }"#), []);
        let longer = findings(r#"{ ring = "ring", lifetime = "13h" }"#);
        assert_eq!(longer, [(Severity::Warning, "`tickets.lifetime` is longer than the ring allows".to_owned())]);
        let unused = findings(r#"{ ring = "ring", lifetime = "0s" }"#);
        assert_eq!(unused, [(Severity::Warning, "`tickets.ring` has no effect".to_owned())]);
        let twice = findings(r#"{ keys = ["old.key", "old.key"] }"#);
        assert_eq!(twice, [(Severity::Error, "two of the `tickets.keys` have the same key name".to_owned())]);
        let many = format!("{{ keys = [{}] }}", "\"old.key\",".repeat(17));
        assert!(findings(&many).contains(&(Severity::Error, "`tickets.keys` has too many entries".to_owned())));
    }

    #[test]
    fn finding_in_the_log_is_one_line_with_its_place() {
        let checked = check_bytes(Path::new("x.toml"), b"[workers]\ncuont = 1\n".to_vec());
        let finding = checked.diagnostics.iter().next().unwrap();
        let line = checked.diagnostics.line(finding);
        assert!(line.starts_with("x.toml:2:1: unknown key \"cuont\" in `workers`"), "{line}");
        assert!(line.ends_with("did you mean `count`?") && !line.contains('\n'), "{line}");
    }

    #[test]
    fn finding_that_repeats_a_path_stays_one_plain_line() {
        let folder = TempDir::new().unwrap();
        let text = include_str!("../../docs/examples/minimal.toml").replace("edge.crt", "a\\n\\u001b[31m\\u202eb");
        let (settings, findings) = check_in(&text, &environment(&folder));
        assert!(settings.is_none());
        let diagnostics = Diagnostics::new(Path::new("x.toml"), text, findings);
        let line = diagnostics.line(diagnostics.iter().next().unwrap());
        assert!(line.contains("a\\n\\u{1b}[31m\\u{202e}b"), "{line}");
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
    }

    #[test]
    fn file_that_is_missing_is_an_error_of_load() {
        let folder = TempDir::new().unwrap();
        let diagnostics = load(&folder.path().join("missing.toml")).unwrap_err();
        assert_eq!((diagnostics.count(Severity::Error), diagnostics.count(Severity::Warning)), (1, 0));
    }
}
