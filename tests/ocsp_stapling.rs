//! OCSP responses that are sent along with certificates: from files and from `openssl ocsp` as the responder, seen by
//! `openssl s_client` and gnutls-cli; and what the proxy makes of responders that die, lie, or never answer.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod ocsp_support;
mod pki_support;
mod run_support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ocsp_support::{Answer, Liar, Pki, Responder, Signer, Status, ask_as_gnutls, ask_as_openssl};
use pki_support::{Authority, Profile, Purpose};
use run_support::{Backend, Options, Prepared, Proxy, openmetrics, wait_until};

/// A proxy whose certificate is that of the hierarchy.
fn prepared(pki: &Pki, mode: &str) -> Prepared {
    let prepared = Proxy::prepare(&Options::to(Backend::start().address));
    pki.put(prepared.directory());
    prepared.edit("[[backend]]", &format!("ocsp = \"{mode}\"\n[[backend]]"));
    prepared
}

fn file(folder: &Path) -> std::path::PathBuf {
    folder.join("edge.crt.ocsp")
}

fn value(proxy: &Proxy, sample: &str) -> f64 {
    openmetrics::value(&proxy.metrics(), sample).unwrap_or_else(|| panic!("no {sample}"))
}

fn fetched(proxy: &Proxy, result: &str) -> f64 {
    value(proxy, &format!("sluice_ocsp_fetches_total{{result=\"{result}\"}}"))
}

fn certificates(proxy: &Proxy, state: &str) -> f64 {
    value(proxy, &format!("sluice_ocsp_certificates{{state=\"{state}\"}}"))
}

fn wait_for(proxy: &Proxy, what: &str, is_so: impl Fn() -> bool) {
    wait_until(what, || is_so().then_some(()), || proxy.log().text() + &proxy.metrics());
}

#[test]
fn response_from_a_file_is_stapled_in_both_versions_and_verified_by_two_stacks() {
    let pki = Pki::new(None);
    let prepared = prepared(&pki, "file");
    fs::write(file(prepared.directory()), pki.response(Signer::Issuer, Status::Good)).unwrap();
    let proxy = prepared.run();
    for version in ["-tls1_2", "-tls1_3"] {
        let shown = ask_as_openssl(&pki, proxy.address(), &[version]);
        assert!(shown.contains("OCSP Response Status: successful") && shown.contains("Cert Status: good"), "{shown}");
    }
    for priority in ["NORMAL:-VERS-ALL:+VERS-TLS1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.3"] {
        let (shown, response) = ask_as_gnutls(&pki, proxy.address(), priority);
        assert!(shown.contains("The certificate is trusted"), "{shown}");
        assert_eq!(response, pki.response_in(&file(proxy.directory())), "{shown}");
    }
    wait_for(&proxy, "handshakes are counted", || {
        value(&proxy, "sluice_ocsp_staples_total{result=\"stapled\"}") == 4.0
    });
    assert_eq!((certificates(&proxy, "stapled"), certificates(&proxy, "missing")), (1.0, 0.0));
}

#[test]
fn clients_get_none_where_stapling_is_off_or_they_do_not_ask() {
    let pki = Pki::new(None);
    let prepared = prepared(&pki, "off");
    fs::write(file(prepared.directory()), pki.response(Signer::Issuer, Status::Good)).unwrap();
    let proxy = prepared.run();
    assert!(ask_as_openssl(&pki, proxy.address(), &[]).contains("OCSP response: no response sent"));

    proxy.edit("ocsp = \"off\"", "ocsp = \"file\"");
    assert_eq!(proxy.reload().0, 200);
    assert!(ask_as_openssl(&pki, proxy.address(), &[]).contains("Cert Status: good"), "after a reload");
    // curl does not ask.
    let _ = proxy.curl(&["--head", "--max-time", "1"]).output().unwrap();
    assert_eq!(value(&proxy, "sluice_ocsp_staples_total{result=\"missing\"}"), 0.0);
}

#[test]
fn each_of_several_certificates_has_its_own_response() {
    let pki = Pki::new(None);
    let other = Pki::of(pki.authority_again(), &Profile::client("other").purpose(Purpose::Server).dns("other.example"));
    let prepared = prepared(&pki, "file");
    let folder = prepared.directory().to_owned();
    other.put_as(&folder, "other");
    prepared.edit("key = \"edge.key\" }", "key = \"edge.key\" }, { chain = \"other.crt\", key = \"other.key\" }");
    fs::write(file(&folder), pki.response(Signer::Issuer, Status::Good)).unwrap();
    let proxy = prepared.run();
    assert!(ask_as_openssl(&pki, proxy.address(), &[]).contains("Cert Status: good"));
    let of_other = || ask_as_openssl(&other, proxy.address(), &["-servername", "other.example"]);
    assert!(of_other().contains("OCSP response: no response sent"));

    fs::write(folder.join("other.crt.ocsp"), other.response(Signer::Issuer, Status::Good)).unwrap();
    wait_for(&proxy, "the new file is taken up", || of_other().contains("Cert Status: good"));
    let serial = other.serial();
    assert!(of_other().contains(&format!("Serial Number: {serial}")), "{serial}: {}", of_other());
}

#[test]
fn response_is_fetched_and_outlives_responder_and_reload() {
    let responder = Responder::reserve();
    let pki = Pki::new(Some(&responder.url()));
    let running = responder.start(&pki, Signer::Issuer, Status::Good, &["-nmin", "60"]);
    let proxy = prepared(&pki, "fetch").run();
    wait_for(&proxy, "the response is fetched", || fetched(&proxy, "good") == 1.0);
    assert!(ask_as_openssl(&pki, proxy.address(), &[]).contains("Cert Status: good"));
    drop(running);
    assert_eq!(proxy.reload().0, 200);
    // A renewed key file, so that everything of the listener is read anew.
    let key = fs::read(proxy.directory().join("edge.key")).unwrap();
    fs::write(proxy.directory().join("edge.key"), key).unwrap();
    proxy.log().wait_for("certificate files changed: the new certificate goes in service");
    assert!(ask_as_openssl(&pki, proxy.address(), &[]).contains("Cert Status: good"), "served while it is valid");
    // Looked at each second.
    wait_for(&proxy, "it counts as stapled", || certificates(&proxy, "stapled") == 1.0);
}

#[test]
fn response_is_fetched_anew_half_way_through_its_time() {
    let responder = Responder::reserve();
    let pki = Pki::new(Some(&responder.url()));
    let _running = responder.start(&pki, Signer::Issuer, Status::Good, &["-nmin", "1"]);
    let proxy = prepared(&pki, "fetch").run();
    wait_for(&proxy, "the response is fetched", || fetched(&proxy, "good") == 1.0);
    let first = Instant::now();
    wait_for(&proxy, "it is in service", || certificates(&proxy, "stapled") == 1.0);
    // Half of the minute that it is good for, and not before.
    while fetched(&proxy, "good") < 2.0 {
        assert!(first.elapsed() < Duration::from_secs(50), "{}", proxy.log().text());
        assert_eq!(certificates(&proxy, "stapled"), 1.0);
        std::thread::park_timeout(Duration::from_millis(200));
    }
    assert!(first.elapsed() > Duration::from_secs(20), "{:?}", first.elapsed());
}

#[test]
fn responder_that_comes_back_is_asked_again() {
    let responder = Responder::reserve();
    let pki = Pki::new(Some(&responder.url()));
    let proxy = prepared(&pki, "fetch").run();
    wait_for(&proxy, "the responder is missed", || fetched(&proxy, "unreachable") >= 1.0);
    let line = proxy.log().wait_for("the OCSP responder cannot be reached");
    assert!(line.contains("there is none") && line.contains("listener=edge"), "{line}");
    assert!(ask_as_openssl(&pki, proxy.address(), &[]).contains("OCSP response: no response sent"));
    assert!(value(&proxy, "sluice_ocsp_staples_total{result=\"missing\"}") >= 1.0);
    let _running = responder.start(&pki, Signer::Issuer, Status::Good, &["-nmin", "60"]);
    wait_for(&proxy, "it is asked again", || fetched(&proxy, "good") == 1.0);
}

/// What must never reach a client, each counted under its name.
#[test]
fn answers_that_prove_nothing_are_not_stapled() {
    let http = |body: &[u8]| Answer::Ok(body.to_vec());
    type Make = fn(&Pki) -> Vec<u8>;
    let responses: [(&str, Make); 6] = [
        ("signature", |pki| pki.response(Signer::Stranger, Status::Good)),
        ("signature", |pki| pki.response(Signer::WithoutPurpose, Status::Good)),
        ("wrong_certificate", |pki| pki.response_about_another()),
        ("out_of_date", |pki| pki.response(Signer::Issuer, Status::Expired)),
        ("out_of_date", |pki| pki.response(Signer::Issuer, Status::WithoutEnd)),
        ("unknown", |pki| pki.response(Signer::Issuer, Status::Unknown)),
    ];
    let garbage = [
        ("malformed", http(b"<html>It works!</html>")),
        ("malformed", http(b"")),
        ("too_large", http(&vec![0x30; 70_000])),
        ("refused", http(b"\x30\x03\x0a\x01\x03")),
        ("http_status", Answer::Status("500 Internal Server Error")),
        ("http_status", Answer::Status("302 Found\r\nLocation: http://127.0.0.1:1/")),
        ("unreachable", Answer::Hangup),
        ("timed_out", Answer::Silence),
    ];
    let made = responses.into_iter().map(|(result, make)| {
        let liar = Liar::bind();
        let pki = Pki::new(Some(&liar.url()));
        let answer = Answer::Ok(make(&pki));
        (result, liar, pki, answer)
    });
    let given = garbage.into_iter().map(|(result, answer)| {
        let liar = Liar::bind();
        let pki = Pki::new(Some(&liar.url()));
        (result, liar, pki, answer)
    });
    let started: Vec<_> = made
        .chain(given)
        .map(|(result, liar, pki, answer)| {
            liar.answer(answer);
            let proxy = prepared(&pki, "fetch").run();
            (result, pki, proxy)
        })
        .collect();
    for (result, pki, proxy) in &started {
        wait_for(proxy, &format!("an answer is counted as {result}"), || fetched(proxy, result) >= 1.0);
        assert_eq!((fetched(proxy, "good"), certificates(proxy, "missing")), (0.0, 1.0), "{result}");
        let shown = ask_as_openssl(pki, proxy.address(), &[]);
        assert!(shown.contains("OCSP response: no response sent"), "{result}: {shown}");
    }
}

#[test]
fn responder_with_a_certificate_for_it_is_believed() {
    let pki = Pki::new(None);
    let prepared = prepared(&pki, "file");
    fs::write(file(prepared.directory()), pki.response(Signer::Delegate, Status::Good)).unwrap();
    let proxy = prepared.run();
    let shown = ask_as_openssl(&pki, proxy.address(), &[]);
    assert!(shown.contains("Cert Status: good"), "{shown}");
}

#[test]
fn revoked_certificate_is_loud_and_its_former_response_is_not_sent_any_more() {
    let responder = Responder::reserve();
    let pki = Pki::new(Some(&responder.url()));
    let prepared = prepared(&pki, "fetch");
    // Good for so short a time that the responder is asked within seconds.
    fs::write(file(prepared.directory()), pki.response(Signer::Issuer, Status::NearlyOver)).unwrap();
    let _running = responder.start(&pki, Signer::Issuer, Status::Revoked, &["-nmin", "60"]);
    let proxy = prepared.run();
    let line = proxy.log().wait_for("has been revoked");
    assert!(line.contains("ERROR") && line.contains("listener=edge") && line.contains("edge.crt"), "{line}");
    wait_for(&proxy, "it is counted", || certificates(&proxy, "revoked") == 1.0 && fetched(&proxy, "revoked") >= 1.0);
    assert!(ask_as_openssl(&pki, proxy.address(), &[]).contains("OCSP response: no response sent"));
    let status: serde_json::Value = serde_json::from_str(&proxy.admin_request(&[], "/status").1).unwrap();
    assert_eq!(status["stapling"]["certificates"]["revoked"], 1);
}

#[test]
fn certificate_that_demands_a_response_is_loud_without_one_and_trusted_with_one() {
    let pki = Pki::of(Authority::root("Servers"), &Pki::profile(None).must_staple());
    let proxy = prepared(&pki, "off").run();
    let line = proxy.log().wait_for("demands an OCSP response (must-staple) and has none");
    assert!(line.contains("ERROR") && line.contains("edge.crt"), "{line}");
    wait_for(&proxy, "it is counted", || value(&proxy, "sluice_ocsp_must_staple_missing") == 1.0);
    let (shown, _) = ask_as_gnutls(&pki, proxy.address(), "NORMAL");
    assert!(!shown.contains("The certificate is trusted"), "gnutls refuses it: {shown}");

    fs::write(file(proxy.directory()), pki.response(Signer::Issuer, Status::Good)).unwrap();
    proxy.edit("ocsp = \"off\"", "ocsp = \"file\"");
    assert_eq!(proxy.reload().0, 200);
    let (shown, _) = ask_as_gnutls(&pki, proxy.address(), "NORMAL");
    assert!(shown.contains("The certificate is trusted"), "{shown}");
    wait_for(&proxy, "it is counted", || value(&proxy, "sluice_ocsp_must_staple_missing") == 0.0);
}

#[test]
fn check_tells_what_clients_will_miss() {
    let demanding = Pki::of(Authority::root("Servers"), &Pki::profile(None).must_staple());
    let plain = Pki::new(None);
    let check = |pki: &Pki, mode: &str, response: Option<Vec<u8>>| {
        let prepared = prepared(pki, mode);
        if let Some(response) = response {
            fs::write(file(prepared.directory()), response).unwrap();
        }
        let config = prepared.directory().join("sluice.toml");
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_sluice")).args(["check", "--config"]).arg(config).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(0), "never an error");
        String::from_utf8(output.stderr).unwrap()
    };
    for mode in ["off", "file", "fetch"] {
        let text = check(&demanding, mode, None);
        assert!(
            text.contains("warning: the certificate") && text.contains("demands an OCSP response, and has none"),
            "{text}"
        );
    }
    assert_eq!(check(&demanding, "file", Some(demanding.response(Signer::Issuer, Status::Good))), "");
    assert_eq!(check(&plain, "off", None), "");
    let text = check(&plain, "file", None);
    assert!(text.contains("note: no OCSP response is sent with the certificate"), "{text}");
    for (response, fault) in [
        (plain.response(Signer::Stranger, Status::Good), "is not signed by the certificate's issuer"),
        (plain.response(Signer::Issuer, Status::Revoked), "says that the certificate has been revoked at "),
        (plain.response(Signer::Issuer, Status::Expired), "was valid until "),
        (plain.response_about_another(), "is about another certificate"),
        (b"garbage".to_vec(), "is no OCSP response in DER"),
    ] {
        let text = check(&plain, "file", Some(response));
        assert!(text.contains("warning: the OCSP response") && text.contains(fault), "{fault}: {text}");
    }
    // Without the issuer nothing can be checked.
    let text = check(&plain.without_issuer(), "file", Some(plain.response(Signer::Issuer, Status::Good)));
    assert!(text.contains("the certificate's issuer is not in its chain"), "{text}");
}
