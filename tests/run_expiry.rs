//! What ends by itself is told in time: in the metrics, in the status, in the log and by `sluice check`; and what is told
//! follows the files.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod pki_support;
mod run_support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use openssl::x509::X509;
use pki_support::{Authority, Credentials, Profile, Purpose, self_signed};
use run_support::{Backend, Options, Prepared, Proxy, openmetrics, wait_until};

const DAY: i64 = 86_400;

/// A certificate for localhost that has been valid for three months and ends in so many seconds.
fn ending_in(seconds: i64) -> Credentials {
    let profile = Profile::client("localhost").purpose(Purpose::Any).dns("localhost");
    self_signed(&Profile { valid: -90 * DAY..seconds, ..profile })
}

/// Puts a certificate and its key where the configuration has them, each by a rename.
fn put(folder: &Path, credentials: &Credentials) {
    let (chain, key) = credentials.write(folder, "new");
    fs::rename(key, folder.join("edge.key")).unwrap();
    fs::rename(chain, folder.join("edge.crt")).unwrap();
}

/// A proxy with client authentication: an authority, and its list, whose next update is due in so many seconds.
fn with_clients(authority: &Authority, next_update: i64) -> Prepared {
    let prepared = Proxy::prepare(&Options::to(Backend::start().address));
    authority.write(prepared.directory(), "clients.pem");
    fs::write(prepared.directory().join("clients.crl"), authority.revocation_list(&[], next_update)).unwrap();
    prepared.edit(
        "[[backend]]",
        "client_auth = { mode = \"optional\", ca = \"clients.pem\", crl = [\"clients.crl\"] }\n[[backend]]",
    );
    prepared
}

/// The end as the metrics have it, of a certificate or, without a serial number, of a list.
fn exposed(proxy: &Proxy, kind: &str, subject: &str, serial: &str) -> Option<i64> {
    let subject = format!("O=Sluice tests, CN={subject}");
    let sample = format!(
        "sluice_expiry_time_seconds{{listener=\"edge\",kind=\"{kind}\",subject=\"{subject}\",serial=\"{serial}\"}}"
    );
    openmetrics::value(&proxy.metrics(), &sample).map(|value| value as i64)
}

fn serial(certificate: &X509) -> String {
    certificate.serial_number().to_bn().unwrap().to_hex_str().unwrap().to_lowercase()
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// Within a minute of so many seconds from now.
fn is_about(time: i64, seconds: i64) -> bool {
    (time - now() - seconds).abs() < 60
}

#[test]
fn ends_of_certificates_authorities_and_lists_are_exposed_and_follow_the_files() {
    let authority = Authority::root("Clients");
    let prepared = with_clients(&authority, 3 * DAY);
    let first = ending_in(60 * DAY);
    put(prepared.directory(), &first);
    let proxy = prepared.run();

    let end = exposed(&proxy, "certificate", "localhost", &serial(&first.certificate)).unwrap();
    assert!(is_about(end, 60 * DAY), "{end}");
    let end = exposed(&proxy, "client_ca", "Clients", &serial(&authority.certificate)).unwrap();
    assert!(is_about(end, 3650 * DAY), "{end}");
    assert!(is_about(exposed(&proxy, "crl", "Clients", "").unwrap(), 3 * DAY));
    assert_eq!(openmetrics::value(&proxy.metrics(), "sluice_expiry_left_out"), Some(0.0));

    let status: serde_json::Value = serde_json::from_str(&proxy.admin_request(&[], "/status").1).unwrap();
    let kinds: Vec<_> = status["expiry"]["soonest"].as_array().unwrap().iter().map(|ending| &ending["kind"]).collect();
    assert_eq!(kinds, ["crl", "certificate", "client_ca"], "the soonest first: {status}");
    assert_eq!(status["expiry"]["soonest"][0]["days_left"], 2);
    assert_eq!(status["expiry"]["soonest"][1]["serial"], serial(&first.certificate));

    let second = ending_in(90 * DAY);
    put(proxy.directory(), &second);
    fs::write(proxy.directory().join("clients.crl"), authority.revocation_list(&[], 5 * DAY)).unwrap();
    let follow = || {
        let end = exposed(&proxy, "certificate", "localhost", &serial(&second.certificate))?;
        let list = exposed(&proxy, "crl", "Clients", "").filter(|end| is_about(*end, 5 * DAY))?;
        (is_about(end, 90 * DAY) && list > 0).then_some(())
    };
    wait_until("the metrics follow the files", follow, || proxy.metrics());
    assert_eq!(exposed(&proxy, "certificate", "localhost", &serial(&first.certificate)), None, "it is gone");
}

#[test]
fn near_ends_are_logged_once_and_a_renewed_certificate_is_quiet() {
    let authority = Authority::root("Clients").expired_intermediate("Former clients");
    let prepared = with_clients(&authority, -60);
    put(prepared.directory(), &ending_in(5 * DAY + 60));
    let proxy = prepared.run();
    let line = proxy.log().wait_for("a certificate expires soon: renew it");
    assert!(line.contains("days_left=5") && line.contains("edge.crt") && line.contains("listener=edge"), "{line}");
    let line = proxy.log().wait_for("an authority has expired: its clients are refused");
    assert!(line.contains("Former clients"), "{line}");
    let line = proxy.log().wait_for("a revocation list has expired: fetch the next one");
    assert!(line.contains("Former clients"), "{line}");

    let renewed = ending_in(60 * DAY);
    put(proxy.directory(), &renewed);
    let follow = || exposed(&proxy, "certificate", "localhost", &serial(&renewed.certificate));
    wait_until("the renewed certificate is in service", follow, || proxy.log().text());
    assert_eq!(proxy.log().text().matches("a certificate expires soon").count(), 1);
}

#[test]
fn check_notes_a_month_and_warns_of_less_for_certificates_authorities_and_lists() {
    let check = |days: i64, next_update: i64| {
        let authority = Authority::root("Clients");
        let prepared = with_clients(&authority, next_update);
        let short = self_signed(&Profile { valid: -90 * DAY..days * DAY + 60, ..Profile::client("Short authority") });
        fs::write(prepared.directory().join("clients.pem"), short.certificate.to_pem().unwrap()).unwrap();
        let edge = Profile { valid: -90 * DAY..days * DAY + 60, ..Profile::client("localhost").dns("localhost") };
        put(prepared.directory(), &self_signed(&edge.purpose(Purpose::Any)));
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        let output =
            command.args(["check", "--config"]).arg(prepared.directory().join("sluice.toml")).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stderr).unwrap()
    };
    let quiet = check(31, 20 * DAY);
    assert!(!quiet.contains("expires"), "{quiet}");
    let month = check(29, 20 * DAY);
    assert!(
        month.contains("note: the certificate expires within 30 days") && month.contains("29 days left"),
        "{month}"
    );
    assert!(month.contains("note: the authority O=Sluice tests, CN=Short authority expires within 30 days"), "{month}");
    let soon = check(13, 6 * 3600);
    assert!(soon.contains("warning: the certificate expires soon") && soon.contains("13 days left"), "{soon}");
    assert!(soon.contains("warning: the authority O=Sluice tests, CN=Short authority expires soon"), "{soon}");
    let lists = check(31, DAY - 60);
    assert!(!lists.contains("revocation list of O=Sluice tests, CN=Clients expires"), "two days in all: {lists}");
}
