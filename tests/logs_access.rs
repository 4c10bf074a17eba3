//! The access log of the real process: what a line tells, where lines go, and that nobody waits for them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod run_support;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::thread;

use openssl::ssl::{HandshakeError, SslAcceptor, SslConnector, SslFiletype, SslMethod, SslVersion};
use run_support::{Backend, DEADLINE, Options, Proxy, openmetrics, wait_until};
use serde_json::Value;

fn start(backend: &Backend, sections: &str) -> Proxy {
    Proxy::start(&Options { sections: sections.to_owned(), ..Options::to(backend.address) })
}

/// A whole download.
fn download(proxy: &Proxy, backend: &Backend, arguments: &[&str]) {
    backend.proceed();
    let mut curl = proxy.curl(arguments);
    assert!(curl.args(["--output", "/dev/null"]).status().unwrap().success());
}

/// The lines of a file, once there are `count`.
fn lines(proxy: &Proxy, name: &str, count: usize) -> Vec<Value> {
    let read = || {
        let text = std::fs::read_to_string(proxy.folder().join(name)).unwrap_or_default();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() >= count).then_some(lines)
    };
    wait_until(&format!("{name} has {count} lines"), read, || proxy.log().text())
}

fn metric(proxy: &Proxy, sample: &str) -> f64 {
    openmetrics::value(&proxy.metrics(), sample).unwrap_or_else(|| panic!("no {sample}"))
}

#[test]
fn line_tells_what_became_of_a_connection() {
    let backend = Backend::start();
    let proxy = start(&backend, "[access_log]\noutput = \"file:access.log\"");
    download(&proxy, &backend, &["--tlsv1.3"]);
    let line = &lines(&proxy, "access.log", 1)[0];
    assert_eq!(line["listener"], "edge");
    assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    assert_eq!(line["server_name"], "localhost");
    assert_eq!((&line["version"], &line["resumed"]), (&"1.3".into(), &false.into()));
    assert!(line["suite"].as_str().unwrap().starts_with("TLS_"), "{line}");
    assert!(line["group"].as_str().unwrap().to_uppercase().contains("25519"), "{line}");
    assert!(line["ja4"].as_str().unwrap().starts_with("t13d"), "{line}");
    assert_eq!((&line["backend"], &line["server"]), (&"app".into(), &backend.address.to_string().into()));
    assert_eq!(line["backend_to_client"]["engine"], "userspace");
    assert!(line["backend_to_client"]["bytes"].as_u64().unwrap() >= Backend::body().len() as u64, "{line}");
    assert!(line["client_to_backend"]["bytes"].as_u64().unwrap() > 0, "{line}");
    check_end(line);
    let seconds = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("no {key}: {line}"));
    let parts = seconds("handshake_seconds") + seconds("connect_seconds");
    assert!(parts > 0.0 && parts <= seconds("total_seconds") + 1e-5, "{line}");
    assert_eq!(line["id"].as_str().unwrap().len(), 32);
}

#[test]
fn failed_handshakes_are_in_both_logs_with_alerts_and_what_was_offered() {
    let backend = Backend::start();
    let proxy = start(&backend, "[access_log]\noutput = \"file:access.log\"");
    let s_client = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &proxy.address().to_string(), "-servername", "a.example"]);
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    };
    s_client(&["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"]);
    let line = &lines(&proxy, "access.log", 1)[0];
    assert_eq!(line["close_reason"], "handshake_failed");
    assert_eq!(line["server_name"], "a.example");
    assert_eq!(line["failure"]["reason"], "version");
    assert_eq!(line["failure"]["versions"], serde_json::json!(["1.1"]));
    assert_eq!(line["failure"]["alert_sent"], "protocol_version");
    assert!(line["ja4"].as_str().unwrap().starts_with("t11d"), "{line}");

    let mut client = TcpStream::connect(proxy.address()).unwrap();
    client.write_all(&client_hello()).unwrap();
    // The proxy has answered, so that the alert is the client's next word.
    client.read_exact(&mut [0; 5]).unwrap();
    client.write_all(&[21, 3, 3, 0, 2, 2, 48]).unwrap();
    let line = &lines(&proxy, "access.log", 2)[1];
    assert_eq!(line["failure"]["reason"], "alert_received");
    assert_eq!(line["failure"]["alert_received"], "unknown_ca");

    let logged = proxy.log().wait_for("reason=\"version\"");
    for words in ["server_name=\"a.example\"", "versions=\"1.1\"", "ja4=\"t11d", "alert_sent=\"protocol_version\""] {
        assert!(logged.contains(words), "{words}: {logged}");
    }
}

/// The hello of a client that speaks TLS 1.2.
fn client_hello() -> Vec<u8> {
    /// Takes what is written and has nothing to read.
    #[derive(Debug, Default)]
    struct Collect(Vec<u8>);
    impl Read for Collect {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
    impl Write for Collect {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
    connector.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    match connector.build().connect("a.example", Collect::default()) {
        Err(HandshakeError::WouldBlock(begun)) => begun.get_ref().0.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sampled_log_has_every_third_connection() {
    let backend = Backend::start();
    let proxy = start(&backend, "[access_log]\noutput = \"file:access.log\"\nsample = 3");
    for _ in 0..6 {
        download(&proxy, &backend, &[]);
    }
    // The end of the process writes what is queued.
    let path = proxy.folder().join("access.log");
    lines(&proxy, "access.log", 2);
    assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 2);
}

#[test]
fn renamed_file_is_followed_and_nothing_is_lost() {
    let backend = Backend::start();
    let proxy = start(&backend, "[access_log]\noutput = \"file:access.log\"");
    download(&proxy, &backend, &[]);
    lines(&proxy, "access.log", 1);
    std::fs::rename(proxy.folder().join("access.log"), proxy.folder().join("access.log.1")).unwrap();
    let mut made = 1;
    let count = |name: &str| std::fs::read_to_string(proxy.folder().join(name)).unwrap_or_default().lines().count();
    // Those of the first second may still go to the old one.
    wait_until(
        "the new file gets a line",
        || {
            download(&proxy, &backend, &[]);
            made += 1;
            (count("access.log") > 0).then_some(())
        },
        || proxy.log().text(),
    );
    wait_until(
        "every line",
        || (count("access.log") + count("access.log.1") == made).then_some(()),
        || proxy.log().text(),
    );
}

#[test]
fn full_disk_is_told_and_counted_and_stops_nobody() {
    let backend = Backend::start();
    let proxy = start(&backend, "[access_log]\noutput = \"file:/dev/full\"\n[audit_log]\nfile = \"audit.log\"");
    for _ in 0..3 {
        download(&proxy, &backend, &[]);
    }
    let lost = || (metric(&proxy, "sluice_log_lines_total{log=\"access\",result=\"lost\"}") == 3.0).then_some(());
    wait_until("three lines are counted as lost", lost, || proxy.log().text());
    let line = proxy.log().wait_for("log output failed");
    assert!(line.contains("No space left on device") && line.contains("log=\"access\""), "{line}");
    assert_eq!(proxy.log().text().matches("log output failed").count(), 1);
}

#[test]
fn datagram_outputs_get_one_message_for_each_connection() {
    let backend = Backend::start();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(DEADLINE)).unwrap();
    let proxy = start(
        &backend,
        &format!(
            "[access_log]\noutput = \"syslog+udp:{}\"\n[syslog]\nfacility = \"local2\"",
            udp.local_addr().unwrap()
        ),
    );
    download(&proxy, &backend, &[]);
    let mut buffer = [0; 8192];
    let length = udp.recv(&mut buffer).unwrap();
    check_message(std::str::from_utf8(&buffer[..length]).unwrap(), "<150>1", proxy.pid());

    let folder = tempfile::tempdir().unwrap();
    for (scheme, name) in [("journald", "journal.sock"), ("syslog+unix", "log.sock")] {
        let path = folder.path().join(name);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let proxy = start(&backend, &format!("[access_log]\noutput = \"{scheme}:{}\"", path.display()));
        download(&proxy, &backend, &[]);
        let length = socket.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        if scheme == "journald" {
            let message = text.lines().find_map(|line| line.strip_prefix("MESSAGE=")).unwrap();
            assert_eq!(serde_json::from_str::<Value>(message).unwrap()["listener"], "edge");
            assert!(text.contains("SYSLOG_IDENTIFIER=sluice\nSLUICE_LOG=access\n"), "{text}");
        } else {
            check_message(text, "<30>1", proxy.pid());
        }
    }
}

/// RFC 5424: priority and version, time, host, APP-NAME, PROCID, MSGID, no structured data, the message.
fn check_message(message: &str, priority: &str, pid: u32) {
    let fields: Vec<_> = message.splitn(8, ' ').collect();
    assert_eq!((fields[0], fields[3], fields[5], fields[6]), (priority, "sluice", "access", "-"), "{message}");
    assert_eq!(fields[4], pid.to_string());
    check_end(&serde_json::from_str(fields[7]).unwrap());
}

/// A download that came to its end; who closes first is a matter of luck.
fn check_end(line: &Value) {
    let reason = line["close_reason"].as_str().unwrap();
    assert!(["backend_closed", "client_closed"].contains(&reason), "{line}");
}

#[test]
fn collector_by_tls_is_verified_and_gets_messages_counted_in_octets() {
    let backend = Backend::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sections = |ca: &str| {
        format!(
            "[access_log]\noutput = \"syslog+tls:{address}\"\n[syslog]\nserver_name = \"localhost\"\nca = \"{ca}\"\n\
             chain = \"edge.crt\"\nkey = \"edge.key\""
        )
    };
    let proxy = start(&backend, &sections("edge.crt"));
    download(&proxy, &backend, &[]);

    // The certificate of the proxy is its own authority, and serves as the collector's, too.
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate_chain_file(proxy.folder().join("edge.crt")).unwrap();
    acceptor.set_private_key_file(proxy.folder().join("edge.key"), SslFiletype::PEM).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut reader = BufReader::new(acceptor.build().accept(stream).unwrap());
    for _ in 0..2 {
        let mut length = Vec::new();
        reader.read_until(b' ', &mut length).unwrap();
        let length: usize = String::from_utf8(length).unwrap().trim().parse().unwrap();
        let mut message = vec![0; length];
        reader.read_exact(&mut message).unwrap();
        check_message(std::str::from_utf8(&message).unwrap(), "<30>1", proxy.pid());
        download(&proxy, &backend, &[]);
    }

    // Another collector with the same name: it is refused, the record waits, and clients notice nothing.
    let mut imposter = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    imposter.set_certificate_chain_file(proxy.folder().join("edge.crt")).unwrap();
    imposter.set_private_key_file(proxy.folder().join("edge.key"), SslFiletype::PEM).unwrap();
    let imposter = imposter.build();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let _ = imposter.accept(stream);
        }
    });
    let other = start(&backend, &sections("edge.crt"));
    download(&other, &backend, &[]);
    let line = other.log().wait_for("log output failed");
    assert!(line.contains("the collector's certificate is refused"), "{line}");
    download(&other, &backend, &[]);
}

#[test]
fn logs_hold_no_key() {
    let backend = Backend::start();
    let proxy = start(&backend, "[access_log]\noutput = \"file:access.log\"\n[audit_log]\nfile = \"audit.log\"");
    download(&proxy, &backend, &[]);
    lines(&proxy, "access.log", 1);
    let key = proxy.key();
    let secret = key.lines().nth(1).unwrap();
    for name in ["access.log", "audit.log"] {
        assert!(!std::fs::read_to_string(proxy.folder().join(name)).unwrap().contains(secret));
    }
}
