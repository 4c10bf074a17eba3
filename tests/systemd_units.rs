//! The units of systemd: well-formed, as closed as they claim, and what the process tells systemd.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use run_support::{Backend, DEADLINE, Options, Port, Proxy, wait_until};

/// Highest exposure that `systemd-analyze security` may find, in tenths; it says 2.0.
const EXPOSURE_TENTHS_MAX: u32 = 25;

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/systemd")
}

#[test]
fn units_are_well_formed_and_closed() {
    // With paths that exist here, so that everything else can be judged.
    let folder = tempfile::tempdir().unwrap();
    let names = ["sluice.service", "sluice.socket", "sluice-tuning.service"];
    let apply = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/apply");
    for name in names {
        let unit = fs::read_to_string(units().join(name)).unwrap();
        let unit = unit.replace("/usr/local/bin/sluice", env!("CARGO_BIN_EXE_sluice"));
        let unit = unit.replace("/usr/share/sluice/tuning/apply", apply.to_str().unwrap());
        fs::write(folder.path().join(name), unit).unwrap();
    }
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(names.map(|name| folder.path().join(name)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && !text.contains("sluice."), "{text}");

    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=true", &format!("--threshold={EXPOSURE_TENTHS_MAX}")])
        .arg(units().join("sluice.service"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&security.stdout).into_owned();
    assert!(security.status.success() && text.contains("Overall exposure level"), "{text}");
}

#[test]
fn install_page_has_every_unit_and_the_paths_that_they_name() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating/install.md")).unwrap();
    for entry in fs::read_dir(units()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            page.contains(&format!("`tuning/systemd/{name}`")),
            "docs/operating/install.md does not say where {name} goes"
        );
    }
    let unit = fs::read_to_string(units().join("sluice.service")).unwrap();
    let programs = unit.lines().filter_map(|line| line.strip_prefix("ExecStart")?.split(['=', ' ']).nth(1));
    for program in programs {
        assert!(page.contains(&format!("install -m 755 target/release/sluice {program}\n")), "{program}");
    }
    assert!(page.contains("finds an exposure of 2.0"));
}

/// What systemd would read from its socket.
struct Manager {
    socket: UnixDatagram,
    path: &'static str,
}

impl Manager {
    fn bind(folder: &Path) -> Self {
        let path: &'static str = folder.join("notify").to_str().unwrap().to_owned().leak();
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, path }
    }

    /// Reads until a message has a line that begins with `start`, and gives that line.
    fn wait_for(&self, start: &str) -> String {
        let mut seen = Vec::new();
        loop {
            let mut message = [0; 4096];
            let len = self.socket.recv(&mut message).unwrap_or_else(|error| panic!("no {start}: {error}; {seen:?}"));
            let text = String::from_utf8_lossy(&message[..len]).into_owned();
            if let Some(line) = text.lines().find(|line| line.starts_with(start)) {
                return line.to_owned();
            }
            seen.push(text);
        }
    }
}

#[test]
fn systemd_is_told_of_start_reload_watchdog_upgrade_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let manager = Manager::bind(folder.path());
    let environment = vec![("NOTIFY_SOCKET", manager.path), ("WATCHDOG_USEC", "200000")];
    let mut proxy = Proxy::start(&Options { environment, ..Options::to(Backend::start().address) });
    manager.wait_for("FDSTORE=1");
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    proxy.signal(Signal::SIGHUP);
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    proxy.signal(Signal::SIGUSR2);
    let line = manager.wait_for("MAINPID=");
    assert_eq!(proxy.wait().code(), Some(0));
    let successor = proxy.successors()[0];
    assert_eq!(line, format!("MAINPID={successor}"));
    // The watchdog is the new process's business now.
    manager.wait_for("WATCHDOG=1");
    nix::sys::signal::kill(successor, Signal::SIGTERM).unwrap();
    manager.wait_for("STOPPING=1");
}

#[test]
fn socket_of_systemd_is_served_and_what_is_missing_is_bound_beside_it() {
    let backend = Backend::start();
    let port = Port::reserve();
    // As the socket unit has it: bound by somebody else, with SO_REUSEPORT.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&port.address.into()).unwrap();
    socket.listen(128).unwrap();
    let listener = TcpListener::from(socket);
    // A connection that waits since before the start.
    let mut waiting = std::net::TcpStream::connect(port.address).unwrap();
    waiting.set_read_timeout(Some(DEADLINE)).unwrap();

    let options = Options { cpus: "0,1", listen: Some(port.address), ..Options::to(backend.address) };
    let prepared = Proxy::prepare(&options);
    // LISTEN_PID must be the process's own: a shell that becomes it can tell.
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let script = format!("export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&{}", listener.as_raw_fd());
    let proxy = prepared.run_with(|executable| {
        let mut command = Command::new("bash");
        command.args(["-c", &script]).arg(executable);
        command
    });
    drop(listener);
    for _ in 0..8 {
        backend.proceed();
        let output = proxy.curl(&[]).output().unwrap();
        assert!(output.stdout == Backend::body(), "{}", String::from_utf8_lossy(&output.stderr));
        backend.wait_for_half();
    }
    // It was accepted, and is answered: with an alert, since it sends what is no TLS.
    std::io::Write::write_all(&mut waiting, b"no TLS at all, not even a bit\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = waiting.read_to_end(&mut answer);
    wait_until(
        "it was counted",
        || proxy.metrics().contains("connections_accepted_total 9").then_some(()),
        || proxy.log().text(),
    );
}
