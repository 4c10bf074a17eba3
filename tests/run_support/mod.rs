//! The real binary with a real configuration, and a backend that the test holds in its hand.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod openmetrics;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// How long anything may take before the test gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// What differs between tests.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) backend: SocketAddr,
    /// None: a free port.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) cpus: &'static str,
    /// `workers.steering`.
    pub(crate) steering: &'static str,
    pub(crate) drain_timeout: &'static str,
    pub(crate) arguments: Vec<&'static str>,
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    /// What becomes of the reader of the log once the process listens.
    pub(crate) reader: Reader,
    /// RLIMIT_NOFILE, soft and hard.
    pub(crate) descriptors: Option<(u64, u64)>,
    /// The keys of `[admin]`, with FOLDER for the folder of the configuration; empty: an address of its own.
    pub(crate) admin: String,
    /// More sections, with FOLDER likewise.
    pub(crate) sections: String,
}

impl Options {
    pub(crate) fn to(backend: SocketAddr) -> Self {
        Self {
            backend,
            listen: None,
            cpus: "0",
            steering: "hash",
            drain_timeout: "60s",
            arguments: Vec::new(),
            environment: Vec::new(),
            reader: Reader::Stays,
            descriptors: None,
            admin: String::new(),
            sections: String::new(),
        }
    }
}

/// What becomes of the reader of the log once the process listens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// It reads on.
    Stays,
    /// It holds the pipe and reads no more.
    Stalls,
    /// It closes the pipe.
    Leaves,
}

/// A running `sluice run`; dropped, it is killed.
pub(crate) struct Proxy {
    child: Child,
    log: Log,
    directory: TempDir,
    options: Options,
    _ports: [Port; 2],
}

impl Proxy {
    /// Starts it and waits until it listens.
    pub(crate) fn start(options: &Options) -> Self {
        let proxy = Self::spawn(options);
        proxy.log.wait_for("admin listening");
        proxy
    }

    /// Starts it and leaves it to itself.
    pub(crate) fn spawn(options: &Options) -> Self {
        Self::prepare(options).run()
    }

    /// Its files, before it is started.
    pub(crate) fn prepare(options: &Options) -> Prepared {
        let directory = tempfile::tempdir().unwrap();
        issue(directory.path());
        // A link of its own, which a test can make lead elsewhere.
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sluice"), directory.path().join("sluice")).unwrap();
        let ports = [Port::reserve(), Port::reserve()];
        std::fs::write(directory.path().join("sluice.toml"), configuration(options, &ports)).unwrap();
        Prepared { directory, options: options.clone(), ports }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The processes that have taken over so far, in order.
    pub(crate) fn successors(&self) -> Vec<Pid> {
        let text = self.log.text();
        let lines = text.lines().filter(|line| line.contains(" upgraded: "));
        let pid = |line: &str| line.split("pid=").nth(1)?.split_whitespace().next()?.parse().ok();
        lines.filter_map(pid).map(Pid::from_raw).collect()
    }

    /// Starts it again where it has ended, with the same files and ports.
    pub(crate) fn restart(&mut self, wrap: impl FnOnce(&Path) -> Command) {
        (self.child, self.log) = launch(self.directory.path(), &self.options, wrap);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where the listener listens, as the log says.
    pub(crate) fn address(&self) -> SocketAddr {
        address_in(&self.log.wait_for(" listening listener=edge"))
    }

    /// Where the admin endpoint listens, as the log says.
    pub(crate) fn admin(&self) -> SocketAddr {
        address_in(&self.log.wait_for("admin listening"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// The exit status, once it has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let log = self.log.clone();
        wait_until("the process ends", || self.child.try_wait().unwrap(), || log.text())
    }

    /// Replaces `from`, which must be there, by `to` in the configuration file.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        edit(self.directory(), from, to);
    }

    /// Adds `text` at the end of the configuration file.
    pub(crate) fn append(&self, text: &str) {
        append(self.directory(), text);
    }

    /// Asks for a reload: status code and body.
    pub(crate) fn reload(&self) -> (u16, String) {
        self.admin_request(&["--request", "POST"], "/reload")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Where its files lie.
    pub(crate) fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// curl, with the arguments after those that make it trust the proxy.
    pub(crate) fn curl(&self, arguments: &[&str]) -> Command {
        self.curl_at(self.address().port(), arguments)
    }

    /// The same on another port.
    pub(crate) fn curl_at(&self, port: u16, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "60", "--cacert"]);
        command.arg(self.directory.path().join("edge.crt"));
        command.args(["--resolve", &format!("localhost:{port}:127.0.0.1")]).args(arguments);
        command.arg(format!("https://localhost:{port}/"));
        command
    }

    /// One request to the admin endpoint: status code and body.
    pub(crate) fn admin_request(&self, arguments: &[&str], path: &str) -> (u16, String) {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--path-as-is", "--write-out", "\n%{http_code}"])
            .args(arguments)
            .arg(format!("http://{}{path}", self.admin()))
            .output()
            .unwrap();
        let text = text_of(&output);
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), body.to_owned())
    }

    pub(crate) fn metrics(&self) -> String {
        let (code, body) = self.admin_request(&[], "/metrics");
        assert_eq!(code, 200);
        body
    }

    /// A raw connection to the admin endpoint.
    pub(crate) fn admin_socket(&self) -> TcpStream {
        let stream = TcpStream::connect(self.admin()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// The text of the private key, to look for it where it must not be.
    pub(crate) fn key(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("edge.key")).unwrap()
    }
}

/// A proxy that has not been started.
pub(crate) struct Prepared {
    directory: TempDir,
    options: Options,
    ports: [Port; 2],
}

impl Prepared {
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Replaces `from`, which must be there, by `to` in the configuration file.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        edit(self.directory(), from, to);
    }

    /// Adds `text` at the end of the configuration file.
    pub(crate) fn append(&self, text: &str) {
        append(self.directory(), text);
    }

    /// Starts it and leaves it to itself.
    pub(crate) fn run(self) -> Proxy {
        let limits = self.options.descriptors;
        self.run_with(|executable| match limits {
            None => Command::new(executable),
            Some((soft, hard)) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={soft}:{hard}")).arg(executable);
                command
            }
        })
    }

    /// The same through the command that `wrap` makes of the executable; its arguments follow.
    pub(crate) fn run_with(self, wrap: impl FnOnce(&Path) -> Command) -> Proxy {
        let Self { directory, options, ports } = self;
        let (child, log) = launch(directory.path(), &options, wrap);
        Proxy { child, log, directory, options, _ports: ports }
    }
}

fn launch(directory: &Path, options: &Options, wrap: impl FnOnce(&Path) -> Command) -> (Child, Log) {
    let mut command = wrap(&directory.join("sluice"));
    command.args(["run", "--config"]).arg(directory.join("sluice.toml")).args(&options.arguments);
    command.env_remove("SLUICE_LOG").envs(options.environment.iter().copied());
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = Log::read(child.stderr.take().unwrap(), options.reader);
    (child, log)
}

fn edit(directory: &Path, from: &str, to: &str) {
    let config = directory.join("sluice.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains(from), "no {from:?} in\n{text}");
    std::fs::write(&config, text.replacen(from, to, 1)).unwrap();
}

fn append(directory: &Path, text: &str) {
    let config = directory.join("sluice.toml");
    let before = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, before + text).unwrap();
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for successor in self.successors() {
            let _ = kill(successor, Signal::SIGKILL);
        }
        if thread::panicking() {
            eprintln!("--- log of the proxy\n{}---", self.log.text());
        }
    }
}

/// What a process has written to its standard error.
#[derive(Clone)]
pub(crate) struct Log(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Log {
    fn read(source: impl Read + Send + 'static, reader: Reader) -> Self {
        let log = Self(Arc::default());
        let filled = log.clone();
        thread::spawn(move || {
            let mut lines = BufReader::new(source).lines();
            while let Some(Ok(line)) = lines.next() {
                let listens = line.contains("admin listening");
                filled.0.0.lock().unwrap().push(line);
                filled.0.1.notify_all();
                match reader {
                    Reader::Leaves if listens => return,
                    // Until the test ends, which ends the process too.
                    Reader::Stalls if listens => thread::park(),
                    _ => {}
                }
            }
        });
        log
    }

    /// The first line that holds `words`, as soon as there is one.
    pub(crate) fn wait_for(&self, words: &str) -> String {
        let (lines, changed) = &*self.0;
        let missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(words));
        let (lines, waited) = changed.wait_timeout_while(lines.lock().unwrap(), DEADLINE, missing).unwrap();
        assert!(!waited.timed_out(), "no {words:?} in the log:\n{}", lines.join("\n"));
        lines.iter().find(|line| line.contains(words)).unwrap().clone()
    }

    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

/// A port that nobody else gets: bound without listening, in a way that lets the proxy bind it too.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    _socket: Socket,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self { address: socket.local_addr().unwrap().as_socket().unwrap(), _socket: socket }
    }
}

/// A backend for one download at a time, which the test continues when it likes.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    proceed: Sender<()>,
    started: Receiver<()>,
}

/// The bytes of each half of the body.
pub(crate) const HALF_BYTES: usize = 300_000;

impl Backend {
    /// Sends the first half of the body to each connection at once, the second one when told to.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (proceed, may_proceed) = mpsc::channel();
        let (has_started, started) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = serve(stream.unwrap(), &has_started, &may_proceed);
            }
        });
        Self { address, proceed, started }
    }

    /// Waits until a download is half way.
    pub(crate) fn wait_for_half(&self) {
        self.started.recv_timeout(DEADLINE).expect("no request came to the backend");
    }

    /// Lets the download that is half way, or the next one, go on.
    pub(crate) fn proceed(&self) {
        self.proceed.send(()).unwrap();
    }

    /// What a whole download is.
    pub(crate) fn body() -> Vec<u8> {
        (0..2 * HALF_BYTES).map(|position| (position % 251) as u8).collect()
    }
}

fn serve(mut stream: TcpStream, has_started: &Sender<()>, may_proceed: &Receiver<()>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = Backend::body();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body[..HALF_BYTES])?;
    let _ = has_started.send(());
    let _ = may_proceed.recv();
    stream.write_all(&body[HALF_BYTES..])
}

/// Waits until `look` finds something.
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>, state: impl Fn() -> String) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}\n{}", state());
        // Not to synchronise, only to leave the CPU to what is waited for.
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn address_in(line: &str) -> SocketAddr {
    let (_, rest) = line.split_once("address=").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

fn configuration(options: &Options, [port, admin]: &[Port; 2]) -> String {
    let Options { backend, cpus, steering, drain_timeout, .. } = options;
    let listen = options.listen.unwrap_or(port.address);
    let admin = match options.admin.as_str() {
        "" => format!("address = \"{}\"", admin.address),
        keys => keys.to_owned(),
    };
    let sections = &options.sections;
    format!(
        r#"
[server]
core_dumps = "allow"
drain_timeout = "{drain_timeout}"
[workers]
cpus = "{cpus}"
steering = "{steering}"
connections_max = 1000
[admin]
{admin}
[[listener]]
name = "edge"
address = "{listen}"
backend = "app"
kernel_tls = "off"
[listener.tls]
certificates = [ {{ chain = "edge.crt", key = "edge.key" }} ]
[[backend]]
name = "app"
servers = ["{backend}"]
{sections}
"#
    )
}

/// The settings that the configuration resolves to, with other CPUs; files go to `directory`.
pub(crate) fn settings(directory: &Path, cpus: Vec<usize>) -> sluice::server::Settings {
    issue(directory);
    let options = Options::to(SocketAddr::from(([127, 0, 0, 1], 1)));
    let config = directory.join("sluice.toml");
    write(&config, configuration(&options, &[Port::reserve(), Port::reserve()]).as_bytes());
    let mut settings = sluice::config::load(&config).unwrap_or_else(|findings| panic!("{findings}"));
    settings.workers.cpus = cpus;
    settings
}

/// `edge.crt` and `edge.key`: a certificate for localhost that is its own authority.
pub(crate) fn issue(directory: &Path) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "localhost").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_str_x509("20491231235959Z").unwrap()).unwrap();
    let names = SubjectAlternativeName::new().dns("localhost").build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(names).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    write(&directory.join("edge.crt"), &builder.build().to_pem().unwrap());
    write(&directory.join("edge.key"), &key.private_key_to_pem_pkcs8().unwrap());
}

fn write(path: &Path, bytes: &[u8]) {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(bytes).unwrap();
}
