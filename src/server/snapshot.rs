//! From settings to what the workers serve: everything that can fail is tried before anything changes.

use std::sync::Arc;
use std::time::SystemTime;

use super::settings::Settings;
use super::start::StartError;
use super::watch::Stamps;
use crate::backend;
use crate::ktls;
use crate::tls::client_auth::ClientAuth;
use crate::tls::identity::{IdentityError, Table};
use crate::tls::stapling;
use crate::worker::{self, ListenerSettings};

/// Settings that have been proved good, with everything that they name read and tried out. Made on any thread, since
/// reading certificates takes its time.
pub(super) struct Prepared {
    pub(super) settings: Settings,
    pub(super) capabilities: Arc<ktls::Capabilities>,
    /// What the files looked like when they were read.
    pub(super) stamps: Stamps,
}

/// What came of the changed files of one listener.
#[derive(Debug)]
pub(super) struct Swap {
    pub(super) listener: String,
    /// Why the former certificate stays in service; none: the new one is good.
    pub(super) problem: Option<StartError>,
}

impl Prepared {
    /// Asks the kernel what is not known of it yet, and builds what a worker would build. The certificates were read
    /// with the configuration.
    pub(super) fn prepare(settings: Settings, known: Option<Arc<ktls::Capabilities>>) -> Result<Self, StartError> {
        let capabilities = capabilities(&settings, known)?;
        let mut stamps = stamps(&settings);
        // What has changed since it was read is read again.
        if let Some(begun) = settings.listeners.iter().map(|listener| listener.tls.identities.reading_began()).min() {
            stamps.distrust_since(begun);
        }
        for listener in &settings.listeners {
            worker::try_out(listener, &settings.backends).map_err(StartError::Listener)?;
        }
        Ok(Self { settings, capabilities, stamps })
    }

    /// The same settings with the certificates whose files have changed since `read`. A listener whose new files cannot
    /// be used keeps what it has.
    pub(super) fn renew(
        mut settings: Settings,
        capabilities: Arc<ktls::Capabilities>,
        read: &Stamps,
    ) -> (Self, Vec<Swap>) {
        let stamps = stamps(&settings);
        let mut swaps = Vec::new();
        for listener in &mut settings.listeners {
            if !stamps.differ_in(read, &listener.tls.files()) {
                continue;
            }
            let problem = match renewed(listener, &settings.backends) {
                Ok(renewed) => {
                    *listener = renewed;
                    None
                }
                Err(error) => Some(error),
            };
            swaps.push(Swap { listener: listener.name.clone(), problem });
        }
        (Self { settings, capabilities, stamps }, swaps)
    }
}

fn stamps(settings: &Settings) -> Stamps {
    Stamps::of(settings.listeners.iter().flat_map(|listener| listener.tls.files()))
}

/// The listener with everything read anew that its files say: certificates, and which clients are let in. Builds what a
/// worker would build.
fn renewed(listener: &ListenerSettings, backends: &[backend::Settings]) -> Result<ListenerSettings, StartError> {
    let mut renewed = listener.clone();
    let error = |source| StartError::ClientAuth { listener: listener.name.clone(), source };
    renewed.tls.replace_client_auths(|before| ClientAuth::load(before.settings()).map_err(error))?;
    let identities = Table::load(&listener.tls.certificates).map_err(|errors| {
        // The first says enough: the next reading names the others.
        let source = errors.into_iter().next().unwrap_or(IdentityError::TooMany { count: 0 });
        StartError::Identity { listener: listener.name.clone(), source }
    })?;
    for (path, error) in stapling::read_files(&identities, renewed.tls.ocsp, SystemTime::now()) {
        tracing::warn!(listener = %listener.name, "the OCSP response {} {error}", path.display());
    }
    renewed.tls.identities = Arc::new(identities);
    worker::try_out(&renewed, backends).map_err(StartError::Listener)?;
    Ok(renewed)
}

/// What the kernel can do: found out when the first listener wants to know.
fn capabilities(
    settings: &Settings,
    known: Option<Arc<ktls::Capabilities>>,
) -> Result<Arc<ktls::Capabilities>, StartError> {
    let wants = |listener: &ListenerSettings| listener.kernel_tls.mode != ktls::Mode::Off;
    let capabilities = match known {
        Some(known) if known.is_asked() => known,
        _ if settings.listeners.iter().any(wants) => probe(settings),
        _ => return Ok(Arc::new(ktls::Capabilities::unasked())),
    };
    for listener in settings.listeners.iter().filter(|listener| wants(listener)) {
        let error = |source| StartError::KernelTls { listener: listener.name.clone(), source };
        listener.kernel_tls.check_at_start(&capabilities).map_err(error)?;
    }
    Ok(capabilities)
}

fn probe(settings: &Settings) -> Arc<ktls::Capabilities> {
    let capabilities = ktls::probe();
    match &capabilities.absent {
        Some(absence) => {
            let remedy = absence.remedy();
            tracing::warn!("no kernel TLS: {absence}; records are protected in userspace (remedy: {remedy})");
        }
        None if capabilities.has_remote_bug() => {
            let bugs: Vec<_> = capabilities.known_bugs.iter().map(|bug| bug.id).collect();
            let bugs = bugs.join(", ");
            tracing::warn!(
                "Linux {} has {bugs} in its kernel TLS (listener.kernel_tls_known_bugs)",
                capabilities.kernel
            );
        }
        None if settings.listeners.iter().any(|listener| listener.kernel_tls.mode == ktls::Mode::Auto)
            && capabilities.lacks_aes_driver() =>
        {
            tracing::warn!(
                "Linux {} has no driver of this CPU's AES loaded; kernel_tls = \"auto\" keeps AES-GCM in userspace \
                 (`sluice doctor` has the remedy)",
                capabilities.kernel
            );
        }
        None => tracing::info!(suites = capabilities.suites.len(), "kernel TLS is available"),
    }
    Arc::new(capabilities)
}
