//! Backends in plain TCP that do exactly what a test needs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use socket2::SockRef;

use super::DEADLINE;

/// A listening socket whose connections the test plays itself.
pub(crate) struct Backend {
    listener: TcpListener,
}

impl Backend {
    pub(crate) fn listen() -> Self {
        Self::listen_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Listens where the test holds a port.
    pub(crate) fn listen_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        // accept(2) obeys it too.
        SockRef::from(&listener).set_read_timeout(Some(DEADLINE)).unwrap();
        Self { listener }
    }

    /// Like [`Backend::listen`], with receive buffers as small as the kernel lets them be.
    pub(crate) fn listen_with_small_buffers() -> Self {
        let backend = Self::listen();
        SockRef::from(&backend.listener).set_recv_buffer_size(4096).unwrap();
        backend
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection from the proxy.
    pub(crate) fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().expect("a connection from the proxy");
        bound(&stream);
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Runs `serve` for each connection, each on its own thread, as long as the process lives. The results come out of
    /// the receiver.
    pub(crate) fn serve<T: Send + 'static>(
        self,
        serve: impl Fn(TcpStream) -> T + Clone + Send + 'static,
    ) -> (SocketAddr, Receiver<T>) {
        let address = self.address();
        SockRef::from(&self.listener).set_read_timeout(None).unwrap();
        let (results, receiver) = mpsc::channel();
        let accept = move || {
            for stream in self.listener.incoming().map_while(Result::ok) {
                let (serve, results) = (serve.clone(), results.clone());
                thread(move || {
                    bound(&stream);
                    let _ = results.send(serve(stream));
                });
            }
        };
        thread(accept);
        (address, receiver)
    }

    /// Sends back what it gets, and closes when the proxy does.
    pub(crate) fn echo() -> SocketAddr {
        Self::listen().serve(|stream| copy(&stream, &stream)).0
    }

    /// An echo with a name: it sends `name` first.
    pub(crate) fn named(name: &'static str) -> SocketAddr {
        let serve = move |mut stream: TcpStream| {
            let _ = stream.write_all(name.as_bytes());
            copy(&stream, &stream);
        };
        Self::listen().serve(serve).0
    }

    /// [`Backend::named`] on a unix socket.
    pub(crate) fn named_unix(path: &Path, name: &'static str) {
        let listener = UnixListener::bind(path).unwrap();
        thread(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                thread(move || {
                    let _ = stream.write_all(name.as_bytes());
                    copy::<UnixStream>(&stream, &stream);
                });
            }
        });
    }

    /// An address that refuses connections.
    pub(crate) fn refusing() -> super::port::Port {
        super::port::Port::reserve()
    }
}

/// Ends a connection with a reset instead of an end of stream.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Receives exactly `len` bytes.
pub(crate) fn receive(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).expect("bytes from the proxy");
    bytes
}

/// Gives every call on the stream a deadline.
pub(crate) fn bound(stream: &TcpStream) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
}

fn copy<S>(mut from: &S, mut to: &S)
where
    for<'a> &'a S: Read + Write,
{
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
}

/// Five hundred of these must not cost five hundred full stacks.
fn thread(run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(256 * 1024).spawn(run).unwrap();
}

/// Sends endlessly to whom asks for it with a `d`, and an echo to anybody else.
pub(crate) fn endless_or_echo(mut stream: TcpStream) {
    let block = super::body::bytes(1 << 18, 1);
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if buffer[0] == b'd' {
            while stream.write_all(&block).is_ok() {}
            return;
        }
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}
