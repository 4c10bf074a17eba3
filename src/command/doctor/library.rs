//! The OpenSSL that this binary is linked with.

use super::finding::{Check, Finding, Subject};
use crate::tls::compression;

/// The first with X25519MLKEM768.
const WANTED: i64 = 0x3050_0000;
/// The first that Sluice runs with.
const NEEDED: i64 = 0x3000_0000;

#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// As OpenSSL says it: `OpenSSL 3.5.0 8 Apr 2025`.
    pub(super) version: String,
    /// 0xMNN00PP0.
    pub(super) number: i64,
    /// Whether certificates can be sent compressed.
    pub(super) compresses: bool,
}

impl Facts {
    pub(super) fn read() -> Self {
        Self {
            version: openssl::version::version().to_owned(),
            number: openssl::version::number(),
            compresses: compression::is_possible(),
        }
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let wanted = "OpenSSL 3.5 or later, for the post-quantum group X25519MLKEM768";
    let check = Check::new(Subject::Openssl, "version", &facts.version, wanted);
    let remedy = "install the build with its own OpenSSL, or update libssl";
    let version = match facts.number {
        ..NEEDED => check.broken(remedy),
        NEEDED..WANTED => check.note(remedy),
        WANTED.. => check.ok(),
    };
    let found = if facts.compresses { "with Brotli and zlib" } else { "not with the system's OpenSSL" };
    let wanted = "certificates can be sent compressed (RFC 8879)";
    let check = Check::new(Subject::Openssl, "certificate_compression", found, wanted);
    let compression = if facts.compresses {
        check.ok()
    } else {
        check.note("install the build with its own OpenSSL, where it matters")
    };
    vec![version, compression]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn openssl_is_judged_by_its_number() {
        let level = |number| judge(&Facts { version: "OpenSSL".to_owned(), number, compresses: true })[0].level();
        assert_eq!(level(0x1010_11f0), Level::Broken);
        assert_eq!(level(0x3000_0130), Level::Note);
        assert_eq!(level(0x3050_0000), Level::Ok);
        assert_eq!(level(0x4000_0030), Level::Ok);
    }

    #[test]
    fn openssl_that_sends_nothing_compressed_is_worth_a_note() {
        let level =
            |compresses| judge(&Facts { version: "OpenSSL".to_owned(), number: 0x4000_0030, compresses })[1].level();
        assert_eq!((level(true), level(false)), (Level::Ok, Level::Note));
    }
}
