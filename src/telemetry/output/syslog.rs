//! Syslog as RFC 5424 has it, by datagrams, TCP or TLS.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use openssl::error::ErrorStack;
use openssl::ssl::{HandshakeError, SslConnector, SslFiletype, SslMethod, SslStream, SslVersion};

use super::{Delivery, Line, Target};
use crate::sys::ssl::NO_RX_CERTIFICATE_COMPRESSION;

/// How long connecting to a collector may take, and one write to it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all syslog outputs have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyslogSettings {
    /// The facility of the messages.
    pub facility: Facility,
    /// Who the collector of a TLS output must prove to be, and who we are.
    pub tls: TlsFiles,
}

/// TLS towards a collector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the authorities of the collector; none: those of the system.
    pub ca: Option<PathBuf>,
    /// The name in the collector's certificate; none: its address.
    pub server_name: Option<String>,
    /// PEM files of our own certificate and key; none: we show no certificate.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// A file of [`TlsFiles`] cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", .path.display())]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// The facility of syslog messages (RFC 5424 section 6.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Facility {
    /// System daemons.
    #[default]
    Daemon,
    /// `local0` to `local7`.
    Local(u8),
}

impl Facility {
    fn code(self) -> u8 {
        match self {
            Self::Daemon => 3,
            Self::Local(number) => 16 + number,
        }
    }
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] for the first that cannot be used.
    pub fn connector(&self) -> Result<SslConnector, TlsError> {
        let nobody = Path::new("OpenSSL");
        let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(|error| refused(nobody, &error))?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(|error| refused(nobody, &error))?;
        builder.set_options(NO_RX_CERTIFICATE_COMPRESSION);
        if let Some(ca) = &self.ca {
            builder.set_ca_file(ca).map_err(|error| refused(ca, &error))?;
        }
        if let Some((chain, key)) = &self.certificate {
            builder.set_certificate_chain_file(chain).map_err(|error| refused(chain, &error))?;
            builder.set_private_key_file(key, SslFiletype::PEM).map_err(|error| refused(key, &error))?;
            builder.check_private_key().map_err(|error| refused(key, &error))?;
        }
        Ok(builder.build())
    }
}

fn refused(path: &Path, errors: &ErrorStack) -> TlsError {
    let problem = errors.errors().first().and_then(|error| error.reason()).unwrap_or("OpenSSL cannot use it");
    TlsError { path: path.to_owned(), problem: problem.to_owned() }
}

/// A collector, connected to when there is something to write.
pub(super) struct Collector {
    target: Target,
    tls: TlsFiles,
    facility: Facility,
    /// ` HOST sluice PID MSGID - `, behind it.
    origin: String,
    connection: Option<Connection>,
}

enum Connection {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

impl Collector {
    pub(super) fn new(target: &Target, settings: &SyslogSettings, log: &'static str) -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        // RFC 5424 section 6: printable ASCII, and a dash for what is not known.
        let host = host.filter(|host| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic()));
        Self {
            target: target.clone(),
            tls: settings.tls.clone(),
            facility: settings.facility,
            origin: format!(" {} sluice {} {log} - ", host.as_deref().unwrap_or("-"), std::process::id()),
            connection: None,
        }
    }

    pub(super) fn write(&mut self, lines: &[Line]) -> Delivery {
        match self.target {
            Target::SyslogTcp(_) | Target::SyslogTls(_) => self.write_counted(lines),
            _ => Delivery::one_by_one(lines, |line| {
                let message = self.message(line);
                let result = self.connected().and_then(|connection| connection.send_datagram(&message));
                if result.is_err() {
                    self.connection = None;
                }
                result
            }),
        }
    }

    /// Where the connection breaks, the message in hand is sent again over the next one. What the kernel had taken before
    /// may be lost with the connection: syslog has no acknowledgements.
    fn write_counted(&mut self, lines: &[Line]) -> Delivery {
        for (done, line) in lines.iter().enumerate() {
            let message = self.message(line);
            // RFC 6587 section 3.4.1, RFC 5425 section 4.3: the length in octets, a blank, the message.
            let frame = [format!("{} ", message.len()).as_bytes(), &message].concat();
            if let Err(error) = self.connected().and_then(|connection| connection.send_stream(&frame)) {
                self.connection = None;
                return Delivery { done, lost: 0, error: Some(error) };
            }
        }
        Delivery::complete(lines.len())
    }

    fn message(&self, line: &Line) -> Vec<u8> {
        // RFC 5424 section 6.2.1: facility and severity in one number, then the version.
        let priority = format!("<{}>1 ", self.facility.code() * 8 + line.severity as u8);
        let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        [priority.as_bytes(), time.as_bytes(), self.origin.as_bytes(), &line.text].concat()
    }

    fn connected(&mut self) -> io::Result<&mut Connection> {
        if self.connection.as_mut().is_some_and(Connection::has_ended) {
            self.connection = None;
        }
        match self.connection.take() {
            Some(connection) => Ok(self.connection.insert(connection)),
            None => Ok(self.connection.insert(Connection::open(&self.target, &self.tls)?)),
        }
    }
}

impl Connection {
    fn open(target: &Target, tls: &TlsFiles) -> io::Result<Self> {
        Ok(match target {
            Target::SyslogUnix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_nonblocking(true)?;
                Self::Unix(socket)
            }
            Target::SyslogUdp(address) => {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                socket.set_nonblocking(true)?;
                Self::Udp(socket)
            }
            Target::SyslogTcp(address) => Self::Tcp(connect(address)?),
            Target::SyslogTls(address) => {
                let connector = tls.connector().map_err(io::Error::other)?;
                let name = tls.server_name.clone().unwrap_or_else(|| address.ip().to_string());
                let mut configuration = connector.configure()?;
                // An address is not sent as a name (RFC 6066 section 3).
                configuration.set_use_server_name_indication(name.parse::<IpAddr>().is_err());
                let stream = configuration.connect(&name, connect(address)?).map_err(|error| match error {
                    HandshakeError::SetupFailure(errors) => errors.into(),
                    HandshakeError::Failure(failed) | HandshakeError::WouldBlock(failed) => {
                        let verified = failed.ssl().verify_result();
                        io::Error::other(match verified {
                            openssl::x509::X509VerifyResult::OK => failed.error().to_string(),
                            refused => format!("the collector's certificate is refused: {refused}"),
                        })
                    }
                })?;
                Self::Tls(Box::new(stream))
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    fn send_datagram(&self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(socket) => socket.send(message).map(drop),
            Self::Udp(socket) => socket.send(message).map(drop),
            Self::Tcp(_) | Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn send_stream(&mut self, frame: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(frame),
            Self::Tls(stream) => stream.write_all(frame),
            Self::Unix(_) | Self::Udp(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether a collector has closed: a write would succeed once more, and its message be lost.
    fn has_ended(&mut self) -> bool {
        let mut byte = [0];
        let (stream, result) = match self {
            Self::Tcp(stream) => {
                let result = stream.set_nonblocking(true).and_then(|()| stream.read(&mut byte));
                (&*stream, result)
            }
            Self::Tls(stream) => {
                // Takes the collector's tickets out of the way, too.
                let result = stream.get_ref().set_nonblocking(true).and_then(|()| stream.read(&mut byte));
                (stream.get_ref(), result)
            }
            Self::Unix(_) | Self::Udp(_) => return false,
        };
        let is_open = match result {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        !is_open || stream.set_nonblocking(false).is_err()
    }
}

fn connect(address: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn message_has_the_fields_of_the_standard_in_order() {
        let settings = SyslogSettings { facility: Facility::Local(4), ..SyslogSettings::default() };
        let collector = Collector::new(&Target::SyslogUdp(([127, 0, 0, 1], 514).into()), &settings, "access");
        let message = String::from_utf8(collector.message(&b"{\"a\":1}".to_vec().into())).unwrap();
        let fields: Vec<_> = message.splitn(8, ' ').collect();
        assert_eq!(fields[0], "<166>1");
        let grave = Line { text: b"a".to_vec(), severity: Severity::Error };
        assert!(collector.message(&grave).starts_with(b"<163>1 "));
        assert!(fields[1].ends_with('Z') && fields[1].len() == "2026-01-01T00:00:00.000000Z".len(), "{message}");
        assert_eq!(&fields[3..], ["sluice", &std::process::id().to_string(), "access", "-", "{\"a\":1}"]);
    }

    #[test]
    fn tls_file_that_cannot_be_used_is_named() {
        let files = TlsFiles { ca: Some("/nowhere/ca.pem".into()), ..TlsFiles::default() };
        let error = files.connector().err().unwrap().to_string();
        assert!(error.starts_with("/nowhere/ca.pem: "), "{error}");
    }
}
