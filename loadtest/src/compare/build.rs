//! What a proxy's program says about itself: version, TLS library, modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::proxy::Product;

/// Facts about one program.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where it is.
    pub binary: PathBuf,
    /// Version: `1.22.1`.
    pub version: String,
    /// TLS library that it runs with: `OpenSSL 3.0.19`; `unknown` where that could not be found out.
    pub tls_library: String,
    /// nginx: the stream module to load, `None` when it is built in; an error says why there is none.
    pub stream_module: Result<Option<PathBuf>, String>,
}

impl Facts {
    /// Its version is `major.minor` or later.
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let own = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        own >= (major, minor)
    }
}

/// Asks the program at `path`. An error when it cannot be run.
pub fn inspect(product: Product, path: &Path) -> anyhow::Result<Facts> {
    let arguments: &[&str] = match product {
        Product::Nginx => &["-V"],
        Product::HaProxy => &["-vv"],
        Product::Stunnel => &["-version"],
        Product::Sluice | Product::Hitch => &["--version"],
    };
    let output = Command::new(path).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {}", path.display()))?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(Facts {
        binary: path.to_owned(),
        version: first_version(&text).unwrap_or("unknown").to_owned(),
        tls_library: running_library(&text).or_else(|| library_in_files(path)).unwrap_or_else(|| "unknown".to_owned()),
        stream_module: stream_module(&text),
    })
}

/// The first thing that looks like a version: digits, a dot, more.
fn first_version(text: &str) -> Option<&str> {
    let words = text.split([' ', '/', '\n', '\t', ',']);
    words.map(|word| word.trim_start_matches('v')).find(|word| {
        let mut parts = word.split('.');
        let is_number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u32>().is_ok());
        is_number(parts.next()) && parts.next().is_some_and(|part| part.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// nginx, HAProxy and stunnel say what they run with when it differs from what they were built with.
fn running_library(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let after = ["running with ", "running  with ", "running on openssl version : ", "built with openssl "];
    let at = after.iter().find_map(|marker| {
        let begin = lower.find(marker)?;
        // "built with openssl 3.0": the name belongs to the answer.
        Some(if marker.starts_with("built") { begin + "built with ".len() } else { begin + marker.len() })
    })?;
    library_name(text.get(at..)?)
}

/// `OpenSSL 3.0.19` from `OpenSSL 3.0.19 27 Jan 2026`.
fn library_name(text: &str) -> Option<String> {
    let line = text.lines().next()?;
    let mut words = line.split([' ', ')']);
    let (name, version) = (words.next()?, words.next()?);
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| format!("{name} {version}"))
}

/// The library's own version text, in the shared library that the program loads, else in the program.
fn library_in_files(path: &Path) -> Option<String> {
    let list = Command::new("ldd").arg(path).output().ok().map(|output| output.stdout).unwrap_or_default();
    let list = String::from_utf8_lossy(&list).into_owned();
    let shared = list.lines().find(|line| line.contains("libcrypto"));
    let shared = shared.and_then(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let file = shared.map_or_else(|| path.to_owned(), PathBuf::from);
    version_text(&fs::read(file).ok()?)
}

/// `OpenSSL 4.0.3` out of `OpenSSL 4.0.3 29 Sep 2026` somewhere in `bytes`.
fn version_text(bytes: &[u8]) -> Option<String> {
    const MARKER: &[u8] = b"OpenSSL ";
    let starts = bytes.windows(MARKER.len()).enumerate().filter(|(_, window)| *window == MARKER);
    starts.map(|(start, _)| &bytes[start..]).find_map(|text| {
        let text = text.get(..VERSION_TEXT_BYTES_MAX).unwrap_or(text);
        let text = text.split(|byte| !byte.is_ascii_graphic() && *byte != b' ').next()?;
        let name = library_name(std::str::from_utf8(text).ok()?)?;
        (name.matches('.').count() == 2).then_some(name)
    })
}

/// Distributions build the stream module as a file of its own, or not at all.
fn stream_module(text: &str) -> Result<Option<PathBuf>, String> {
    if !text.contains("--with-stream_ssl_module") {
        return Err("this nginx is built without --with-stream_ssl_module".to_owned());
    }
    if !text.contains("--with-stream=dynamic") {
        return Ok(None);
    }
    let argument = |name: &str| {
        let mut arguments = text.split_whitespace();
        arguments.find_map(|argument| argument.strip_prefix(name)).map(PathBuf::from)
    };
    let directory = argument("--modules-path=").or_else(|| Some(argument("--prefix=")?.join("modules")));
    let path = directory.unwrap_or_default().join("ngx_stream_module.so");
    if path.is_file() {
        Ok(Some(path))
    } else {
        Err(format!("{} is not there (Debian: apt-get install libnginx-mod-stream)", path.display()))
    }
}

/// The version text with its date is shorter than this.
const VERSION_TEXT_BYTES_MAX: usize = 48;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn version_is_found_in_what_each_program_prints() {
        for (text, version) in [
            ("nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.22", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/", "2.6.12-1+deb12u4"),
            ("hitch 1.7.2\n", "1.7.2"),
            ("Initializing inetd mode configuration\nstunnel 5.68 on x86_64-pc-linux-gnu platform", "5.68"),
            ("sluice 0.1.0", "0.1.0"),
        ] {
            assert_eq!(first_version(text), Some(version));
        }
    }

    #[test]
    fn library_that_runs_wins_over_the_one_built_with() {
        let nginx = "built with OpenSSL 3.0.22 25 Aug 2026 (running with OpenSSL 3.0.19 27 Jan 2026)\nTLS SNI";
        assert_eq!(running_library(nginx).as_deref(), Some("OpenSSL 3.0.19"));
        let haproxy = "Built with OpenSSL version : OpenSSL 3.0.22\nRunning on OpenSSL version : OpenSSL 3.0.19 27 Jan";
        assert_eq!(running_library(haproxy).as_deref(), Some("OpenSSL 3.0.19"));
        assert_eq!(running_library("built with OpenSSL 3.5.6 7 Apr 2026\n").as_deref(), Some("OpenSSL 3.5.6"));
        assert_eq!(running_library("hitch 1.7.2"), None);
    }

    #[test]
    fn version_text_is_found_between_other_bytes() {
        let bytes = b"\0OpenSSL %s\0..OpenSSL default\0OpenSSL 4.0.3 29 Sep 2026\0rest";
        assert_eq!(version_text(bytes).as_deref(), Some("OpenSSL 4.0.3"));
        assert_eq!(version_text(b"nothing here"), None);
    }

    #[test]
    fn versions_compare_by_number() {
        let facts = |version: &str| Facts {
            binary: PathBuf::new(),
            version: version.to_owned(),
            tls_library: String::new(),
            stream_module: Ok(None),
        };
        assert!(facts("3.3.0").is_at_least(3, 3));
        assert!(facts("3.10-dev5").is_at_least(3, 3));
        assert!(facts("4.0").is_at_least(3, 3));
        assert!(!facts("2.6.12-1+deb12u4").is_at_least(3, 3));
        assert!(!facts("unknown").is_at_least(3, 3));
    }

    #[test]
    fn stream_module_of_a_static_build_needs_no_loading() {
        let text = "configure arguments: --with-stream --with-stream_ssl_module";
        assert_eq!(stream_module(text), Ok(None));
        assert!(stream_module("configure arguments: --with-http_ssl_module").is_err());
        let text = "--with-stream=dynamic --with-stream_ssl_module --modules-path=/nowhere";
        assert!(stream_module(text).unwrap_err().contains("/nowhere/ngx_stream_module.so"));
    }
}
