//! The proxies that can take part: what they are called, where they are found, how they are started and checked.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::build;
use super::schema::{self, Absent};

/// A proxy program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// What is compared with the others.
    Sluice,
    /// nginx, with its stream and its http module.
    Nginx,
    /// HAProxy, in tcp and in http mode.
    HaProxy,
    /// Hitch.
    Hitch,
    /// stunnel.
    Stunnel,
}

impl Product {
    /// All of them, in the order of a round.
    pub const ALL: [Self; 5] = [Self::Sluice, Self::Nginx, Self::HaProxy, Self::Hitch, Self::Stunnel];

    /// Its name, also of its program.
    pub fn label(self) -> &'static str {
        match self {
            Self::Sluice => "sluice",
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
            Self::Hitch => "hitch",
            Self::Stunnel => "stunnel",
        }
    }

    /// Its modes: ending of the proxy's name, mode and configuration template.
    fn modes(self) -> &'static [(&'static str, Mode, &'static str)] {
        match self {
            Self::Sluice => &[("", Mode::Tcp, include_str!("../../peers/sluice.toml"))],
            Self::Nginx => &[
                ("-stream", Mode::Tcp, include_str!("../../peers/nginx-stream.conf")),
                ("-http", Mode::Http, include_str!("../../peers/nginx-http.conf")),
            ],
            Self::HaProxy => &[
                ("-tcp", Mode::Tcp, include_str!("../../peers/haproxy-tcp.conf")),
                ("-http", Mode::Http, include_str!("../../peers/haproxy-http.conf")),
            ],
            Self::Hitch => &[("", Mode::Tcp, include_str!("../../peers/hitch.conf"))],
            Self::Stunnel => &[("", Mode::Tcp, include_str!("../../peers/stunnel.conf"))],
        }
    }

    /// Who can protect its records, userspace first: ending of the proxy's name, and the choice.
    fn variants(self) -> &'static [(&'static str, Records)] {
        match self {
            Self::Sluice => &[("", Records::Userspace), ("+ktls", Records::Kernel), ("+auto", Records::Chosen)],
            Self::Nginx | Self::HaProxy => &[("", Records::Userspace), ("+ktls", Records::Kernel)],
            Self::Hitch | Self::Stunnel => &[("", Records::Userspace)],
        }
    }
}

/// What a proxy does with the bytes inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Relays them.
    Tcp,
    /// Parses requests, and keeps backend connections.
    Http,
}

impl Mode {
    fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
        }
    }
}

/// Who protects records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// The proxy or its library.
    Userspace,
    /// The kernel, from the first byte after the handshake.
    Kernel,
    /// What the proxy decides by its own policy, direction by direction.
    Chosen,
}

impl Records {
    fn label(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Kernel => "kernel",
            Self::Chosen => "chosen",
        }
    }
}

/// A build that the user added: `name=PATH`. The name starts with the product's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Name: `haproxy-3.4`.
    pub name: String,
    /// Which product it is.
    pub product: Product,
    /// Program.
    pub binary: PathBuf,
}

impl FromStr for Build {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=PATH"))?;
        let is_own = |product: &&Product| {
            name.strip_prefix(product.label()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let product = *Product::ALL.iter().find(is_own).ok_or_else(|| {
            let known = Product::ALL.map(Product::label).join(", ");
            format!(
                "{name:?} does not name a known proxy: start it with one of {known}, as in haproxy-3.4=/opt/haproxy"
            )
        })?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !name.bytes().all(is_plain) {
            return Err(format!("{name:?} may have letters, digits, '-', '.' and '_' only: it names files"));
        }
        Ok(Self { name: name.to_owned(), product, binary: PathBuf::from(path) })
    }
}

/// One proxy in one mode, ready to be configured.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Unique name.
    pub name: String,
    /// What it is.
    pub product: Product,
    /// What it does with the bytes.
    pub mode: Mode,
    /// Who protects records.
    pub records: Records,
    /// Template of its configuration.
    pub template: &'static str,
    /// Where its program is, and what that says about itself.
    pub build: build::Facts,
}

impl Candidate {
    /// Arguments that serve `config`. `directory` is where it may write.
    pub fn serve_arguments(&self, config: &Path, directory: &Path) -> Vec<OsString> {
        match self.product {
            Product::Sluice => arguments(["run".as_ref(), "--config".as_ref(), config]),
            Product::Nginx => arguments(["-p".as_ref(), directory, "-c".as_ref(), config]),
            Product::HaProxy => arguments(["-db".as_ref(), "-f".as_ref(), config]),
            Product::Hitch => arguments(["--config".as_ref(), config]),
            Product::Stunnel => arguments([config]),
        }
    }

    /// Arguments of the program's own check of `config`; `None` for a program without one.
    pub fn check_arguments(&self, config: &Path, directory: &Path) -> Option<Vec<OsString>> {
        match self.product {
            Product::Sluice => Some(arguments(["check".as_ref(), "--config".as_ref(), config])),
            Product::Nginx => Some(arguments(["-p".as_ref(), directory, "-t".as_ref(), "-c".as_ref(), config])),
            Product::HaProxy => Some(arguments(["-c".as_ref(), "-f".as_ref(), config])),
            Product::Hitch => Some(arguments(["--test".as_ref(), "--config".as_ref(), config])),
            Product::Stunnel => None,
        }
    }

    /// Its entry in `compare.json`; `subject` is the name of what the others are compared with.
    pub fn describe(&self, subject: &str) -> schema::Proxy {
        schema::Proxy {
            name: self.name.clone(),
            subject: self.name == subject,
            mode: self.mode.label().to_owned(),
            records: self.records.label().to_owned(),
            binary: self.build.binary.display().to_string(),
            version: self.build.version.clone(),
            tls_library: self.build.tls_library.clone(),
        }
    }
}

/// What to look for.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// The subject's program; `None` looks beside this program, then on PATH.
    pub sluice: Option<PathBuf>,
    /// Builds that the user added. One with the plain name of a product takes the place of that on PATH.
    pub builds: Vec<Build>,
    /// Names, or their beginnings up to a `-` or `+`; empty is everybody.
    pub only: Vec<String>,
    /// Adds a `+ktls` variant of each proxy that can hand records to the kernel, and `+auto` of one that decides.
    pub with_kernel_tls: bool,
}

/// Who takes part, in the order of a round, and who could not.
pub fn discover(search: &Search) -> (Vec<Candidate>, Vec<Absent>) {
    let (mut found, mut absent) = (Vec::new(), Vec::new());
    for product in Product::ALL {
        if search.builds.iter().any(|build| build.name == product.label()) || !wants_product(search, product) {
            continue;
        }
        let path = match product {
            Product::Sluice => search.sluice.clone().or_else(beside_this_program).or_else(|| on_path(product.label())),
            _ => on_path(product.label()),
        };
        match path {
            Some(path) => add(search, product.label(), product, &path, &mut found, &mut absent),
            None => absent.push(Absent {
                name: product.label().to_owned(),
                reason: format!("no program {} on PATH", product.label()),
            }),
        }
    }
    for build in &search.builds {
        add(search, &build.name, build.product, &build.binary, &mut found, &mut absent);
    }
    (found, absent)
}

fn add(
    search: &Search,
    name: &str,
    product: Product,
    path: &Path,
    found: &mut Vec<Candidate>,
    absent: &mut Vec<Absent>,
) {
    let facts = match build::inspect(product, path) {
        Ok(facts) => facts,
        Err(error) => {
            absent.push(Absent { name: name.to_owned(), reason: format!("{error:#}") });
            return;
        }
    };
    for (ending, mode, template) in product.modes() {
        let variants = product.variants().iter().take(if search.with_kernel_tls { usize::MAX } else { 1 });
        for (variant, records) in variants {
            let candidate = Candidate {
                name: format!("{name}{ending}{variant}"),
                product,
                mode: *mode,
                records: *records,
                template,
                build: facts.clone(),
            };
            if !is_selected(&search.only, &candidate.name) {
                continue;
            }
            match obstacle(&candidate) {
                Some(reason) => absent.push(Absent { name: candidate.name, reason }),
                None => found.push(candidate),
            }
        }
    }
}

/// Why `candidate` cannot do its job, as far as its build tells.
fn obstacle(candidate: &Candidate) -> Option<String> {
    if candidate.product == Product::Nginx && candidate.mode == Mode::Tcp && candidate.build.stream_module.is_err() {
        return candidate.build.stream_module.clone().err();
    }
    if candidate.records == Records::Userspace {
        return None;
    }
    if !kernel_has_tls() {
        return Some("this kernel offers no TLS to TCP sockets (modprobe tls)".to_owned());
    }
    let is_too_old = candidate.product == Product::HaProxy && !candidate.build.is_at_least(3, 3);
    is_too_old.then(|| "kernel TLS needs HAProxy 3.3 or later".to_owned())
}

fn kernel_has_tls() -> bool {
    let layers = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    layers.split_whitespace().any(|layer| layer == "tls")
}

/// Whether `name` is selected by `only`.
pub fn is_selected(only: &[String], name: &str) -> bool {
    let begins = |wanted: &String| {
        name.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '+']))
    };
    only.is_empty() || only.iter().any(begins)
}

fn wants_product(search: &Search, product: Product) -> bool {
    search.only.is_empty() || search.only.iter().any(|wanted| wanted.starts_with(product.label()))
}

fn beside_this_program() -> Option<PathBuf> {
    let path = env::current_exe().ok()?.parent()?.join("sluice");
    path.is_file().then_some(path)
}

/// Daemons live in `sbin`, which is not on every user's PATH.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    directories.map(|directory| directory.join(program)).find(|path| path.is_file())
}

fn arguments<const N: usize>(list: [&Path; N]) -> Vec<OsString> {
    list.map(|argument| argument.as_os_str().to_owned()).to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn build_with_a_known_product_is_accepted() {
        let build: Build = "haproxy-3.4=/opt/haproxy".parse().unwrap();
        assert_eq!((build.product, build.name.as_str()), (Product::HaProxy, "haproxy-3.4"));
        assert_eq!(build.binary, Path::new("/opt/haproxy"));
    }

    #[test]
    fn build_with_an_unknown_product_is_refused_with_the_known_ones() {
        let error = "envoy=/opt/envoy".parse::<Build>().unwrap_err();
        assert!(error.contains("nginx, haproxy, hitch"), "{error}");
        assert!("haproxyx=/x".parse::<Build>().is_err());
        assert!("haproxy".parse::<Build>().is_err());
    }

    #[test]
    fn build_with_a_slash_in_its_name_is_refused() {
        assert!("nginx-../x=/opt/nginx".parse::<Build>().unwrap_err().contains("names files"));
    }

    #[test]
    fn selection_takes_names_and_their_beginnings() {
        let only = ["nginx".to_owned(), "haproxy-tcp".to_owned()];
        for name in ["nginx-stream", "nginx-http", "haproxy-tcp", "haproxy-tcp+ktls"] {
            assert!(is_selected(&only, name), "{name}");
        }
        for name in ["haproxy-http", "hitch", "nginxx"] {
            assert!(!is_selected(&only, name), "{name}");
        }
    }
}
