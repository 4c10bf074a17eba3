//! As much HTTP as it takes to fetch files from nginx and to put files there.

use super::body::{self, End, Received};
use super::client::{Client, Tls};

/// `GET`, and the connection closed by the server.
pub(crate) fn get_request(name: &str) -> Vec<u8> {
    format!("GET /{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
}

/// `PUT` with its body, and the connection closed by the server.
pub(crate) fn put_request(name: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "PUT /{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Fetches a file; the status must be 200.
pub(crate) fn get(client: &Client, name: &str) -> Received {
    let mut tls = client.connect();
    tls.send(&get_request(name));
    let head = read_head(&mut tls);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    tls.drain()
}

/// Puts a file; the server must create it, and close cleanly.
pub(crate) fn put(client: &Client, name: &str, body: &[u8]) {
    let mut tls = client.connect();
    tls.send(&put_request(name, body));
    let head = read_head(&mut tls);
    assert!(head.starts_with("HTTP/1.1 201 "), "{head}");
    assert_eq!(tls.drain(), Received::of(b"", End::CloseNotify));
}

/// Fetches a file of `len` bytes again and again over one connection.
pub(crate) fn get_kept_alive(tls: &mut Tls, name: &str, len: usize) -> Vec<u8> {
    tls.send(format!("GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    let head = read_head(tls);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    tls.receive(len)
}

/// Reads up to the blank line and no further.
fn read_head(tls: &mut Tls) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(tls.receive(1));
    }
    String::from_utf8(head).unwrap()
}

/// What a whole download of `body` gives.
pub(crate) fn whole(body: &[u8]) -> Received {
    body::Received::of(body, End::CloseNotify)
}
