//! Configurations from the templates in `loadtest/peers/`, with equal settings for every proxy.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Uid;

use super::certificate::Identity;
use super::proxy::{Candidate, Product, Records};
use super::schema::Tickets;

/// TLS 1.3 suites of every proxy, in order.
pub const TLS13_SUITES: &str = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
/// TLS 1.2 suites of every proxy, in order, OpenSSL names.
pub const TLS12_SUITES: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
                                ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384";
/// Groups of every proxy.
pub const GROUPS: &str = "X25519";

/// What a configuration is made for.
#[derive(Clone, Debug)]
pub struct Terms<'a> {
    /// Where the proxy listens, on 127.0.0.1.
    pub port: u16,
    /// A second free port, for an admin address.
    pub admin_port: u16,
    /// Where the plain backend listens.
    pub backend: SocketAddr,
    /// The certificate.
    pub identity: &'a Identity,
    /// Whether tickets are handed out.
    pub tickets: Tickets,
    /// The proxy's CPU.
    pub proxy_cpu: usize,
    /// Where the proxy may write.
    pub directory: &'a Path,
}

/// Writes the configuration of `candidate` below the directory of `terms`, and gives its path.
pub fn write(candidate: &Candidate, terms: &Terms<'_>) -> anyhow::Result<PathBuf> {
    let text = render(candidate.template, &values(candidate, terms))
        .with_context(|| format!("template of {}", candidate.name))?;
    let path = terms.directory.join(format!("{}.conf", candidate.name));
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Writes the configuration file of the TLS library that every proxy gets through `OPENSSL_CONF`.
///
/// Only nginx, HAProxy and stunnel have a setting for tickets, and those differ: OpenSSL then still sends TLS 1.3
/// tickets that name a session in a cache. The library's own setting says none, and says it for all.
pub fn write_library_config(directory: &Path, tickets: Tickets) -> anyhow::Result<PathBuf> {
    let (name, text) = match tickets {
        Tickets::On => ("tickets-on.cnf", "# Nothing: the library's defaults, not the distribution's.\n"),
        Tickets::Off => ("tickets-off.cnf", TICKETS_OFF),
    };
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn values(candidate: &Candidate, terms: &Terms<'_>) -> Vec<(&'static str, String)> {
    let kernel = candidate.records == Records::Kernel;
    let on = |text: &str| if kernel { text.to_owned() } else { String::new() };
    let mut values = vec![
        ("port", terms.port.to_string()),
        ("backend", terms.backend.to_string()),
        ("chain", terms.identity.chain.display().to_string()),
        ("key", terms.identity.key.display().to_string()),
        ("bundle", terms.identity.bundle.display().to_string()),
        ("dir", terms.directory.display().to_string()),
        ("tls12_suites", TLS12_SUITES.to_owned()),
        ("tls13_suites", TLS13_SUITES.to_owned()),
        ("groups", GROUPS.to_owned()),
    ];
    values.extend(match candidate.product {
        Product::Sluice => vec![
            ("proxy_cpu", terms.proxy_cpu.to_string()),
            ("admin_port", terms.admin_port.to_string()),
            ("ticket_lifetime", switch(terms.tickets, "12h", "0s")),
            (
                "kernel_tls",
                match candidate.records {
                    Records::Userspace => "off".to_owned(),
                    Records::Kernel => "always".to_owned(),
                    Records::Chosen => "auto".to_owned(),
                },
            ),
        ],
        Product::Nginx => {
            let module = candidate.build.stream_module.as_ref().ok().and_then(Option::as_ref);
            vec![
                (
                    "load_stream_module",
                    module.map_or_else(String::new, |path| format!("load_module {};", path.display())),
                ),
                ("user", as_root("user root;")),
                ("tickets_on_off", switch(terms.tickets, "on", "off")),
                ("kernel_tls", on("ssl_conf_command Options KTLS;")),
            ]
        }
        Product::HaProxy => vec![
            ("no_tickets", switch(terms.tickets, "", "no-tls-tickets")),
            ("maxconn", connections_max().to_string()),
            ("kernel_tls_global", on("expose-experimental-directives")),
            ("kernel_tls", on("ktls on")),
        ],
        Product::Hitch => vec![
            ("backend_host", terms.backend.ip().to_string()),
            ("backend_port", terms.backend.port().to_string()),
            ("user", as_root("user = \"root\"\ngroup = \"root\"")),
        ],
        Product::Stunnel => vec![("no_tickets", switch(terms.tickets, "", "options = NO_TICKET"))],
    });
    values
}

/// Connections that the descriptor limit has room for when each takes two, and a splicing HAProxy half a one more.
fn connections_max() -> u64 {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(DESCRIPTORS_MIN, |(_, hard)| hard);
    (descriptors / 8 * 3).min(CONNECTIONS_MAX)
}

fn switch(tickets: Tickets, on: &str, off: &str) -> String {
    match tickets {
        Tickets::On => on.to_owned(),
        Tickets::Off => off.to_owned(),
    }
}

/// Started as root, nginx and Hitch change to another user, who could not read the comparison's directory.
fn as_root(text: &str) -> String {
    if Uid::effective().is_root() { text.to_owned() } else { String::new() }
}

/// Replaces every `{{name}}`; a name without a value is an error.
fn render(template: &str, values: &[(&'static str, String)]) -> anyhow::Result<String> {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            bail!("a {{{{ without its }}}}");
        };
        let Some((_, value)) = values.iter().find(|(known, _)| *known == name) else {
            bail!("no value for {{{{{name}}}}}");
        };
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// What every system gives a process.
const DESCRIPTORS_MIN: u64 = 1024;
/// More than any scenario opens.
const CONNECTIONS_MAX: u64 = 20_000;

/// `-SessionTicket` is TLS 1.2, `NumTickets` is TLS 1.3.
const TICKETS_OFF: &str = "\
openssl_conf = library
[library]
ssl_conf = modules
[modules]
system_default = defaults
[defaults]
Options = -SessionTicket
NumTickets = 0
";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn render_replaces_every_name() {
        let values = [("port", "1".to_owned()), ("dir", "/d".to_owned())];
        assert_eq!(render("a {{port}} b {{dir}}/x {{port}}", &values).unwrap(), "a 1 b /d/x 1");
    }

    #[test]
    fn render_without_a_value_is_an_error_that_names_it() {
        assert!(render("{{other}}", &[]).unwrap_err().to_string().contains("{{other}}"));
        assert!(render("{{open", &[]).is_err());
    }
}
