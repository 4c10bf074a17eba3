//! Reloads that change what a name asks of its clients.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod pki_support;
mod run_support;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use pki_support::{Authority, Profile};
use run_support::{Options, Proxy};

/// A server that sends one byte to everybody.
fn server(byte: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(&[byte]);
        }
    });
    address
}

/// Connects for the name each time that it is told to, with the session of the last time.
const PROGRAM: &str = "
port, name = arguments
for _ in sys.stdin:
    try:
        with socket.create_connection(('127.0.0.1', int(port)), 30) as plain:
            with context.wrap_socket(plain, session=session, server_hostname=name) as secure:
                answer = secure.recv(1).decode()
                print('resumed' if secure.session_reused else 'full', answer, flush=True)
                session = secure.session
    except ssl.SSLError as error:
        print(error.reason, flush=True)
";

/// A Python that holds on to its session.
struct Client {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Client {
    fn start(proxy: &Proxy, version: &str, identity: Option<&(PathBuf, PathBuf)>) -> Self {
        use std::io::BufRead;
        use std::process::Stdio;
        let mut command = pki_support::python(PROGRAM, version, identity.map(|(chain, key)| (&**chain, &**key)));
        command.arg(proxy.address().port().to_string());
        let mut child = command.args(["guarded.test"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn connect(&mut self) -> String {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.lines.next().unwrap().unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn reload_that_guards_a_name_ends_its_sessions_and_one_that_opens_it_too() {
    let files = tempfile::tempdir().unwrap();
    let root = Authority::root("Clients root");
    let identity = root.issue(&Profile::client("client")).write(files.path(), "client");
    let section = format!(
        "[[listener.server_name]]\nnames = [\"guarded.test\"]\nbackend = \"guarded\"\n\
         client_auth = {{ mode = \"off\", ca = \"root.pem\" }}\n\
         [[backend]]\nname = \"guarded\"\nservers = [\"{}\"]\nconnect_timeout = \"60s\"\n",
        server(b'g')
    );
    for (version, refusal) in
        [("TLSv1_2", "SSLV3_ALERT_HANDSHAKE_FAILURE"), ("TLSv1_3", "TLSV13_ALERT_CERTIFICATE_REQUIRED")]
    {
        let prepared = Proxy::prepare(&Options { sections: section.clone(), ..Options::to(server(b'd')) });
        root.write(prepared.directory(), "root.pem");
        let proxy = prepared.run();
        proxy.log().wait_for("admin listening");
        let mut without = Client::start(&proxy, version, None);
        let mut with = Client::start(&proxy, version, Some(&identity));
        for client in [&mut without, &mut with] {
            assert_eq!([client.connect(), client.connect()], ["full g", "resumed g"], "{version}");
        }

        proxy.edit("mode = \"off\"", "mode = \"required\"");
        assert_eq!(proxy.reload().0, 200);
        assert_eq!([without.connect(), without.connect()], [refusal; 2], "{version}");
        assert_eq!([with.connect(), with.connect()], ["full g", "resumed g"], "{version}");

        // Its session has a certificate in it, and still it is of another policy.
        proxy.edit("mode = \"required\"", "mode = \"optional\"");
        assert_eq!(proxy.reload().0, 200);
        assert_eq!([with.connect(), with.connect()], ["full g", "resumed g"], "{version}");
        assert_eq!([without.connect(), without.connect()], ["full g", "resumed g"], "{version}");

        // What would leave the name unguarded is not taken.
        proxy.edit("mode = \"optional\"", "mode = \"required\"");
        proxy.edit("backend = \"guarded\"", "backend = \"app\"");
        let (code, answer) = proxy.reload();
        assert!(code != 200 && answer.contains("needs no client certificate"), "{code} {answer}");
        assert_eq!(without.connect(), "resumed g", "{version}: the former configuration stays");
        let (_, shown) = proxy.admin_request(&[], "/config");
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let text = shown.to_string();
        assert!(text.contains("\"server_name\"") && text.contains("\"mode\":\"optional\""), "{text}");
    }
}
