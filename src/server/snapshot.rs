//! From settings to what the workers serve: everything that can fail is tried before anything changes.

use std::sync::Arc;

use super::settings::Settings;
use super::start::StartError;
use super::watch::Stamps;
use crate::ktls;
use crate::tls::client_auth::ClientAuth;
use crate::tls::identity::Identity;
use crate::worker::{self, ListenerSettings};

/// Settings that have been proved good, with everything that they name read and tried out. Made on any thread, since
/// reading certificates takes its time.
pub(super) struct Prepared {
    pub(super) settings: Settings,
    /// One for each listener.
    pub(super) identities: Vec<Arc<Identity>>,
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
    /// Reads the certificates, asks the kernel what is not known of it yet, and builds what a worker would build.
    pub(super) fn prepare(mut settings: Settings, known: Option<Arc<ktls::Capabilities>>) -> Result<Self, StartError> {
        let capabilities = capabilities(&settings, known)?;
        // Before they are read: what changes meanwhile is read again.
        let stamps = stamps(&settings);
        settings.listeners.iter_mut().try_for_each(reread_client_auth)?;
        let load = |listener| load(listener, &settings);
        let identities = settings.listeners.iter().map(load).collect::<Result<_, _>>()?;
        Ok(Self { settings, identities, capabilities, stamps })
    }

    /// The same settings with the certificates whose files have changed since `read`. A listener whose new files cannot
    /// be used keeps what it has.
    pub(super) fn renew(
        mut settings: Settings,
        identities: &[Arc<Identity>],
        capabilities: Arc<ktls::Capabilities>,
        read: &Stamps,
    ) -> (Self, Vec<Swap>) {
        let stamps = stamps(&settings);
        let mut swaps = Vec::new();
        let mut renewed = Vec::new();
        for (index, before) in identities.iter().enumerate() {
            let mut listener = settings.listeners[index].clone();
            if !stamps.differ_in(read, &listener.tls.files()) {
                renewed.push(Arc::clone(before));
                continue;
            }
            let loaded = reread_client_auth(&mut listener).and_then(|()| load(&listener, &settings));
            let name = listener.name.clone();
            let (identity, problem) = match loaded {
                Ok(identity) => {
                    settings.listeners[index] = listener;
                    (identity, None)
                }
                Err(error) => (Arc::clone(before), Some(error)),
            };
            swaps.push(Swap { listener: name, problem });
            renewed.push(identity);
        }
        let identities = renewed;
        (Self { settings, identities, capabilities, stamps }, swaps)
    }
}

fn stamps(settings: &Settings) -> Stamps {
    Stamps::of(settings.listeners.iter().flat_map(|listener| listener.tls.files()))
}

/// Reads anew what says which clients are let in.
fn reread_client_auth(listener: &mut ListenerSettings) -> Result<(), StartError> {
    let Some(before) = &listener.tls.client_auth else { return Ok(()) };
    let error = |source| StartError::ClientAuth { listener: listener.name.clone(), source };
    let read = ClientAuth::load(before.settings()).map_err(error)?;
    listener.tls.client_auth = Some(Arc::new(read));
    Ok(())
}

/// Reads the certificate of a listener, and builds what a worker would build.
fn load(listener: &ListenerSettings, settings: &Settings) -> Result<Arc<Identity>, StartError> {
    let identity = Identity::load(&listener.tls.certificate)
        .map_err(|source| StartError::Identity { listener: listener.name.clone(), source })?;
    worker::try_out(listener, &identity, &settings.backends[listener.backend]).map_err(StartError::Listener)?;
    Ok(Arc::new(identity))
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
            && capabilities.cipher_costs.iter().any(ktls::CipherCost::is_slow) =>
        {
            tracing::warn!(
                "Linux {} is slow at sealing; kernel_tls = \"auto\" keeps those records in userspace \
                 (`sluice doctor` names the cipher and the remedy)",
                capabilities.kernel
            );
        }
        None => tracing::info!(suites = capabilities.suites.len(), "kernel TLS is available"),
    }
    Arc::new(capabilities)
}
