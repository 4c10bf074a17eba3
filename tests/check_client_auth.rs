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

/// A second listener with these lines of its TLS.
fn second(tls_lines: &str) -> String {
    format!(
        "[[listener]]\nname = \"back\"\naddress = \"127.0.0.1:8444\"\nbackend = \"app\"\n[listener.tls]\n\
         certificates = [{{ chain = \"edge.crt\", key = \"edge.key\" }}]\n{tls_lines}\n"
    )
}

/// The good configuration, whose listener asks its clients for this, with more behind it.
fn asking(client_auth: &str, more: &str) -> String {
    GOOD.replacen("[[backend]]", &format!("{client_auth}\n\n[[backend]]"), 1) + more
}

/// The good configuration with sections of its listener, each with its lines.
fn sections(listener: &str, sections: &[&str], more: &str) -> String {
    let sections: String = sections.iter().map(|lines| format!("[[listener.server_name]]\n{lines}\n")).collect();
    GOOD.replacen("[[backend]]", &format!("{listener}\n{sections}\n[[backend]]"), 1) + more
}

const REQUIRED: &str = "client_auth = { ca = \"clients.pem\" }";
const OTHER: &str = "[[backend]]\nname = \"other\"\nservers = [\"127.0.0.1:8081\"]\n";

fn folder_with_clients() -> Folder {
    let folder = Folder::new();
    Authority::root("Clients").write(folder.path(), "clients.pem");
    folder
}

#[test]
fn server_that_is_guarded_at_one_door_only_is_refused() {
    let folder = folder_with_clients();
    let guarded = format!("names = [\"a.edge.test\"]\n{REQUIRED}");
    let elsewhere = format!("{guarded}\nbackend = \"other\"");
    // The same server under another name.
    let twin = "[[backend]]\nname = \"twin\"\nservers = [\"127.0.0.1:9\", \"127.0.0.1:8080\"]\n";
    let narrower = "names = [\"a.edge.test\"]\nclient_auth = { ca = \"clients.pem\", allowed = [\"cn:a\"] }";
    for (config, title) in [
        (
            asking(REQUIRED, &second("")),
            "listener \"back\" needs no client certificate for a server for which listener \"edge\"",
        ),
        (
            sections("", &[&guarded], ""),
            "listener \"edge\" needs no client certificate for a server for which server_name \"a.edge.test\"",
        ),
        (
            sections("", &[&elsewhere, "names = [\"b.edge.test\"]\nbackend = \"other\""], OTHER),
            "server_name \"b.edge.test\" of listener \"edge\" needs no client certificate for a server for which \
             server_name \"a.edge.test\"",
        ),
        (
            sections(REQUIRED, &["names = [\"a.edge.test\", \"b.edge.test\"]\nclient_auth.mode = \"off\""], ""),
            "server_name \"a.edge.test\" and others of listener \"edge\" needs no client certificate",
        ),
        (
            sections("", &[&format!("{guarded}\nbackend = \"twin\"")], twin),
            "listener \"edge\" needs no client certificate for a server",
        ),
        (sections(REQUIRED, &[narrower], ""), "lets in clients with other certificates to a server than"),
        (
            sections(&REQUIRED.replace("ca =", "mode = \"optional\", ca ="), &[&guarded], ""),
            "listener \"edge\" needs no client certificate",
        ),
    ] {
        let outcome = folder.check(&config);
        assert_refused(&outcome, &[title, "reached through here as well", "mixed_client_auth = \"accept\""]);
        assert_eq!(outcome.stderr.matches("error: ").count(), 1, "{}", outcome.stderr);
    }
}

#[test]
fn server_whose_every_door_is_guarded_alike_or_open_is_taken() {
    let folder = folder_with_clients();
    let guarded = format!("names = [\"a.edge.test\"]\n{REQUIRED}");
    let elsewhere = format!("{guarded}\nbackend = \"other\"");
    let optional = "names = [\"a.edge.test\"]\nclient_auth = { mode = \"optional\", ca = \"clients.pem\" }";
    for config in [
        asking(REQUIRED, &second(REQUIRED)),
        sections("", &[&elsewhere], OTHER),
        sections(REQUIRED, &[&guarded, "names = [\"b.edge.test\"]"], ""),
        sections(REQUIRED, &["names = [\"a.edge.test\"]\nbackend = \"other\"\nclient_auth.mode = \"off\""], OTHER),
        // Nobody is refused at any of these doors, so none is guarded.
        sections("", &[optional], ""),
    ] {
        let outcome = folder.check(&config);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn mixed_doors_are_accepted_where_the_servers_tell_them_apart() {
    let folder = folder_with_clients();
    let guarded = format!("names = [\"a.edge.test\"]\n{REQUIRED}");
    let check = |lines: &str, more: &str| folder.check(&(sections("", &[&guarded], lines) + more));
    let outcome = check("mixed_client_auth = \"accept\"\nproxy_protocol = \"v2\"\n", "");
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    for blind in ["", "proxy_protocol = \"v1\"\n", "proxy_protocol = \"v2\"\nproxy_protocol_tlvs = [\"ssl\"]\n"] {
        let outcome = check(&format!("mixed_client_auth = \"accept\"\n{blind}"), "");
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("cannot tell clients apart"), "{blind}: {}", outcome.stderr);
    }
    assert_refused(&check("mixed_client_auth = \"refuse\"\n", ""), &["needs no client certificate"]);
    // Accepted of one of two backends, it says nothing about the other.
    let twin = "[[backend]]\nname = \"twin\"\nservers = [\"127.0.0.1:8080\"]\n";
    let third = second("").replace("backend = \"app\"", "backend = \"twin\"");
    let lines = "mixed_client_auth = \"accept\"\nproxy_protocol = \"v2\"\n";
    let outcome = folder.check(&sections("", &[&guarded], &format!("{lines}{twin}{third}")));
    assert_refused(&outcome, &["listener \"back\" needs no client certificate"]);
}

#[test]
fn mistakes_of_a_section_are_shown_at_their_lines() {
    let folder = folder_with_clients();
    let check = |client_auth: &str| {
        folder.check(&sections("", &[&format!("names = [\"a.edge.test\"]\nbackend = \"other\"\n{client_auth}")], OTHER))
    };
    for (client_auth, parts) in [
        ("client_auth = {}", ["`listener.server_name.client_auth.ca` is missing", "sluice.toml:"]),
        ("client_auth = { ca = \"missing.pem\" }", ["cannot read CA file", "sluice.toml:"]),
        (
            "client_auth = { ca = \"clients.pem\", depth = 17 }",
            ["above its upper bound", "server_name.client_auth.depth"],
        ),
        ("client_auth = { ca = \"clients.pem\", modes = \"off\" }", ["unknown key", "did you mean `mode`?"]),
    ] {
        assert_refused(&check(client_auth), &parts);
    }
    assert_eq!(check("client_auth.mode = \"off\"").stderr, "");
}

#[test]
fn kinds_of_client_auth_on_one_listener_are_bounded() {
    let folder = folder_with_clients();
    let check = |count: usize| {
        let section = |number| {
            format!(
                "names = [\"n{number}.edge.test\"]\n\
                 client_auth = {{ mode = \"optional\", ca = \"clients.pem\", allowed = [\"cn:{number}\"] }}"
            )
        };
        let kinds: Vec<_> = (0..count).map(section).collect();
        // More sections of a kind that is there cost nothing.
        let more = section(0).replace("n0", "more");
        let all: Vec<_> = kinds.iter().chain([&more]).map(String::as_str).collect();
        folder.check(&sections("", &all, ""))
    };
    // The listener's own, which asks nobody, is one of them.
    assert_eq!(check(255).code, Some(0), "{}", check(255).stderr);
    assert_refused(&check(256), &["too many kinds of `client_auth` on one listener", "allowed: up to 256"]);
}
