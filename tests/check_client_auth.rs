//! What `sluice check` says of the files of `client_auth`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod pki_support;
#[path = "check_support/mod.rs"]
mod support;

use pki_support::Authority;
use support::{Folder, GOOD, Outcome};

const DAY: i64 = 86_400;

/// The good configuration with this setting.
fn check(folder: &Folder, client_auth: &str) -> Outcome {
    folder.check(&GOOD.replacen("[[backend]]", &format!("client_auth = {client_auth}\n\n[[backend]]"), 1))
}

fn assert_refused(outcome: &Outcome, parts: &[&str]) {
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    for part in parts {
        assert!(outcome.stderr.contains(part), "no {part:?} in {}", outcome.stderr);
    }
}

#[test]
fn each_bad_file_is_refused_with_its_reason() {
    let folder = Folder::new();
    let root = Authority::root("Clients");
    root.write(folder.path(), "clients.pem");
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    folder.write("empty", b" \n");
    folder.write("garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    folder.write("garbage.crl", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    folder.write("text", b"no certificate at all");
    for (ca, reason) in [
        ("missing", "cannot read CA file"),
        ("folder", "is a directory, not a regular file"),
        ("empty", "is empty"),
        ("garbage", "is damaged"),
        ("text", "holds no PEM certificate"),
        ("edge.key", "holds no PEM certificate"),
    ] {
        let outcome = check(&folder, &format!("{{ ca = \"{ca}\" }}"));
        assert_refused(&outcome, &[reason, ca, "sluice.toml:"]);
    }
    for (crl, reason) in [
        ("missing", "cannot read CRL file"),
        ("folder", "is a directory, not a regular file"),
        ("empty", "is empty"),
        ("garbage.crl", "is damaged"),
        ("clients.pem", "holds no revocation list"),
    ] {
        let outcome = check(&folder, &format!("{{ ca = \"clients.pem\", crl = [\"{crl}\"] }}"));
        assert_refused(&outcome, &[reason, crl, "sluice.toml:"]);
    }
}

#[test]
fn mistakes_of_the_section_are_refused() {
    let folder = Folder::new();
    Authority::root("Clients").write(folder.path(), "clients.pem");
    assert_refused(&check(&folder, "{}"), &["`listener.tls.client_auth.ca` is missing"]);
    for (setting, parts) in [
        ("mode = \"always\"", ["\"required\", \"optional\" or \"off\"", "always"]),
        ("depth = 17", ["above its upper bound", "allowed: 0 to 16 (default 3)"]),
        ("crl = []", ["`client_auth.crl` is empty", "allowed: 1 to 64 files"]),
        ("allowed = []", ["`client_auth.allowed` is empty", "allowed: 1 to 1024 identities"]),
        ("allowed = [\"client.example\"]", ["dns:NAME", "client.example"]),
        ("require = true", ["unknown key", "require"]),
    ] {
        assert_refused(&check(&folder, &format!("{{ ca = \"clients.pem\", {setting} }}")), &parts);
    }
}

#[test]
fn what_will_refuse_every_client_is_warned_of() {
    let folder = Folder::new();
    let root = Authority::root("Clients");
    root.write(folder.path(), "clients.pem");
    folder.write("old.crl", &root.revocation_list(&[], -60));
    folder.write("other.crl", &Authority::root("Others").revocation_list(&[], DAY));
    root.expired_intermediate("Old").write(folder.path(), "old.pem");
    folder.write("good.crl", &root.revocation_list(&[], DAY));
    for (setting, warning) in [
        ("ca = \"old.pem\"", Some("the authority O=Sluice tests, CN=Old has expired")),
        (
            "ca = \"clients.pem\", crl = [\"old.crl\"]",
            Some("the revocation list of O=Sluice tests, CN=Clients has expired"),
        ),
        ("ca = \"clients.pem\", crl = [\"other.crl\"]", Some("there is no revocation list of the authority")),
        ("ca = \"clients.pem\", expired_crl = \"warn\"", Some("`expired_crl` has no effect")),
        ("ca = \"clients.pem\", crl = [\"good.crl\"], depth = 0, allowed = [\"cn:a\"]", None),
        // Nobody is asked, so nothing has to be there.
        ("mode = \"off\", ca = \"nowhere.pem\"", None),
    ] {
        let outcome = check(&folder, &format!("{{ {setting} }}"));
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        match warning {
            Some(warning) => assert!(outcome.stderr.contains(warning), "{setting}: {}", outcome.stderr),
            None => assert_eq!(outcome.stderr, ""),
        }
    }
}

#[test]
fn backend_that_is_guarded_at_one_listener_only_is_warned_of() {
    let folder = Folder::new();
    Authority::root("Clients").write(folder.path(), "clients.pem");
    let second = |client_auth: &str| {
        let tls = format!("certificates = [{{ chain = \"edge.crt\", key = \"edge.key\" }}]\n{client_auth}");
        format!(
            "[[listener]]\nname = \"back\"\naddress = \"127.0.0.1:8444\"\nbackend = \"app\"\n[listener.tls]\n{tls}\n"
        )
    };
    let required = "client_auth = { ca = \"clients.pem\" }";
    let guarded = GOOD.replacen("[[backend]]", &format!("{required}\n\n[[backend]]"), 1);
    let outcome = folder.check(&(guarded.clone() + &second("")));
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("listener \"back\" needs no client certificate"), "{}", outcome.stderr);
    let outcome = folder.check(&(guarded + &second(required)));
    assert_eq!(outcome.stderr, "", "both ask");
}
