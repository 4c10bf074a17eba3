//! A TLS client on OpenSSL that can misbehave: it decides when which bytes leave, and sees exactly how a stream ends.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use openssl::pkey::{PKey, Private};
use openssl::ssl::{ErrorCode, HandshakeError, Ssl, SslContext, SslMethod, SslMode, SslRef, SslStream, SslVerifyMode};
use openssl::x509::X509;
use socket2::{Domain, SockRef, Socket, Type};

use super::DEADLINE;
use super::backend;
use super::body::{self, End, Received};
use super::certificate::SERVER_NAME;
use super::proxy::Proxy;
use super::suite::{Suite, Version};

/// What a client offers.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    ca: PathBuf,
    server_name: &'static str,
    version: Option<Version>,
    suite: Option<Suite>,
    groups: Option<&'static str>,
    alpn: Vec<u8>,
    delivery: Delivery,
    receive_buffer: Option<usize>,
    source: Option<Ipv4Addr>,
    identity: Option<(X509, PKey<Private>, Vec<X509>)>,
}

/// How what OpenSSL writes leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// As it is written.
    Whole,
    /// In segments of one byte.
    Bytewise,
    /// Not at all: it is kept for [`Tls::take_held`].
    Held,
    /// The ClientHello in records of this many bytes, the rest as it is written.
    HelloInRecordsOf(usize),
    /// Only the first flight leaves, the ClientHello; the rest is kept.
    HeldAfterHello,
}

impl Client {
    /// A client of this proxy with OpenSSL's defaults.
    pub(crate) fn of(proxy: &Proxy) -> Self {
        Self::at(proxy.address(), proxy.ca())
    }

    /// A client of any server whose certificate this authority issued.
    pub(crate) fn at(address: SocketAddr, ca: &Path) -> Self {
        Self {
            address,
            ca: ca.to_owned(),
            server_name: SERVER_NAME,
            version: None,
            suite: None,
            groups: None,
            alpn: Vec::new(),
            delivery: Delivery::Whole,
            receive_buffer: None,
            source: None,
            identity: None,
        }
    }

    /// Asks for this name, and insists on a certificate for it.
    pub(crate) fn server_name(self, server_name: &'static str) -> Self {
        Self { server_name, ..self }
    }

    pub(crate) fn version(self, version: Version) -> Self {
        Self { version: Some(version), ..self }
    }

    /// Offers this suite only, and its version only.
    pub(crate) fn suite(self, suite: Suite) -> Self {
        Self { version: Some(suite.version), suite: Some(suite), ..self }
    }

    pub(crate) fn groups(self, groups: &'static str) -> Self {
        Self { groups: Some(groups), ..self }
    }

    pub(crate) fn alpn(self, protocols: &[&str]) -> Self {
        let wire = protocols.iter().flat_map(|name| std::iter::once(name.len() as u8).chain(name.bytes()));
        Self { alpn: wire.collect(), ..self }
    }

    pub(crate) fn delivery(self, delivery: Delivery) -> Self {
        Self { delivery, ..self }
    }

    /// Receives into a socket buffer as small as the kernel lets it be.
    pub(crate) fn small_receive_buffer(self) -> Self {
        Self { receive_buffer: Some(4096), ..self }
    }

    /// Connects from this address of the loopback network.
    pub(crate) fn from(self, source: Ipv4Addr) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Shows this certificate where one is asked for, with those above it.
    pub(crate) fn identity(self, certificate: X509, key: PKey<Private>, chain: Vec<X509>) -> Self {
        Self { identity: Some((certificate, key, chain)), ..self }
    }

    /// Completes a handshake.
    pub(crate) fn connect(&self) -> Tls {
        self.try_connect().unwrap_or_else(|failure| panic!("handshake failed: {failure:?}"))
    }

    /// Completes a handshake of TLS 1.3 whose last message leaves in one write with `request`.
    pub(crate) fn connect_and_send(self, request: &[u8]) -> Tls {
        let mut client = self.version(Version::Tls13).delivery(Delivery::HeldAfterHello).connect();
        client.send(request);
        let flight = client.take_held();
        client.send_raw(&flight);
        client.deliver(Delivery::Whole);
        client
    }

    /// Tries a handshake.
    pub(crate) fn try_connect(&self) -> Result<Tls, Refusal> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None).unwrap();
        if let Some(size) = self.receive_buffer {
            socket.set_recv_buffer_size(size).unwrap();
        }
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        }
        socket.connect(&self.address.into()).unwrap();
        self.handshake_over(socket.into())
    }

    /// Tries a handshake over a socket that is connected already.
    pub(crate) fn handshake_over(&self, socket: TcpStream) -> Result<Tls, Refusal> {
        backend::bound(&socket);
        socket.set_nodelay(true).unwrap();
        let secrets = Arc::<Mutex<Vec<String>>>::default();
        let wire = Wire { socket, delivery: self.delivery, held: Vec::new(), last_record: Vec::new() };
        let mut ssl = Ssl::new(&self.context(&secrets)).unwrap();
        ssl.param_mut().set_host(self.server_name).unwrap();
        ssl.set_hostname(self.server_name).unwrap();
        if !self.alpn.is_empty() {
            ssl.set_alpn_protos(&self.alpn).unwrap();
        }
        match ssl.connect(wire) {
            Ok(stream) => Ok(Tls { stream, secrets }),
            Err(HandshakeError::Failure(stream)) => Err(Refusal::of(stream.error())),
            Err(error) => panic!("handshake neither completed nor failed: {error}"),
        }
    }

    /// No SslConnector: each one would read all authorities that the machine trusts, which takes longer than a handshake.
    fn context(&self, secrets: &Arc<Mutex<Vec<String>>>) -> SslContext {
        let mut builder = SslContext::builder(SslMethod::tls_client()).unwrap();
        builder.set_mode(SslMode::AUTO_RETRY | SslMode::ACCEPT_MOVING_WRITE_BUFFER | SslMode::ENABLE_PARTIAL_WRITE);
        builder.set_ca_file(&self.ca).unwrap();
        builder.set_verify(SslVerifyMode::PEER);
        if let Some(version) = self.version {
            builder.set_min_proto_version(Some(version.openssl())).unwrap();
            builder.set_max_proto_version(Some(version.openssl())).unwrap();
        }
        if let Some(suite) = self.suite {
            match suite.version {
                Version::Tls12 => builder.set_cipher_list(suite.openssl).unwrap(),
                Version::Tls13 => builder.set_ciphersuites(suite.openssl).unwrap(),
            }
        }
        if let Some(groups) = self.groups {
            builder.set_groups_list(groups).unwrap();
        }
        if let Some((certificate, key, chain)) = &self.identity {
            builder.set_certificate(certificate).unwrap();
            builder.set_private_key(key).unwrap();
            chain.iter().for_each(|above| builder.add_extra_chain_cert(above.clone()).unwrap());
        }
        let secrets = Arc::clone(secrets);
        builder.set_keylog_callback(move |_, line| secrets.lock().unwrap().push(line.to_owned()));
        builder.build()
    }
}

/// How a handshake failed, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// With this fatal alert.
    Alert(u8),
    /// Without an alert, or on the client's side.
    Other,
}

impl Refusal {
    fn of(error: &openssl::ssl::Error) -> Self {
        alert_of(error).map_or(Self::Other, Self::Alert)
    }
}

/// OpenSSL reports a received alert as this plus its number.
const ALERT_REASON_OFFSET: i32 = 1000;

fn alert_of(error: &openssl::ssl::Error) -> Option<u8> {
    let reasons = error.ssl_error()?.errors().iter().map(openssl::error::Error::reason_code);
    reasons.filter_map(|reason| u8::try_from(reason - ALERT_REASON_OFFSET).ok()).next()
}

/// An established connection.
#[derive(Debug)]
pub(crate) struct Tls {
    stream: SslStream<Wire>,
    secrets: Arc<Mutex<Vec<String>>>,
}

impl Tls {
    pub(crate) fn ssl(&self) -> &SslRef {
        self.stream.ssl()
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.stream.get_ref().socket
    }

    /// Sends data; it must be taken.
    pub(crate) fn send(&mut self, data: &[u8]) {
        self.stream.write_all(data).expect("the proxy takes data");
    }

    /// Sends data as far as it is taken.
    pub(crate) fn try_send(&mut self, data: &[u8]) -> io::Result<()> {
        self.stream.write_all(data)
    }

    /// Sends bytes past OpenSSL, as they are.
    pub(crate) fn send_raw(&self, bytes: &[u8]) {
        self.socket().write_all(bytes).expect("the proxy takes bytes");
    }

    /// Says close_notify; the TCP stream stays open.
    pub(crate) fn close_notify(&mut self) {
        self.stream.shutdown().expect("close_notify is sent");
    }

    /// Ends the TCP stream, with close_notify or without.
    pub(crate) fn end_stream(&self) {
        self.socket().shutdown(Shutdown::Write).unwrap();
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        SockRef::from(self.socket()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// Receives exactly `len` bytes.
    pub(crate) fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("data from the proxy");
        bytes
    }

    /// Receives to the end, and says which end that was.
    pub(crate) fn drain(&mut self) -> Received {
        body::drain_with(|buffer| self.read(buffer))
    }

    /// Receives once, or gives the end of the stream.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, End> {
        match self.stream.ssl_read(buffer) {
            Ok(len) => Ok(len),
            Err(error) => Err(end_of(&error)),
        }
    }

    /// [`Tls::read`] on a socket that does not block: none when there is nothing yet.
    pub(crate) fn try_read(&mut self, buffer: &mut [u8]) -> Option<Result<usize, End>> {
        match self.stream.ssl_read(buffer) {
            Ok(len) => Some(Ok(len)),
            Err(error) if error.code() == ErrorCode::WANT_READ => None,
            Err(error) => Some(Err(end_of(&error))),
        }
    }

    /// From here on, what is sent is delivered like this.
    pub(crate) fn deliver(&mut self, delivery: Delivery) {
        self.stream.get_mut().delivery = delivery;
    }

    /// The records written since delivery was [`Delivery::Held`].
    pub(crate) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.stream.get_mut().held)
    }

    /// The key log's secret under `label`.
    pub(super) fn secret(&self, label: &str) -> Vec<u8> {
        let secrets = self.secrets.lock().unwrap();
        let line = secrets.iter().find(|line| line.starts_with(label)).expect("the key log has the secret");
        let hex = line.rsplit(' ').next().unwrap();
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// The last record that OpenSSL wrote.
    pub(super) fn last_record(&self) -> &[u8] {
        &self.stream.get_ref().last_record
    }
}

fn end_of(error: &openssl::ssl::Error) -> End {
    if error.code() == ErrorCode::ZERO_RETURN {
        return End::CloseNotify;
    }
    if let Some(error) = error.io_error() {
        return body::end_of(error);
    }
    match alert_of(error) {
        Some(alert) => End::Alert(alert),
        None if error.to_string().contains("unexpected eof") => End::EndOfStream,
        None => panic!("stream ended in a way that TLS does not know: {error}"),
    }
}

#[derive(Debug)]
struct Wire {
    socket: TcpStream,
    delivery: Delivery,
    held: Vec<u8>,
    last_record: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // OpenSSL hands over whole records; of a flight only the last one matters. Only what a full socket left over of one
        // is no record.
        self.last_record = last_record(bytes).to_vec();
        match self.delivery {
            // Not all of it: of a socket that does not block OpenSSL must hear how much it took, and go on behind that.
            Delivery::Whole => return self.socket.write(bytes),
            Delivery::Bytewise => bytes.chunks(1).try_for_each(|byte| self.socket.write_all(byte))?,
            Delivery::HelloInRecordsOf(len) => {
                self.socket.write_all(&in_records_of(len, bytes))?;
                self.delivery = Delivery::Whole;
            }
            Delivery::HeldAfterHello => {
                self.socket.write_all(bytes)?;
                self.delivery = Delivery::Held;
            }
            Delivery::Held => self.held.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Frames the one unprotected record anew.
fn in_records_of(len: usize, record: &[u8]) -> Vec<u8> {
    let (header, message) = record.split_at(5);
    let framed = message.chunks(len).flat_map(|payload| {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&header[..3], &length, payload].concat()
    });
    framed.collect()
}

fn last_record(mut records: &[u8]) -> &[u8] {
    loop {
        let Some(header) = records.first_chunk::<5>() else { return records };
        let len = header.len() + usize::from(u16::from_be_bytes([header[3], header[4]]));
        if len >= records.len() {
            return records;
        }
        records = &records[len..];
    }
}

/// A plain connection to the TLS port.
pub(crate) fn connect_plain(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect_timeout(&proxy.address(), DEADLINE).unwrap();
    bound(stream)
}

fn bound(stream: TcpStream) -> TcpStream {
    backend::bound(&stream);
    stream.set_nodelay(true).unwrap();
    stream
}

/// The connection is there, in both directions, and an echo at its end.
pub(crate) fn assert_echoes(client: &mut Tls) {
    client.send(b"still there?");
    assert_eq!(client.receive(12), b"still there?");
}
