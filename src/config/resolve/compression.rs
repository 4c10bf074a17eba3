//! `certificate_compression`: whether certificates are sent compressed, and whether they can be.

use crate::tls::compression::{self, CompressionMode};

use super::super::diagnostic::Diagnostic;
use super::super::raw;
use super::super::report::Report;

/// Gives the mode.
pub(super) fn resolve(raw: &raw::Tls, report: &mut Report) -> CompressionMode {
    let Some((mode, span)) = report.get(&raw.certificate_compression) else { return CompressionMode::Auto };
    if let Some(finding) = judge(mode, compression::is_possible(), openssl::version::version()) {
        report.push_at(finding, &span, "not possible with this OpenSSL");
    }
    mode
}

fn judge(mode: CompressionMode, is_possible: bool, openssl: &str) -> Option<Diagnostic> {
    if mode != CompressionMode::Required || is_possible {
        return None;
    }
    let title = format!("certificates cannot be sent compressed: this program is linked with the system's {openssl}");
    let help = "install a build with its own OpenSSL, which is the default, or set certificate_compression = \"auto\"";
    Some(Diagnostic::error(title).help(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_that_is_required_and_impossible_is_an_error_with_the_remedy() {
        let judged = |mode, is_possible| judge(mode, is_possible, "OpenSSL 3.0.19");
        for mode in [CompressionMode::Auto, CompressionMode::Off, CompressionMode::Required] {
            assert!(judged(mode, true).is_none(), "{mode:?}");
            assert_eq!(judged(mode, false).is_some(), mode == CompressionMode::Required, "{mode:?}");
        }
    }
}
