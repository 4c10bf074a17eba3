//! An authority with an OCSP responder (`openssl ocsp`), responders that do not behave, and clients that ask.

#![allow(dead_code, reason = "each file of tests uses a part of this")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use openssl::x509::X509;
use tempfile::TempDir;

use crate::pki_support::{Authority, Credentials, Profile, Purpose};

/// A certificate for localhost, its authority, and what the authority needs to answer questions about it.
pub(crate) struct Pki {
    folder: TempDir,
    credentials: Credentials,
}

/// Who signs a response.
#[derive(Clone, Copy)]
pub(crate) enum Signer {
    /// The authority itself.
    Issuer,
    /// Somebody whom it has certified for that.
    Delegate,
    /// Somebody whom it has certified, but not for that.
    WithoutPurpose,
    /// Somebody else.
    Stranger,
}

/// What a response says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Good,
    Revoked,
    Unknown,
    /// Good, some days ago.
    Expired,
    /// Good, for another few seconds.
    NearlyOver,
    /// Good, without a next update.
    WithoutEnd,
}

impl Pki {
    /// A certificate that names this responder.
    pub(crate) fn new(responder: Option<&str>) -> Self {
        Self::of(Authority::root("Servers"), &Self::profile(responder))
    }

    /// What it says.
    pub(crate) fn profile(responder: Option<&str>) -> Profile {
        let profile = Profile::client("localhost").purpose(Purpose::Server).dns("localhost");
        responder.map_or(profile.clone(), |url| profile.responder(url))
    }

    pub(crate) fn of(authority: Authority, profile: &Profile) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path();
        let mut credentials = authority.issue(profile);
        credentials.chain = vec![authority.certificate.clone()];
        authority.write(path, "issuer.pem");
        authority.write_key(path, "issuer.key");
        credentials.write(path, "leaf");
        fs::write(path.join("leaf.pem"), credentials.certificate.to_pem().unwrap()).unwrap();
        authority.issue(&Profile::client("delegate").purpose(Purpose::OcspSigning)).write(path, "delegate");
        authority.issue(&Profile::client("client")).write(path, "client");
        let another = authority.issue(&Profile::client("another"));
        fs::write(path.join("another.pem"), another.certificate.to_pem().unwrap()).unwrap();
        let stranger = Authority::root("Servers");
        stranger.write(path, "stranger.pem");
        stranger.write_key(path, "stranger.key");
        for status in ['V', 'R'] {
            let lines = [&credentials.certificate, &another.certificate].map(|one| index_line(status, one));
            fs::write(path.join(format!("index.{status}")), lines.concat()).unwrap();
            fs::write(path.join(format!("index.{status}.attr")), "unique_subject = no\n").unwrap();
        }
        fs::write(path.join("index.none"), "").unwrap();
        Self { folder, credentials }
    }

    /// The same authority, to issue more.
    pub(crate) fn authority_again(&self) -> Authority {
        let read = |name: &str| fs::read(self.folder.path().join(name)).unwrap();
        Authority::from_pem(&read("issuer.pem"), &read("issuer.key"))
    }

    /// The same certificate, without its issuer in the chain.
    pub(crate) fn without_issuer(&self) -> Self {
        let folder = TempDir::new().unwrap();
        let Credentials { certificate, key, .. } = &self.credentials;
        let credentials = Credentials { certificate: certificate.clone(), key: key.clone(), chain: Vec::new() };
        Self { folder, credentials }
    }

    /// Puts chain and key where the proxy of the tests has them.
    pub(crate) fn put(&self, folder: &Path) {
        self.put_as(folder, "edge");
    }

    pub(crate) fn put_as(&self, folder: &Path, name: &str) {
        let (chain, key) = self.credentials.write(folder, "new");
        fs::rename(chain, folder.join(format!("{name}.crt"))).unwrap();
        fs::rename(key, folder.join(format!("{name}.key"))).unwrap();
    }

    /// The serial number as OpenSSL prints it.
    pub(crate) fn serial(&self) -> String {
        serial(&self.credentials.certificate)
    }

    /// A response about the certificate, made by `openssl ocsp`.
    pub(crate) fn response(&self, signer: Signer, status: Status) -> Vec<u8> {
        self.respond("leaf.pem", signer, status)
    }

    /// A response about another certificate of the same authority.
    pub(crate) fn response_about_another(&self) -> Vec<u8> {
        self.respond("another.pem", Signer::Issuer, Status::Good)
    }

    /// A file with a response, as it is written again after it was read.
    pub(crate) fn response_in(&self, file: &Path) -> Vec<u8> {
        fs::read(file).unwrap()
    }

    fn respond(&self, about: &str, signer: Signer, status: Status) -> Vec<u8> {
        let mut command = match status {
            Status::Expired => faked("-5d"),
            // Made so that the minute that it is good for ends soon.
            Status::NearlyOver => faked("-40s"),
            _ => Command::new("openssl"),
        };
        command.args(["ocsp", "-issuer", "issuer.pem", "-cert", about, "-noverify", "-respout", "response.der"]);
        command.args(self.responder_arguments(signer, status));
        match status {
            Status::WithoutEnd => {}
            Status::NearlyOver => drop(command.args(["-nmin", "1"])),
            _ => drop(command.args(["-ndays", "1"])),
        }
        let output = command.current_dir(self.folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(self.folder.path().join("response.der")).unwrap()
    }

    fn responder_arguments(&self, signer: Signer, status: Status) -> Vec<&'static str> {
        let index = match status {
            Status::Revoked => "index.R",
            Status::Unknown => "index.none",
            _ => "index.V",
        };
        let (certificate, key) = match signer {
            Signer::Issuer => ("issuer.pem", "issuer.key"),
            Signer::Delegate => ("delegate.pem", "delegate.key"),
            Signer::WithoutPurpose => ("client.pem", "client.key"),
            Signer::Stranger => ("stranger.pem", "stranger.key"),
        };
        vec!["-index", index, "-CA", "issuer.pem", "-rsigner", certificate, "-rkey", key]
    }

    /// The certificate of its authority, PEM.
    pub(crate) fn issuer(&self) -> PathBuf {
        self.folder.path().join("issuer.pem")
    }
}

fn faked(offset: &str) -> Command {
    let mut command = Command::new("faketime");
    command.args(["-f", offset, "openssl"]);
    command
}

/// A line of the database of `openssl ca`.
fn index_line(status: char, certificate: &X509) -> String {
    let revoked = if status == 'R' { "260101000000Z" } else { "" };
    format!("{status}\t491231235959Z\t{revoked}\t{}\tunknown\t/CN=x\n", serial(certificate))
}

fn serial(certificate: &X509) -> String {
    certificate.serial_number().to_bn().unwrap().to_hex_str().unwrap().to_string()
}

/// An address for a responder that may not run yet.
pub(crate) struct Responder {
    address: SocketAddr,
}

/// A running one; dropped, it is killed.
pub(crate) struct Running(Child);

impl Responder {
    pub(crate) fn reserve() -> Self {
        Self { address: TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/ocsp", self.address)
    }

    /// `openssl ocsp` at this address.
    pub(crate) fn start(&self, pki: &Pki, signer: Signer, status: Status, more: &[&str]) -> Running {
        let mut command = Command::new("openssl");
        command.args(["ocsp", "-port", &self.address.port().to_string(), "-ignore_err"]);
        command.args(pki.responder_arguments(signer, status)).args(more).current_dir(pki.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A connection to try it would not do: one that is closed at once stops it for good.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let listens = lines.any(|line| line.contains("waiting for OCSP client connections"));
        assert!(listens, "openssl ocsp does not listen");
        thread::spawn(move || lines.for_each(drop));
        Running(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A responder that answers every question alike.
pub(crate) struct Liar {
    listener: TcpListener,
}

/// How it answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// 200 with this body.
    Ok(Vec<u8>),
    /// Another status line, with whatever headers.
    Status(&'static str),
    /// A close in the middle of the head.
    Hangup,
    /// Nothing, for as long as the test runs.
    Silence,
}

impl Liar {
    pub(crate) fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.listener.local_addr().unwrap())
    }

    pub(crate) fn answer(self, answer: Answer) {
        thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in self.listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let _ = stream.read(&mut [0; 4096]);
                let _ = match &answer {
                    Answer::Ok(body) => {
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                        stream.write_all(&[head.as_bytes(), body].concat())
                    }
                    Answer::Status(status) => stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()),
                    Answer::Hangup => stream.write_all(b"HTTP/1.1 200"),
                    Answer::Silence => {
                        kept.push(stream);
                        Ok(())
                    }
                };
            }
        });
    }
}

/// What `openssl s_client -status` shows of the proxy.
pub(crate) fn ask_as_openssl(pki: &Pki, address: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-status", "-CAfile"]).arg(pki.issuer());
    if !arguments.contains(&"-servername") {
        command.args(["-servername", "localhost"]);
    }
    let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What gnutls-cli shows of the proxy, and the response that it saved.
pub(crate) fn ask_as_gnutls(pki: &Pki, address: SocketAddr, priority: &str) -> (String, Vec<u8>) {
    ask_as_gnutls_with(pki, address, priority, &[])
}

/// The same with further arguments.
pub(crate) fn ask_as_gnutls_with(
    pki: &Pki,
    address: SocketAddr,
    priority: &str,
    arguments: &[&str],
) -> (String, Vec<u8>) {
    let folder = TempDir::new().unwrap();
    let saved = folder.path().join("response.der");
    let mut command = Command::new("gnutls-cli");
    command.args(["--port", &address.port().to_string(), "--priority", priority, "--x509cafile"]).arg(pki.issuer());
    command.args(["--verify-hostname", "localhost", "--sni-hostname", "localhost", "--save-ocsp"]).arg(&saved);
    let output = command.args(arguments).arg("127.0.0.1").stdin(Stdio::null()).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (shown, fs::read(saved).unwrap_or_default())
}
