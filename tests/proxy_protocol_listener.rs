//! Load balancers in front: whose word counts, and what becomes of connections without it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use sluice::proxy_protocol::{Endpoints, encode_v1};
use support::backend::{self, Backend};
use support::client::{Client, Delivery, Refusal, connect_plain};
use support::haproxy::Haproxy;
use support::nginx::Nginx;
use support::proxy::{Options, Proxy};
use support::wait_until;

/// Sluice that believes headers of this machine, and passes on what it believes in a version 1 header.
fn proxy(server: impl ToString) -> Proxy {
    proxy_with(server, "proxy_protocol_from = [\"127.0.0.0/8\"]")
}

fn proxy_with(server: impl ToString, lines: &str) -> Proxy {
    let options = Options::to([server.to_string()]);
    Proxy::start(&Options { listener: lines.into(), backend_lines: "proxy_protocol = \"v1\"".into(), ..options })
}

/// The line that the server got, up to its line feed.
fn line(server: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(backend::receive(server, 1));
    }
    String::from_utf8(line).unwrap()
}

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.2 1234 443\r\n";
/// The same in version 2, with the identifier `id`.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x11\xc0\x00\x02\x07\xc6\x33\x64\x02\x04\xd2\x01\xbb\x05\x00\x02id";

fn refused(proxy: &Proxy, result: &str) -> u64 {
    proxy.metric(&format!("sluice_proxy_headers_total{{result=\"{result}\"}}"))
}

#[test]
fn client_of_the_header_is_what_server_and_log_see() {
    let listener = Backend::listen();
    let proxy = proxy(listener.address());
    for header in [V1, V2] {
        let mut socket = connect_plain(&proxy);
        socket.write_all(header).unwrap();
        let mut client = Client::of(&proxy).handshake_over(socket).unwrap();
        let mut server = listener.accept();
        assert_eq!(line(&mut server).as_bytes(), V1);
        client.send(b"question");
        assert_eq!(backend::receive(&mut server, 8), b"question");
        server.write_all(b"answer").unwrap();
        assert_eq!(client.receive(6), b"answer");
    }
    wait_until("both ends are logged", || proxy.log().matches("client=192.0.2.7:1234").count() >= 2);
    assert_eq!(refused(&proxy, "accepted"), 2);
}

#[test]
fn header_in_pieces_and_header_with_the_hello_in_one_piece_are_taken() {
    let listener = Backend::listen();
    let proxy = proxy(listener.address());
    for header in [V1, V2] {
        let mut socket = connect_plain(&proxy);
        header.iter().for_each(|byte| socket.write_all(&[*byte]).unwrap());
        let client = Client::of(&proxy).delivery(Delivery::Bytewise);
        let _tls = client.handshake_over(socket).unwrap();
        assert_eq!(line(&mut listener.accept()).as_bytes(), V1);

        // All that the client sends first arrives at once: header, ClientHello.
        let socket = connect_plain(&proxy);
        let mut sender = socket.try_clone().unwrap();
        let tls = proxy.freeze(|| {
            sender.write_all(header).unwrap();
            let client = Client::of(&proxy);
            std::thread::spawn(move || client.handshake_over(socket).unwrap())
        });
        let _tls = tls.join().unwrap();
        assert_eq!(line(&mut listener.accept()).as_bytes(), V1);
    }
}

#[test]
fn local_and_unknown_headers_leave_the_address_of_the_connection() {
    let listener = Backend::listen();
    let proxy = proxy(listener.address());
    for header in
        [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00", b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x03abc"]
    {
        let mut socket = connect_plain(&proxy);
        let expected = encode_v1(&Endpoints { source: socket.local_addr().unwrap(), destination: proxy.address() });
        socket.write_all(header).unwrap();
        let _tls = Client::of(&proxy).handshake_over(socket).unwrap();
        assert_eq!(line(&mut listener.accept()).as_bytes(), expected);
    }
}

#[test]
fn identifier_of_the_header_reaches_the_server() {
    let listener = Backend::listen();
    let options = Options::to([listener.address()]);
    let proxy = Proxy::start(&Options {
        listener: "proxy_protocol_from = [\"127.0.0.1\"]".into(),
        backend_lines: "proxy_protocol = \"v2\"\nproxy_protocol_tlvs = [\"unique_id\"]".into(),
        ..options
    });
    let mut socket = connect_plain(&proxy);
    socket.write_all(V2).unwrap();
    let _tls = Client::of(&proxy).handshake_over(socket).unwrap();
    assert_eq!(backend::receive(&mut listener.accept(), V2.len()), V2);
}

#[test]
fn connection_from_elsewhere_is_refused_whatever_it_sends() {
    let proxy = proxy_with(Backend::echo(), "proxy_protocol_from = [\"192.0.2.0/24\", \"2001:db8::/32\"]");
    let before = refused(&proxy, "untrusted");
    for first in [V1, V2, b""] {
        let mut socket = connect_plain(&proxy);
        let _ = socket.write_all(first);
        assert!(matches!(Client::of(&proxy).handshake_over(socket), Err(Refusal::Other)));
    }
    wait_until("all are counted", || refused(&proxy, "untrusted") == before + 3);
    assert!(proxy.log().contains("listener.proxy_protocol_from"), "{}", proxy.log());
    assert_eq!(proxy.metric("sluice_backend_dials_total{result=\"connected\"}"), 0);
}

#[test]
fn connection_without_a_header_is_refused() {
    let proxy = proxy(Backend::echo());
    assert!(matches!(Client::of(&proxy).try_connect(), Err(Refusal::Other)));
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 what is this\r\n", &[b'P'; 5000]] {
        let mut socket = connect_plain(&proxy);
        let _ = socket.write_all(garbage);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.is_empty(), "not a byte is answered");
    }
    wait_until("all are counted", || refused(&proxy, "malformed") == 4);
    wait_until("as closed too", || proxy.closed("proxy_header_refused") >= 4);
}

#[test]
fn header_that_does_not_come_is_waited_for_no_longer_than_a_handshake() {
    let options = Options::to([Backend::echo()]);
    let proxy = Proxy::start(&Options {
        listener: "proxy_protocol_from = [\"127.0.0.1\"]".into(),
        handshake_timeout: Duration::from_millis(300),
        ..options
    });
    let mut socket = connect_plain(&proxy);
    socket.write_all(&V2[..20]).unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    wait_until("it is counted", || refused(&proxy, "timed_out") == 1);
    let closed = refused(&proxy, "closed");
    drop(connect_plain(&proxy));
    wait_until("a peer that goes is counted", || refused(&proxy, "closed") == closed + 1);
}

/// The client's address as the server behind Sluice sees it, when the client comes through `front`.
fn seen_through(front: SocketAddr, proxy: &Proxy, listener: &Backend) -> (String, SocketAddr) {
    let tls = Client::at(front, proxy.ca()).connect();
    let seen = line(&mut listener.accept());
    (seen, tls.socket().local_addr().unwrap())
}

#[test]
fn haproxy_in_front_passes_the_client_on() {
    let listener = Backend::listen();
    let proxy = proxy(listener.address());
    for option in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        let haproxy = Haproxy::start_with(|address| {
            format!(
                "listen l\n mode tcp\n bind {address}\n unique-id-format %[uuid()]\n server s {} {option}",
                proxy.address()
            )
        });
        // HAProxy passes on the connection with which the test found out that it listens.
        let (seen, client) = seen_through(haproxy.address(), &proxy, &listener);
        let expected = encode_v1(&Endpoints { source: client, destination: haproxy.address() });
        assert_eq!(seen.as_bytes(), expected, "{option}");
    }
}

#[test]
fn nginx_in_front_passes_the_client_on() {
    let listener = Backend::listen();
    let proxy = proxy(listener.address());
    let nginx = Nginx::start_with(|_, address| {
        format!("stream {{ server {{ listen {address}; proxy_pass {}; proxy_protocol on; }} }}", proxy.address())
    });
    let (seen, client) = seen_through(nginx.address(), &proxy, &listener);
    let expected = encode_v1(&Endpoints { source: client, destination: nginx.address() });
    assert_eq!(seen.as_bytes(), expected);
}

#[test]
fn limits_are_those_of_the_client_that_the_header_names() {
    let proxy = proxy_with(
        Backend::echo(),
        "proxy_protocol_from = [\"127.0.0.1\"]\n[listener.client_limits]\nconnections_max = 1",
    );
    let connect = |client: &str| {
        let mut socket = connect_plain(&proxy);
        socket.write_all(format!("PROXY TCP4 {client} 198.51.100.2 1234 443\r\n").as_bytes()).unwrap();
        Client::of(&proxy).handshake_over(socket)
    };
    let first = connect("192.0.2.1").unwrap();
    assert!(connect("192.0.2.1").is_err(), "one at a time");
    assert_eq!(refused(&proxy, "client_limit"), 1);
    // The load balancer itself is not limited.
    let _other = connect("192.0.2.2").unwrap();
    drop(first);
    wait_until("the first one has ended", || proxy.connections_open() == 1);
    let _again = connect("192.0.2.1").unwrap();
}
