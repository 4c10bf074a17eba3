//! Many clients at the same time, each with a behaviour of its own; all but the broken ones check what they get.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::backend::{self, Backend};
use super::body::{self, End, Received};
use super::client::{Client, Delivery, Tls, connect_plain};
use super::proxy::Proxy;
use super::suite::SUITES;

const DOWNLOAD_LEN: usize = 400_000;
const UPLOAD_LEN: usize = 300_000;

/// What one client of the crowd does.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Echoes,
    ReadsSlowly,
    UploadsThenReads,
    WritesBytewise,
    ResetsMidway,
    Truncates,
    MeetsResettingBackend,
    ForgesRecord,
    LeavesBeforeHandshake,
    LeavesWithinHandshake,
}

const BEHAVIOURS: [Behaviour; 10] = [
    Behaviour::Echoes,
    Behaviour::ReadsSlowly,
    Behaviour::UploadsThenReads,
    Behaviour::WritesBytewise,
    Behaviour::ResetsMidway,
    Behaviour::Truncates,
    Behaviour::MeetsResettingBackend,
    Behaviour::ForgesRecord,
    Behaviour::LeavesBeforeHandshake,
    Behaviour::LeavesWithinHandshake,
];

/// A backend that does what the first byte of a connection asks for.
pub(crate) fn backend() -> SocketAddr {
    Backend::listen().serve(serve).0
}

fn serve(mut stream: TcpStream) {
    let mut order = [0];
    if stream.read_exact(&mut order).is_err() {
        return;
    }
    let _ = match order[0] {
        b'e' => std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).map(drop),
        b'd' => stream.write_all(&body::bytes(DOWNLOAD_LEN, 1)),
        b'u' => {
            let received = body::drain(&mut stream);
            stream.write_all(&received.digest)
        }
        b'r' => {
            let _ = stream.write_all(b"begun");
            backend::reset(stream);
            return;
        }
        other => panic!("no such order: {other}"),
    };
}

/// Lets `count` clients loose on the proxy, all of them connected at once, and waits until they are done.
pub(crate) fn run(proxy: &Proxy, count: usize) {
    allow_descriptors();
    let all_connected = Barrier::new(count);
    std::thread::scope(|scope| {
        for number in 0..count {
            let (client, all_connected) = (client(proxy, number), &all_connected);
            let run = move || one(proxy, &client, BEHAVIOURS[number % BEHAVIOURS.len()], all_connected);
            std::thread::Builder::new().stack_size(512 * 1024).spawn_scoped(scope, run).unwrap();
        }
    });
}

/// Versions and suites take turns.
fn client(proxy: &Proxy, number: usize) -> Client {
    let usable = SUITES.iter().filter(|suite| suite.key == super::certificate::KeyKind::EcdsaP256);
    let suites: Vec<_> = usable.collect();
    Client::of(proxy).suite(*suites[number / BEHAVIOURS.len() % suites.len()])
}

fn one(proxy: &Proxy, client: &Client, behaviour: Behaviour, all_connected: &Barrier) {
    match behaviour {
        Behaviour::LeavesBeforeHandshake => {
            let stream = connect_plain(proxy);
            all_connected.wait();
            drop(stream);
        }
        Behaviour::LeavesWithinHandshake => {
            let mut stream = connect_plain(proxy);
            stream.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
            all_connected.wait();
            drop(stream);
        }
        _ => {
            let tls = client.connect();
            all_connected.wait();
            behave(tls, behaviour);
        }
    }
}

fn behave(mut tls: Tls, behaviour: Behaviour) {
    match behaviour {
        Behaviour::Echoes => echo(tls, 60_000),
        Behaviour::WritesBytewise => {
            tls.deliver(Delivery::Bytewise);
            echo(tls, 40);
        }
        Behaviour::ReadsSlowly => {
            tls.send(b"d");
            let received = body::drain_with(|buffer| {
                std::thread::yield_now();
                tls.read(&mut buffer[..500])
            });
            assert_eq!(received, Received::of(&body::bytes(DOWNLOAD_LEN, 1), End::CloseNotify));
        }
        Behaviour::UploadsThenReads => {
            let upload = body::bytes(UPLOAD_LEN, 2);
            tls.send(b"u");
            tls.send(&upload);
            tls.close_notify();
            assert_eq!(tls.receive(32), openssl::sha::sha256(&upload));
            assert_eq!(tls.drain().end, End::CloseNotify);
        }
        Behaviour::ResetsMidway => {
            tls.send(b"d");
            tls.receive(1000);
            tls.reset();
        }
        Behaviour::Truncates => {
            tls.send(b"ehalf of");
            tls.receive(7);
            tls.end_stream();
            assert_ne!(tls.drain().end, End::CloseNotify, "the backend has not closed");
        }
        Behaviour::MeetsResettingBackend => {
            tls.send(b"r");
            assert_ne!(tls.drain().end, End::CloseNotify, "the backend was cut off");
        }
        Behaviour::ForgesRecord => {
            tls.send(b"e");
            tls.send_raw(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat());
            assert_eq!(tls.drain().end, End::Alert(20));
        }
        Behaviour::LeavesBeforeHandshake | Behaviour::LeavesWithinHandshake => unreachable!("there is no handshake"),
    }
}

fn echo(mut tls: Tls, len: usize) {
    let data = body::bytes(len, 3);
    tls.send(b"e");
    tls.send(&data);
    assert_eq!(tls.receive(len), data);
    tls.close_notify();
    assert_eq!(tls.drain().end, End::CloseNotify);
}

/// Each client costs this process two descriptors; the usual soft limit of 1024 is too low.
pub(crate) fn allow_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}
