//! Steers the `vendored` build of `openssl-sys` to OpenSSL 4.0 (docs/decisions/0001-openssl-4.md).
//!
//! `openssl-sys` 0.9 asks for `openssl-src ^300.2`, whose newest release carries OpenSSL 3.6.3: end of life, with
//! published vulnerabilities. This crate takes that name and version range through `[patch.crates-io]`, takes the
//! sources from the 400 line, and configures them for a TLS proxy on Linux.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use openssl_src_400::source_dir;

/// What Sluice leaves out of OpenSSL, and how it is linked.
const CONFIGURE_OPTIONS: &[&str] = &[
    "no-shared",
    "no-module",
    "no-tests",
    "no-apps",
    "no-docs",
    "no-legacy",
    "no-weak-ssl-ciphers",
    "no-md2",
    "no-rc5",
    "no-camellia",
    "no-idea",
    "no-seed",
    "no-quic",
    // A distribution's openssl.cnf must not change what the proxy negotiates.
    "no-autoload-config",
    // In name only: see HEADERS.
    "enable-brotli",
    "zlib",
    "--libdir=lib",
    "--openssldir=/etc/ssl",
];

/// Headers that stand in the place of Brotli's and zlib's, below `include`: OpenSSL compiles with them, and whatever it
/// asks of either fails.
///
/// A server sends certificates that were compressed elsewhere (RFC 8879), but OpenSSL only takes them for an algorithm that
/// it was built for (`ossl_comp_has_alg`). Sluice compresses in Rust; neither library is linked, and no peer can have
/// anything expanded (docs/decisions/0010-certificates.md).
const HEADERS: &[(&str, &str)] = &[
    ("brotli/encode.h", include_str!("../headers/brotli/encode.h")),
    ("brotli/decode.h", include_str!("../headers/brotli/decode.h")),
    ("zlib.h", include_str!("../headers/zlib.h")),
];

/// What is changed in OpenSSL's sources: file, text that stands there once, what replaces it.
const CHANGES: &[(&str, &str, &str)] = &[
    // By itself a library that knows an algorithm asks every peer for compressed certificates. One that can expand nothing
    // must not: so this is among the options that a context begins with.
    (
        "ssl/ssl_lib.c",
        "ret->options |= SSL_OP_NO_COMPRESSION |",
        "ret->options |= SSL_OP_NO_RX_CERTIFICATE_COMPRESSION | SSL_OP_NO_COMPRESSION |",
    ),
    // OpenSSL asks for the key of a ticket and protects it itself: it makes, fetches, keys, wipes and frees two contexts each
    // time, and encodes a session four times and decodes it once, where its length and the encoding are needed. With these the program protects it.
    (
        "ssl/t1_lib.c",
        "SSL_TICKET_STATUS tls_decrypt_ticket(SSL_CONNECTION *s,",
        concat!(include_str!("../changes/ticket_hooks.c"), "SSL_TICKET_STATUS tls_decrypt_ticket(SSL_CONNECTION *s,"),
    ),
    (
        "ssl/t1_lib.c",
        "    hctx = ssl_hmac_new(tctx);",
        concat!(include_str!("../changes/ticket_open.c"), "    hctx = ssl_hmac_new(tctx);"),
    ),
    (
        "ssl/t1_lib.c",
        "    sess = d2i_SSL_SESSION_ex(NULL, &p, slen, sctx->libctx, sctx->propq);",
        "sluice_opened:\n    sess = d2i_SSL_SESSION_ex(NULL, &p, slen, sctx->libctx, sctx->propq);",
    ),
    (
        "ssl/statem/statem_srvr.c",
        "    ctx = EVP_CIPHER_CTX_new();",
        concat!(include_str!("../changes/ticket_seal.c"), "    ctx = EVP_CIPHER_CTX_new();"),
    ),
];

/// The OpenSSL version that [`Build`] makes, as the source crate states it.
pub fn version() -> &'static str {
    openssl_src_400::version()
}

/// A build of OpenSSL, with the interface that `openssl-sys` expects.
#[derive(Debug, Default)]
pub struct Build {
    openssl_dir: Option<PathBuf>,
}

impl Build {
    /// A build with Sluice's options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the directory in which OpenSSL looks for certificates at run time; `/etc/ssl` unless set.
    pub fn openssl_dir<P: AsRef<Path>>(&mut self, path: P) -> &mut Self {
        self.openssl_dir = Some(path.as_ref().to_path_buf());
        self
    }

    /// Configures, builds and installs OpenSSL, or hands back an earlier build with the same sources and options.
    ///
    /// Exits the build script with a message when a step fails.
    pub fn build(&mut self) -> Artifacts {
        match self.try_build() {
            Ok(artifacts) => artifacts,
            Err(message) => {
                eprintln!("\nopenssl-src: {message}\nOpenSSL needs perl, make and a C compiler to build.\n");
                #[allow(clippy::disallowed_methods, reason = "the caller is a build script, which ends here")]
                std::process::exit(1);
            }
        }
    }

    fn try_build(&self) -> Result<Artifacts, String> {
        let target = env::var("TARGET").map_err(|_| "TARGET is not set")?;
        let platform = match target.as_str() {
            "x86_64-unknown-linux-gnu" => "linux-x86_64",
            "aarch64-unknown-linux-gnu" => "linux-aarch64",
            other => return Err(format!("Sluice builds for x86_64 and aarch64 Linux with glibc, not for {other}")),
        };
        let mut options: Vec<String> = CONFIGURE_OPTIONS.iter().map(ToString::to_string).collect();
        if let Some(dir) = &self.openssl_dir {
            options.push(format!("--openssldir={}", dir.display()));
        }
        let root = cache_dir(platform)?;
        fs::create_dir_all(&root).map_err(|error| at(&root, error))?;
        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).map_err(|error| at(&lock_path, error))?;
        lock.lock().map_err(|error| at(&lock_path, error))?;

        let install = root.join("install");
        let stamp = root.join("stamp");
        let wanted = format!("{} {platform} {}\n{HEADERS:?}\n{CHANGES:?}", version(), options.join(" "));
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(Artifacts { install });
        }
        let source = root.join("source");
        for stale in [&source, &install] {
            match fs::remove_dir_all(stale) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(stale, error)),
                _ => {}
            }
        }
        copy_tree(&source_dir(), &source).map_err(|error| at(&source, error))?;
        adapt(&source)?;

        let mut configure = Command::new("perl");
        configure.arg("./Configure").arg(format!("--prefix={}", install.display())).args(&options).arg(platform);
        run("configure", configure.current_dir(&source))?;
        let jobs = env::var("NUM_JOBS").unwrap_or_else(|_| "2".into());
        run("make", Command::new("make").arg("-s").arg(format!("-j{jobs}")).arg("build_libs").current_dir(&source))?;
        run("make install", Command::new("make").arg("-s").arg("install_dev").current_dir(&source))?;
        fs::remove_dir_all(&source).map_err(|error| at(&source, error))?;
        fs::write(&stamp, wanted).map_err(|error| at(&stamp, error))?;
        Ok(Artifacts { install })
    }
}

/// Where a finished build lies.
#[derive(Debug)]
pub struct Artifacts {
    install: PathBuf,
}

impl Artifacts {
    /// The directory of the headers.
    pub fn include_dir(&self) -> PathBuf {
        self.install.join("include")
    }

    /// The directory of `libssl.a` and `libcrypto.a`.
    pub fn lib_dir(&self) -> PathBuf {
        self.install.join("lib")
    }
}

/// One build serves every profile: `OUT_DIR` is `target/PROFILE/build/openssl-sys-HASH/out`, and OpenSSL takes minutes
/// to compile but does not depend on the profile. Where the path has another shape the build stays in `OUT_DIR`.
fn cache_dir(platform: &str) -> Result<PathBuf, String> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let shared = out_dir.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).map(Path::to_path_buf);
    Ok(shared.unwrap_or(out_dir).join("openssl").join(format!("{}-{platform}", version())))
}

/// Puts our headers into the sources, and makes our changes.
fn adapt(source: &Path) -> Result<(), String> {
    for (name, text) in HEADERS {
        let path = source.join("include").join(name);
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(|error| at(folder, error))?;
        fs::write(&path, text).map_err(|error| at(&path, error))?;
    }
    for (file, from, to) in CHANGES {
        let path = source.join(file);
        let text = fs::read_to_string(&path).map_err(|error| at(&path, error))?;
        if text.matches(from).count() != 1 {
            return Err(format!("{} of OpenSSL {} has no single `{from}`: adapt CHANGES", path.display(), version()));
        }
        fs::write(&path, text.replace(from, to)).map_err(|error| at(&path, error))?;
    }
    Ok(())
}

fn run(step: &str, command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{step}: {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{step} failed with {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            let _ = fs::remove_file(&target);
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn at(path: &Path, error: io::Error) -> String {
    format!("{}: {error}", path.display())
}
