//! What servers behind the proxy are told about each client: read by nginx, by HAProxy, and by the crate `ppp`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use ppp::v2::{Addresses, Header, Type};
use sluice::backend::greet;
use sluice::sys::socket::Stream;
use sluice::timer::Wheel;
use sluice::worker::{Ring, WorkerRuntime};
use socket2::SockRef;
use support::DEADLINE;
use support::backend::{self, Backend};
use support::body::End;
use support::certificate::KeyKind;
use support::client::{Client, Tls};
use support::haproxy::Haproxy;
use support::http::get_request;
use support::nginx::{self, Nginx};
use support::proxy::{Options, Proxy};
use support::suite::Version;

/// Sluice in front of `server`, with these lines in its backend.
fn proxy(server: impl ToString, lines: &str) -> Proxy {
    proxy_with_key(server, lines, KeyKind::EcdsaP256)
}

fn proxy_with_key(server: impl ToString, lines: &str, key: KeyKind) -> Proxy {
    Proxy::start(&Options { backend_lines: lines.into(), key, ..Options::to([server.to_string()]) })
}

/// Fetches `/` and gives the body, and the client's own address.
fn fetch(client: &Client) -> (String, SocketAddr) {
    let mut tls = client.connect();
    let address = tls.socket().local_addr().unwrap();
    tls.send(&get_request(""));
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        match tls.read(&mut buffer) {
            Ok(len) => answer.extend_from_slice(&buffer[..len]),
            Err(end) => break end,
        }
    };
    assert_eq!(end, End::CloseNotify);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    (body.trim().to_owned(), address)
}

/// Reads one version 2 header off a server's end of a connection.
fn read_v2(stream: &mut impl Read) -> Vec<u8> {
    let mut header = vec![0; 16];
    stream.read_exact(&mut header).unwrap();
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).unwrap();
    header.extend(rest);
    header
}

/// The values of the TLVs of a header, and of those within the SSL TLV, by type.
struct Values(Vec<(u8, Vec<u8>)>);

impl Values {
    fn of(header: &[u8]) -> Self {
        let header = Header::try_from(header).expect("a header");
        let mut values: Vec<_> =
            header.tlvs().map(|tlv| tlv.unwrap()).map(|tlv| (tlv.kind, tlv.value.into_owned())).collect();
        let ssl = values.iter().find(|(kind, _)| *kind == u8::from(Type::SSL)).map(|(_, value)| value.clone());
        let mut nested = ssl.as_deref().map_or(&[][..], |ssl| &ssl[5..]);
        while let [kind, high, low, rest @ ..] = nested {
            let (value, after) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            values.push((*kind, value.to_vec()));
            nested = after;
        }
        Self(values)
    }

    fn bytes(&self, kind: u8) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| *other == kind).map(|(_, value)| &value[..])
    }

    fn text(&self, kind: u8) -> Option<&str> {
        self.bytes(kind).map(|value| std::str::from_utf8(value).unwrap())
    }
}

#[test]
fn nginx_reads_the_client_from_both_versions() {
    let nginx = Nginx::start_with(|directory, address| {
        let answer =
            "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
        let http = nginx::http(directory);
        format!(
            "http {{ {http} server {{ listen {address} proxy_protocol; location / {{ return 200 \"{answer}\"; }} }} }}"
        )
    });
    for version in ["v1", "v2"] {
        let proxy = proxy(nginx.address(), &format!("proxy_protocol = \"{version}\""));
        for tls in Version::ALL {
            let (seen, client) = fetch(&Client::of(&proxy).version(tls));
            let server = proxy.address();
            assert_eq!(
                seen,
                format!("{} {} {} {}", client.ip(), client.port(), server.ip(), server.port()),
                "{version}"
            );
        }
    }
}

#[test]
fn haproxy_reads_client_server_name_and_identifier() {
    let haproxy = Haproxy::start_with(|address| {
        let answer = "%[src] %[src_port] %[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]";
        format!(
            "frontend f\n mode http\n bind {address} accept-proxy\n \
             http-request return status 200 content-type text/plain lf-string \"{answer}\""
        )
    });
    let proxy = proxy(
        haproxy.address(),
        "proxy_protocol = \"v2\"\nproxy_protocol_tlvs = [\"authority\", \"unique_id\", \"crc32c\"]",
    );
    let fields = || {
        let (seen, client) = fetch(&Client::of(&proxy));
        (seen.split(' ').map(str::to_owned).collect::<Vec<_>>(), client)
    };
    let ((first, client), (second, _)) = (fields(), fields());
    assert_eq!(first[..2], [client.ip().to_string(), client.port().to_string()]);
    assert_eq!(first[2..4], [proxy.address().port().to_string(), "localhost".to_owned()]);
    assert!(first[4].len() == 32 && first[4].bytes().all(|byte| byte.is_ascii_hexdigit()), "{first:?}");
    assert_ne!(first[4], second[4], "each connection has its own identifier");
}

/// What a newer nginx or HAProxy says of a connection: its answer, split at the bars.
fn fields(client: &Client) -> Vec<String> {
    fetch(client).0.split('|').map(str::to_owned).collect()
}

#[test]
fn newer_nginx_reads_every_tlv() {
    let variables = [
        "alpn",
        "authority",
        "ssl_verify",
        "ssl_version",
        "ssl_cipher",
        "ssl_sig_alg",
        "ssl_key_alg",
        "ssl_0x26",
        "ssl_0x27",
    ];
    let nginx = Nginx::start_newer_with(|directory, address| {
        let answer = variables.map(|name| format!("$proxy_protocol_tlv_{name}")).join("|");
        let http = nginx::http(directory);
        format!(
            "http {{ {http} server {{ listen {address} proxy_protocol; location / {{ return 200 \"{answer}\"; }} }} }}"
        )
    });
    let proxy = proxy(nginx.address(), "proxy_protocol = \"v2\"");
    for (version, name, cipher) in [
        (Version::Tls12, "TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (Version::Tls13, "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
    ] {
        let client = Client::of(&proxy).version(version).groups("X25519:P-256").alpn(&["http/1.1"]);
        let seen = fields(&client);
        // Without a client's certificate nothing was verified.
        let expected = ["http/1.1", "localhost", "1", name, cipher, "ecdsa-with-SHA256", "EC256"];
        assert_eq!(seen[..7], expected, "{version:?}");
        assert_eq!((seen[7].to_lowercase(), &seen[8][..]), ("x25519".to_owned(), "ecdsa_secp256r1_sha256"));
    }
}

#[test]
fn newer_haproxy_reads_tlvs_by_their_types() {
    let haproxy = Haproxy::start_newer_with(|address| {
        let answer = "%[fc_pp_tlv(0x01)]|%[fc_pp_tlv(0x02)]|%[fc_pp_tlv(0x05),length]|%[fc_pp_tlv(0x20),hex]";
        format!(
            "frontend f\n mode http\n bind {address} accept-proxy\n \
             http-request return status 200 content-type text/plain lf-string \"{answer}\""
        )
    });
    let lines =
        "proxy_protocol = \"v2\"\nproxy_protocol_tlvs = [\"alpn\", \"authority\", \"unique_id\", \"ssl\", \"crc32c\"]";
    let proxy = proxy(haproxy.address(), lines);
    let seen = fields(&Client::of(&proxy).version(Version::Tls13).alpn(&["http/1.1"]));
    assert_eq!(seen[..2], ["http/1.1", "localhost"]);
    assert_ne!(seen[2], "0", "an identifier");
    // Encrypted, not verified, then the version.
    let version: String = "TLSv1.3".bytes().map(|byte| format!("{byte:02X}")).collect();
    assert!(seen[3].starts_with("0100000001") && seen[3].contains(&format!("210007{version}")), "{seen:?}");
}

#[test]
fn header_comes_first_from_a_server_that_speaks_first_too() {
    let listener = Backend::listen();
    let proxy = proxy(listener.address(), "proxy_protocol = \"v1\"");
    let mut client = Client::of(&proxy).connect();
    let mut server = listener.accept();
    let expected = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
        client.socket().local_addr().unwrap().port(),
        proxy.address().port()
    );
    // Not a byte of the client's yet.
    assert_eq!(String::from_utf8(backend::receive(&mut server, expected.len())).unwrap(), expected);
    server.write_all(b"220 hello").unwrap();
    assert_eq!(client.receive(9), b"220 hello");
    client.send(b"EHLO");
    assert_eq!(backend::receive(&mut server, 4), b"EHLO");
}

#[test]
fn unix_server_gets_the_header_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let proxy = proxy(format!("unix:{}", path.display()), "proxy_protocol = \"v2\"");
    let mut client = Client::of(&proxy).connect();
    client.send(b"data");
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let header = read_v2(&mut server);
    let header = Header::try_from(&header[..]).unwrap();
    let Addresses::IPv4(addresses) = header.addresses else { panic!("{:?}", header.addresses) };
    assert_eq!(addresses.source_port, client.socket().local_addr().unwrap().port());
    let mut data = [0; 4];
    server.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"data");
}

/// What a server is told of one connection of `client`.
fn told(listener: &Backend, client: &Client) -> (Values, Tls, TcpStream) {
    let tls = client.connect();
    let mut server = listener.accept();
    (Values::of(&read_v2(&mut server)), tls, server)
}

#[test]
fn version_2_tells_what_was_negotiated() {
    let cases =
        [(KeyKind::EcdsaP256, "EC256", "ecdsa-with-SHA256"), (KeyKind::Rsa2048, "RSA2048", "ecdsa-with-SHA256")];
    for (key, key_alg, sig_alg) in cases {
        let listener = Backend::listen();
        let proxy = proxy_with_key(listener.address(), "proxy_protocol = \"v2\"", key);
        for version in Version::ALL {
            let client = Client::of(&proxy).version(version).groups("X25519:P-256").alpn(&["http/1.1"]);
            let (values, tls, _server) = told(&listener, &client);
            assert_eq!(values.text(0x01), Some("http/1.1"));
            assert_eq!(values.text(0x02), Some("localhost"));
            // Encrypted, without a client's certificate, hence not verified.
            assert_eq!(values.bytes(0x20).unwrap()[..5], [1, 0, 0, 0, 1]);
            assert_eq!(values.text(0x21), Some(tls.ssl().version_str()));
            assert_eq!(values.text(0x22), None);
            assert_eq!(values.text(0x23), Some(tls.ssl().current_cipher().unwrap().name()));
            assert_eq!((values.text(0x24), values.text(0x25)), (Some(sig_alg), Some(key_alg)));
            assert_eq!(values.text(0x26).map(str::to_lowercase).as_deref(), Some("x25519"));
            let scheme = values.text(0x27).unwrap();
            assert!(
                matches!(
                    (key, scheme),
                    (KeyKind::EcdsaP256, "ecdsa_secp256r1_sha256") | (KeyKind::Rsa2048, "rsa_pss_rsae_sha256")
                ),
                "{key:?} {scheme}"
            );
            assert_eq!((values.bytes(0x03), values.bytes(0x28)), (None, None), "neither is sent unless asked for");
        }
    }
}

#[test]
fn only_the_tlvs_that_were_asked_for_are_sent() {
    let listener = Backend::listen();
    for (tlvs, expected) in
        [("", &[][..]), ("\"alpn\"", &[0x01][..]), ("\"cipher\", \"crc32c\"", &[0x03, 0x20, 0x21, 0x23])]
    {
        let proxy = proxy(listener.address(), &format!("proxy_protocol = \"v2\"\nproxy_protocol_tlvs = [{tlvs}]"));
        let (values, _tls, _server) = told(&listener, &Client::of(&proxy).alpn(&["http/1.1"]));
        let mut kinds: Vec<u8> = values.0.iter().map(|(kind, _)| *kind).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, expected, "{tlvs}");
    }
}

#[test]
fn server_that_resets_before_its_header_counts_as_failed() {
    let listener = Backend::listen();
    let proxy = proxy(listener.address(), "proxy_protocol = \"v2\"");
    let mut client = Client::of(&proxy).connect();
    backend::reset(listener.accept());
    assert_ne!(client.drain().end, End::CloseNotify, "nothing that looks finished");
    proxy.wait_closed("backend_failed");
}

/// The header is longer than what the socket takes at once, and the server reads it late.
#[test]
fn header_beyond_the_send_buffer_arrives_whole() {
    let header = support::body::bytes(1 << 20, 1);
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    SockRef::from(&ours).set_send_buffer_size(4096).unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_read_timeout(Some(DEADLINE)).unwrap();
    let expected = header.clone();
    let sender = std::thread::spawn(move || {
        WorkerRuntime::build(Ring::Epoll).unwrap().block_on(async {
            let server = Stream::new(ours.into()).unwrap();
            let wheel = Wheel::new(Instant::now());
            let watch = wheel.watch(DEADLINE);
            let greeted = greet(&server, &header, DEADLINE, &watch).await;
            server.close();
            greeted
        })
    });
    let mut received = Vec::new();
    theirs.read_to_end(&mut received).unwrap();
    sender.join().unwrap().unwrap();
    assert!(received == expected);
}
