//! `[server]`: who the process is.

use nix::unistd::{Group, User};

use crate::server;

use super::super::diagnostic::Diagnostic;
use super::super::raw;
use super::super::report::Report;
use super::super::scalar::quote;

/// The user that the process becomes; none: it stays who it is.
pub(super) fn user(raw: &raw::Server, report: &mut Report) -> Option<server::User> {
    let group = report.get(&raw.group);
    let Some((name, span)) = report.get(&raw.user) else {
        if let Some((_, span)) = group {
            let finding = Diagnostic::error("`server.group` without `server.user`");
            report.push_at(finding.help("name the user, too"), &span, "belongs to nobody");
        }
        return None;
    };
    let user = User::from_name(&name).ok().flatten();
    if user.is_none() {
        let finding = Diagnostic::error(format!("user {} does not exist", quote(&name)));
        let help = format!("make it: useradd --system --no-create-home --shell /usr/sbin/nologin {name}");
        report.push_at(finding.help(help), &span, "no such user");
    }
    let gid = match group {
        None => user.as_ref().map(|user| user.gid),
        Some((name, span)) => {
            let group = Group::from_name(&name).ok().flatten();
            if group.is_none() {
                let finding = Diagnostic::error(format!("group {} does not exist", quote(&name)));
                report.push_at(finding.help(format!("make it: groupadd --system {name}")), &span, "no such group");
            }
            group.map(|group| group.gid)
        }
    };
    Some(server::User { name, uid: user?.uid.as_raw(), gid: gid?.as_raw() })
}
