//! What a listener's TLS is configured with.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::client_auth::ClientAuth;
use super::compression::CompressionMode;
use super::identity::{File, Table, list_directory};
use super::protocol::Protocol;
use super::server_name::ServerName;
use super::stapling::{self, OcspMode};

/// TLS of one listener.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Versions, suites, groups and signatures.
    pub protocol: Protocol,
    /// Where the certificates lie.
    pub certificates: CertificateSources,
    /// The certificates, as they were read from there.
    pub identities: Arc<Table>,
    /// Whether certificates are sent compressed.
    pub compression: CompressionMode,
    /// Where the OCSP responses of the certificates come from.
    pub ocsp: OcspMode,
    /// What becomes of clients that ask for a name that no certificate has.
    pub unknown_server_name: UnknownServerName,
    /// ALPN protocols in order of preference; empty: the extension is not answered.
    pub alpn: Vec<String>,
    /// What is asked of clients that ask for a name of no section, or for none; none: nothing. Read from its files already,
    /// since they are as much a part of the settings as the keys are.
    pub client_auth: Option<Arc<ClientAuth>>,
    /// Names that are served otherwise than the rest. A name stands in one section at most.
    pub sections: Vec<Section>,
}

impl Settings {
    /// Every file and folder that the context of the listener is built from. Those of OCSP responses need not be there.
    pub fn files(&self) -> Vec<PathBuf> {
        let folder = self.certificates.directory.as_deref();
        // What cannot be listed has nothing in it that could be watched.
        let inside = folder.and_then(|folder| list_directory(folder).ok()).unwrap_or_default();
        let inside = inside.iter().flat_map(CertificateFiles::paths);
        let client_auth = self.client_auths().into_iter().flat_map(|client_auth| client_auth.settings().files());
        let certificates = self.certificates.paths().chain(inside).map(Path::to_owned);
        let responses = self.identities.identities().iter().filter(|_| self.ocsp != OcspMode::Off);
        let responses = responses.map(|identity| stapling::response_file(identity.path()));
        certificates.chain(client_auth.cloned()).chain(responses).collect()
    }

    /// Everything that is asked of clients, by the listener and by its sections, each thing once.
    pub fn client_auths(&self) -> Vec<&Arc<ClientAuth>> {
        let all =
            self.client_auth.iter().chain(self.sections.iter().filter_map(|section| section.client_auth.as_ref()));
        let mut seen = HashSet::new();
        all.filter(|client_auth| seen.insert(Arc::as_ptr(client_auth))).collect()
    }

    /// Puts something in the place of everything that is asked of clients.
    ///
    /// # Errors
    /// The first that `replace` gives; the settings are then as they were.
    pub fn replace_client_auths<E>(
        &mut self,
        mut replace: impl FnMut(&ClientAuth) -> Result<ClientAuth, E>,
    ) -> Result<(), E> {
        let mut replaced = HashMap::new();
        for before in self.client_auths() {
            replaced.insert(Arc::as_ptr(before), Arc::new(replace(before)?));
        }
        let places = self.sections.iter_mut().map(|section| &mut section.client_auth);
        for place in std::iter::once(&mut self.client_auth).chain(places).flatten() {
            if let Some(new) = replaced.get(&Arc::as_ptr(place)) {
                *place = Arc::clone(new);
            }
        }
        Ok(())
    }
}

/// Names of a listener that have settings of their own.
#[derive(Clone, Debug)]
pub struct Section {
    /// Names and patterns.
    pub names: Vec<ServerName>,
    /// What is asked of the clients that ask for them; none: nothing. Where the section has no say in it, what the listener
    /// asks.
    pub client_auth: Option<Arc<ClientAuth>>,
}

/// What becomes of clients that ask for no server_name, or for one that no certificate has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownServerName {
    /// They get the first certificate.
    Default,
    /// They are refused, with the alerts unrecognized_name and missing_extension.
    Refuse,
}

/// Where the certificates of a listener lie.
#[derive(Clone, Debug, Default)]
pub struct CertificateSources {
    /// In the order of the configuration.
    pub entries: Vec<CertificateFiles>,
    /// A folder of more of them.
    pub directory: Option<PathBuf>,
}

/// Where a certificate and its key lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The files.
    pub form: CertificateForm,
    /// A file with the passphrase of the key as its first line.
    pub passphrase: Option<PathBuf>,
}

/// The form of a certificate's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateForm {
    /// PEM.
    Pem {
        /// The certificate and its intermediates.
        chain: PathBuf,
        /// The private key; may be the same file.
        key: PathBuf,
    },
    /// PKCS #12: everything in one file.
    Pkcs12(PathBuf),
}

impl CertificateSources {
    /// One certificate.
    pub fn one(files: CertificateFiles) -> Self {
        Self { entries: vec![files], directory: None }
    }

    /// Every file that is named, and the folder.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.entries.iter().flat_map(CertificateFiles::paths).chain(self.directory.as_deref())
    }
}

impl CertificateFiles {
    /// Two PEM files, without a passphrase.
    pub fn pem(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { form: CertificateForm::Pem { chain: chain.into(), key: key.into() }, passphrase: None }
    }

    /// A PKCS #12 file, without a passphrase.
    pub fn pkcs12(path: impl Into<PathBuf>) -> Self {
        Self { form: CertificateForm::Pkcs12(path.into()), passphrase: None }
    }

    /// The file with the certificate.
    pub fn certificate(&self) -> &Path {
        match &self.form {
            CertificateForm::Pem { chain, .. } => chain,
            CertificateForm::Pkcs12(path) => path,
        }
    }

    /// What kind of file that is.
    pub(super) fn certificate_file(&self) -> File {
        match &self.form {
            CertificateForm::Pem { .. } => File::Chain,
            CertificateForm::Pkcs12(_) => File::Pkcs12,
        }
    }

    /// The file with the key.
    pub fn key(&self) -> &Path {
        match &self.form {
            CertificateForm::Pem { key, .. } => key,
            CertificateForm::Pkcs12(path) => path,
        }
    }

    /// Every file.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        [self.certificate(), self.key()].into_iter().chain(self.passphrase.as_deref())
    }
}
