//! Where the admin endpoint listens: TCP or a unix socket, with TLS where the address is public.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openssl::error::ErrorStack;
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod, SslVerifyMode};
use openssl::x509::X509;

use super::settings::{Address, Settings, SocketMode, TlsSettings};
use crate::sys::ssl::NO_RX_CERTIFICATE_COMPRESSION;

/// A bound socket that listens.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(std::net::TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a unix socket; dropped, it is removed, unless another process has put its own there meanwhile.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
    /// Set while the file belongs to another process that has the same socket.
    is_left: Arc<AtomicBool>,
}

/// A listening socket once more, for a process that takes over.
#[derive(Debug)]
pub struct Twin {
    socket: OwnedFd,
    is_left: Option<Arc<AtomicBool>>,
}

impl Twin {
    /// The descriptor.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Says that the other process has taken over: the file of a unix socket stays when this process lets go of it.
    pub fn leave_file(&self) {
        if let Some(is_left) = &self.is_left {
            is_left.store(true, Ordering::Relaxed);
        }
    }
}

/// Why the admin endpoint could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Configuration: anyone could reach it.
    #[error(
        "admin address {0} is neither a loopback address nor a unix socket; use 127.0.0.1, [::1] or unix:, or demand \
         client certificates with [admin.tls] (admin.address)"
    )]
    NotLoopback(SocketAddr),
    /// The machine: the address is taken.
    #[error("admin endpoint cannot listen on {address}: {source} (admin.address)")]
    Listen {
        /// The address.
        address: Address,
        /// What bind(2) or listen(2) said.
        source: io::Error,
    },
    /// The machine: another process answers there.
    #[error("admin endpoint cannot listen on unix:{}: another process listens there (admin.address)", .0.display())]
    InUse(PathBuf),
    /// Configuration: something else lies where the socket is to be.
    #[error("admin endpoint cannot listen on unix:{}: this exists and is no socket (admin.address)", .0.display())]
    NotASocket(PathBuf),
    /// Configuration: TLS of the endpoint.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why TLS of the admin endpoint cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem} (admin.tls.{key})", .path.display())]
pub struct TlsError {
    /// The key of the configuration.
    pub key: &'static str,
    /// The file that it names.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl Socket {
    /// Listens where the settings say; a port of 0 is resolved.
    pub(super) fn bind(settings: &Settings, address: &Address) -> Result<(Self, Address), BindError> {
        match address {
            Address::Tcp(address) if settings.tls.is_none() && !address.ip().is_loopback() => {
                Err(BindError::NotLoopback(*address))
            }
            Address::Tcp(address) => {
                let (listener, address) = bind_tcp(*address)
                    .map_err(|source| BindError::Listen { address: Address::Tcp(*address), source })?;
                Ok((Self::Tcp(listener), Address::Tcp(address)))
            }
            Address::Unix(path) => {
                check_free(path)?;
                let (listener, file) = bind_unix(path, settings.socket_mode)
                    .map_err(|source| BindError::Listen { address: Address::Unix(path.clone()), source })?;
                Ok((Self::Unix(listener, file), address.clone()))
            }
        }
    }
}

impl Socket {
    /// Goes on with a socket that another process has bound.
    pub(super) fn take_over(socket: OwnedFd, address: &Address) -> Self {
        match address {
            Address::Tcp(_) => Self::Tcp(socket.into()),
            Address::Unix(path) => {
                let inode = fs::symlink_metadata(path).map_or((0, 0), |file| (file.dev(), file.ino()));
                let file = SocketFile { path: path.clone(), inode, is_left: Arc::new(AtomicBool::new(true)) };
                Self::Unix(socket.into(), file)
            }
        }
    }

    /// From now on the file of a unix socket is this process's to remove.
    pub(super) fn own_file(&self) {
        if let Self::Unix(_, file) = self {
            file.is_left.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn twin(&self) -> io::Result<Twin> {
        Ok(match self {
            Self::Tcp(listener) => Twin { socket: listener.try_clone()?.into(), is_left: None },
            Self::Unix(listener, file) => {
                Twin { socket: listener.try_clone()?.into(), is_left: Some(Arc::clone(&file.is_left)) }
            }
        })
    }
}

impl TlsSettings {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] for the first file that cannot be used.
    pub fn load(&self) -> Result<SslAcceptor, TlsError> {
        let chain = |error| TlsError::new("chain", &self.chain, error);
        let key = |error| TlsError::new("key", &self.key, error);
        let client_ca = |error| TlsError::new("client_ca", &self.client_ca, error);
        let mut builder =
            SslAcceptor::mozilla_modern_v5(SslMethod::tls_server()).map_err(|error| chain(error.into()))?;
        builder.set_certificate_chain_file(&self.chain).map_err(|error| chain(error.into()))?;
        builder.set_private_key_file(&self.key, SslFiletype::PEM).map_err(|error| key(error.into()))?;
        builder.check_private_key().map_err(|error| key(error.into()))?;
        let pem = fs::read(&self.client_ca).map_err(|error| client_ca(error.into()))?;
        let authorities = X509::stack_from_pem(&pem).map_err(|error| client_ca(error.into()))?;
        if authorities.is_empty() {
            return Err(client_ca(Problem("there is no certificate in it".to_owned())));
        }
        for authority in authorities {
            builder.add_client_ca(&authority).map_err(|error| client_ca(error.into()))?;
            builder.cert_store_mut().add_cert(authority).map_err(|error| client_ca(error.into()))?;
        }
        builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        // No session outlives its connection: each one shows its certificate.
        builder.set_session_cache_mode(openssl::ssl::SslSessionCacheMode::OFF);
        builder.set_options(openssl::ssl::SslOptions::NO_TICKET | NO_RX_CERTIFICATE_COMPRESSION);
        builder.set_num_tickets(0).map_err(|error| chain(error.into()))?;
        Ok(builder.build())
    }
}

/// What is wrong with a file, in words.
struct Problem(String);

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<ErrorStack> for Problem {
    fn from(errors: ErrorStack) -> Self {
        let first = errors.errors().first().and_then(|error| error.reason());
        Self(first.unwrap_or("OpenSSL cannot use it").to_owned())
    }
}

impl TlsError {
    fn new(key: &'static str, path: &Path, Problem(problem): Problem) -> Self {
        Self { key, path: path.to_owned(), problem }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<(std::net::TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// A socket file that nobody listens on is what a process left that could not tidy up; it may be replaced.
fn check_free(path: &Path) -> Result<(), BindError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(_) => Ok(()),
    }
}

/// Bound under another name first, so that nobody can connect before the permissions stand, and so that a stale file is
/// replaced in one step.
fn bind_unix(path: &Path, mode: SocketMode) -> io::Result<(UnixListener, SocketFile)> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    let placed = fs::set_permissions(&temporary, Permissions::from_mode(mode.bits()))
        .and_then(|()| listener.set_nonblocking(true))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| fs::symlink_metadata(path));
    match placed {
        Ok(metadata) => {
            let inode = (metadata.dev(), metadata.ino());
            Ok((listener, SocketFile { path: path.to_owned(), inode, is_left: Arc::default() }))
        }
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// Bytes by which the name of the socket is longer while it is being made: a dot and the number of the process, which has
/// seven digits at most (proc(5), pid_max).
pub const TEMPORARY_SUFFIX_BYTES_MAX: usize = 8;

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.inode);
        if is_ours && !self.is_left.load(Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::*;

    fn bind(path: &Path, mode: SocketMode) -> Result<(Socket, Address), BindError> {
        let settings = Settings { socket_mode: mode, ..Settings::default() };
        Socket::bind(&settings, &Address::Unix(path.to_owned()))
    }

    #[test]
    fn socket_has_its_permissions_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        for mode in [SocketMode::User, SocketMode::Group] {
            let bound = bind(&path, mode).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode.bits());
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the temporary name is gone");
            drop(bound);
            assert!(!path.exists());
        }
    }

    #[test]
    fn socket_that_is_listened_on_is_refused_and_a_stale_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let other = UnixListener::bind(&path).unwrap();
        assert!(matches!(bind(&path, SocketMode::User), Err(BindError::InUse(_))));
        drop(other);
        assert!(path.exists(), "the standard library leaves the file");
        bind(&path, SocketMode::User).unwrap();
    }

    #[test]
    fn file_that_is_no_socket_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, SocketMode::User), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn socket_of_a_successor_survives_the_end_of_its_predecessor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let first = bind(&path, SocketMode::User).unwrap();
        fs::remove_file(&path).unwrap();
        let second = bind(&path, SocketMode::User).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
    }

    #[test]
    fn public_address_without_client_certificates_is_refused() {
        let address = Address::Tcp("192.0.2.1:9180".parse().unwrap());
        let error = Socket::bind(&Settings::default(), &address).unwrap_err();
        assert!(matches!(error, BindError::NotLoopback(_)), "{error}");
    }
}
