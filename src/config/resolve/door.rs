//! Servers that are reached in two ways, of which one is guarded by client certificates.
//!
//! What is asked of a client is settled by the server_name of its handshake, and bytes are relayed as they come: on a
//! connection for one name a client can ask the server for any other (`Host`). A server that can be reached through an open
//! name is not guarded, whatever its other names ask for.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use toml::Spanned;

use crate::backend::ServerAddress;
use crate::tls::ServerName;
use crate::tls::client_auth::{ClientAuth, ClientAuthMode};
use crate::worker::ListenerSettings;

use super::super::diagnostic::Diagnostic;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::{MixedClientAuth, quote};
use super::{backend, listener};

/// A way to a backend: the clients of a listener, or of one of its sections.
struct Door<'a> {
    listener: &'a str,
    /// Empty: everything that no section has.
    names: &'a [ServerName],
    client_auth: Option<&'a ClientAuth>,
    backend: usize,
    place: Range<usize>,
}

/// Refuses servers that are guarded at one door, and open, or guarded in another way, at another.
pub(super) fn check_all(
    listeners: &[listener::Resolved],
    raw: &[Spanned<raw::Listener>],
    backends: &[backend::Resolved],
    report: &mut Report,
) {
    // Where something else is wrong, nobody knows yet which backend is meant.
    if report.has_errors() {
        return;
    }
    let settings = listeners.iter().zip(raw).filter_map(|(listener, raw)| Some((listener.settings.as_ref()?, raw)));
    let doors: Vec<_> = settings.flat_map(|(settings, raw)| doors(settings, raw)).collect();
    let mut said = HashSet::new();
    for at_one_server in by_server(&doors, backends) {
        if let Some((guarded, other)) = conflict(&doors, &at_one_server, backends)
            && said.insert((guarded, other))
        {
            refuse(&doors[guarded], &doors[other], report);
        }
    }
}

fn doors<'a>(settings: &'a ListenerSettings, raw: &Spanned<raw::Listener>) -> Vec<Door<'a>> {
    let written = raw.get_ref().backend.written().map(|(span, _)| span);
    let own = Door {
        listener: &settings.name,
        names: &[],
        client_auth: settings.tls.client_auth.as_deref(),
        backend: settings.backend,
        place: written.unwrap_or_else(|| raw.span()),
    };
    let sections = settings.tls.sections.iter().zip(&settings.section_backends).zip(&raw.get_ref().server_name);
    let sections = sections.map(|((section, backend), raw)| {
        let written = raw.get_ref().backend.written().map(|(span, _)| span);
        let client_auth = raw.get_ref().client_auth.as_ref().map(Spanned::span);
        Door {
            listener: &settings.name,
            names: &section.names,
            client_auth: section.client_auth.as_deref(),
            backend: *backend,
            place: written.or(client_auth).unwrap_or_else(|| raw.span()),
        }
    });
    std::iter::once(own).chain(sections).collect()
}

/// The doors to each server, in the order of the file. Backends of different names can have a server in common.
fn by_server(doors: &[Door<'_>], backends: &[backend::Resolved]) -> Vec<Vec<usize>> {
    let mut positions: HashMap<&ServerAddress, usize> = HashMap::new();
    let mut found: Vec<Vec<usize>> = Vec::new();
    for (index, door) in doors.iter().enumerate() {
        let settings = backends.get(door.backend).and_then(|backend| backend.settings.as_ref());
        for server in settings.into_iter().flat_map(|settings| &settings.servers) {
            let position = *positions.entry(server).or_insert_with(|| {
                found.push(Vec::new());
                found.len() - 1
            });
            // A backend may name a server twice.
            if found[position].last() != Some(&index) {
                found[position].push(index);
            }
        }
    }
    found
}

/// Two of these doors, of which the first is guarded and the second is not, or in another way.
fn conflict(doors: &[Door<'_>], at_one_server: &[usize], backends: &[backend::Resolved]) -> Option<(usize, usize)> {
    let refuses = |index: &&usize| {
        backends.get(doors[**index].backend).is_none_or(|backend| backend.mixed == MixedClientAuth::Refuse)
    };
    // Between doors that all lead through backends whose servers tell the names apart there is no conflict.
    let refusing = *at_one_server.iter().find(refuses)?;
    let guarded = *at_one_server.iter().find(|index| doors[**index].is_guarded())?;
    if doors[refusing].digest() != doors[guarded].digest() {
        return Some((guarded, refusing));
    }
    let other = at_one_server.iter().find(|index| doors[**index].digest() != doors[refusing].digest())?;
    Some((refusing, *other))
}

fn refuse(guarded: &Door<'_>, other: &Door<'_>, report: &mut Report) {
    let title = if other.is_guarded() {
        format!("{} lets in clients with other certificates to a server than {}", other.label(), guarded.label())
    } else {
        format!("{} needs no client certificate for a server for which {} does", other.label(), guarded.label())
    };
    let mut finding = Diagnostic::error(title)
        .allowed("expected: a backend with servers of its own for each of them")
        .help(
            "a client that is let in for one name can ask the server for the other; where the servers themselves refuse \
             that, by the PROXY protocol header: mixed_client_auth = \"accept\" in their [[backend]]",
        );
    if guarded.place != other.place {
        finding = finding.and_at(guarded.place.clone(), "guarded here");
    }
    report.push_at(finding, &other.place, "reached through here as well");
}

impl Door<'_> {
    fn is_guarded(&self) -> bool {
        self.client_auth.is_some_and(|client_auth| client_auth.settings().mode == ClientAuthMode::Required)
    }

    fn digest(&self) -> Option<&[u8; 32]> {
        self.client_auth.map(ClientAuth::digest)
    }

    fn label(&self) -> String {
        let listener = quote(self.listener);
        match self.names {
            [] => format!("listener {listener}"),
            [name] => format!("server_name {} of listener {listener}", quote(name.as_str())),
            [name, ..] => format!("server_name {} and others of listener {listener}", quote(name.as_str())),
        }
    }
}
