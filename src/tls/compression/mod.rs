//! Certificate compression (RFC 8879): a certificate is compressed once for each algorithm, when the first client that takes
//! it has asked, and what came of it is kept beside the certificate for all workers.
//!
//! No worker compresses anything: it notes what it would have liked to send, sends the certificate as it is, and the control
//! thread has it ready a moment later. So certificates that nobody asks for cost nothing, and a client can have each of them
//! compressed but once. Compressed certificates *of* clients are not taken
//! ([`NO_RX_CERTIFICATE_COMPRESSION`](crate::sys::ssl::NO_RX_CERTIFICATE_COMPRESSION)).

mod encode;
mod message;

use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use openssl::error::ErrorStack;
use openssl::ssl::SslRef;

use super::client_hello::ClientHello;
use super::identity::{Identity, Table};
use super::stapling::Staple;
use crate::sys::compression::{self, Algorithm};
use crate::telemetry::CertificateCompression;

/// Whether certificates are sent compressed to clients that take it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompressionMode {
    /// They are, where [`is_possible`].
    #[default]
    Auto,
    /// They are not.
    Off,
    /// They are; a configuration is refused where that is not possible.
    Required,
}

/// Whether this program can send compressed certificates: with the OpenSSL that is built in it can, with the system's not.
pub fn is_possible() -> bool {
    ALGORITHMS.into_iter().any(compression::can_send)
}

/// How the certificate of a handshake went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The algorithm.
    pub compression: CertificateCompression,
    /// How many bytes shorter the message was by it.
    pub saved_bytes: u32,
}

/// In the order in which they are preferred: Brotli makes a message shorter, and browsers but Safari take it.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::Brotli, Algorithm::Zlib];

/// Each algorithm, without an OCSP response in the message and with one.
const SLOT_COUNT: usize = 2 * ALGORITHMS.len();

/// The compressed messages of one certificate. Two for each algorithm, because a client gets an OCSP response only if it
/// asks for one.
#[derive(Debug, Default)]
pub struct CompressedCell {
    slots: [ArcSwapOption<Compressed>; SLOT_COUNT],
    /// A bit for each slot that a worker found empty or out of date.
    wanted: AtomicU8,
}

/// A Certificate message, compressed.
#[derive(Debug)]
struct Compressed {
    /// None where compression makes nothing shorter.
    data: Option<Box<[u8]>>,
    uncompressed_len: usize,
    /// The response that is in it.
    staple: Option<Arc<Staple>>,
}

impl CompressedCell {
    /// Compresses what workers have noted, as it is now. Takes milliseconds for each message: not for a worker.
    /// Gives the number of messages.
    pub fn fill(&self, identity: &Identity, now: SystemTime) -> usize {
        let mut count = 0;
        for (slot, (algorithm, has_staple)) in slots() {
            if self.wanted.load(Ordering::Acquire) & bit(slot) == 0 {
                continue;
            }
            let staple = identity.staple().current_at(now).filter(|_| has_staple);
            // A response that is gone meanwhile leaves nothing to be done.
            if staple.is_some() == has_staple
                && let Some(cell) = self.slots.get(slot)
            {
                cell.store(Some(Arc::new(Compressed::new(algorithm, identity, staple))));
                count += 1;
            }
            // Only now, or workers would note it again while it is made.
            self.wanted.fetch_and(!bit(slot), Ordering::Release);
        }
        count
    }

    /// Whether something is noted.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) != 0
    }

    /// Hands `use_it` the message for a client that takes one of these, where it is there; what is not is noted.
    fn find<T>(
        &self,
        offer: Offer,
        staple: Option<&Arc<Staple>>,
        use_it: impl FnOnce(Algorithm, &[u8], usize) -> T,
    ) -> Found<T> {
        let mut is_news = false;
        for (slot, (algorithm, has_staple)) in slots() {
            if has_staple != staple.is_some() || !offer.has(algorithm) {
                continue;
            }
            let stored = self.slots.get(slot).map(ArcSwapOption::load);
            let stored = stored.as_ref().and_then(|stored| stored.as_deref());
            match stored.filter(|stored| is_same(stored.staple.as_ref(), staple)) {
                Some(Compressed { data: Some(data), uncompressed_len, .. }) => {
                    return Found { used: Some(use_it(algorithm, data, *uncompressed_len)), is_news };
                }
                // It would be no shorter.
                Some(_) => {}
                None => is_news |= self.want(slot),
            }
        }
        Found { used: None, is_news }
    }

    /// Notes that a slot is to be filled; whether that was not noted yet.
    fn want(&self, slot: usize) -> bool {
        // Most of the time it is, and then nobody's cache line need change hands.
        self.wanted.load(Ordering::Relaxed) & bit(slot) == 0
            && self.wanted.fetch_or(bit(slot), Ordering::AcqRel) & bit(slot) == 0
    }
}

/// What came of looking for a message.
struct Found<T> {
    used: Option<T>,
    /// Whether something was noted.
    is_news: bool,
}

impl Compressed {
    fn new(algorithm: Algorithm, identity: &Identity, staple: Option<Arc<Staple>>) -> Self {
        let message = message::certificate(identity, staple.as_deref()).unwrap_or_default();
        // A bug in a library must cost no more than the compression of this one message.
        let data = catch_unwind(|| encode::compress(algorithm, &message)).unwrap_or_else(|_| {
            let certificate = identity.path().display();
            tracing::error!(%certificate, ?algorithm, "compressing a certificate panicked: this is a bug, please report it");
            None
        });
        let shorter = data.filter(|data| data.len() < message.len());
        Self { data: shorter.map(Vec::into_boxed_slice), uncompressed_len: message.len(), staple }
    }
}

fn slots() -> impl Iterator<Item = (usize, (Algorithm, bool))> {
    ALGORITHMS.into_iter().flat_map(|algorithm| [(algorithm, false), (algorithm, true)]).enumerate()
}

fn bit(slot: usize) -> u8 {
    1 << slot
}

fn is_same(one: Option<&Arc<Staple>>, other: Option<&Arc<Staple>>) -> bool {
    match (one, other) {
        (None, None) => true,
        // The same response may have been read twice.
        (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
        _ => false,
    }
}

/// What a client takes: a bit for each of [`ALGORITHMS`], and one for whether it asks for an OCSP response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer(u8);

impl Offer {
    const STATUS: u8 = 1 << 7;

    /// Reads it; none where the client takes no algorithm that we have.
    pub(super) fn of(hello: &ClientHello) -> Option<Self> {
        let mut offer = 0;
        for code in hello.certificate_compressions()? {
            for algorithm in ALGORITHMS.into_iter().filter(|algorithm| code == *algorithm as u16) {
                offer |= Self::bit(algorithm);
            }
        }
        let status = if hello.asks_for_status() { Self::STATUS } else { 0 };
        (offer != 0).then_some(Self(offer | status))
    }

    fn has(self, algorithm: Algorithm) -> bool {
        self.0 & Self::bit(algorithm) != 0
    }

    fn asks_for_status(self) -> bool {
        self.0 & Self::STATUS != 0
    }

    fn bit(algorithm: Algorithm) -> u8 {
        1 << algorithm as u8
    }
}

/// Whether OCSP responses are sent at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stapling {
    On,
    Off,
}

/// Has a TLS 1.3 handshake send its certificate, which has been set, compressed for a client that takes it, where that is
/// ready. Runs within OpenSSL.
///
/// # Errors
/// When memory is short.
pub(super) fn send(
    ssl: &mut SslRef,
    table: &Table,
    identity: &Identity,
    offer: Offer,
    stapling: Stapling,
) -> Result<Sent, ErrorStack> {
    // OpenSSL will ask for the response in a moment, and put it into the message only if that is not compressed.
    let asks = offer.asks_for_status() && stapling == Stapling::On;
    let staple = if asks { identity.staple().current_at(SystemTime::now()) } else { None };
    let found = identity.compressed().find(offer, staple.as_ref(), |algorithm, data, uncompressed_len| {
        compression::send(ssl, algorithm, data, uncompressed_len)?;
        let saved_bytes = u32::try_from(uncompressed_len.saturating_sub(data.len())).unwrap_or(u32::MAX);
        Ok(Sent { compression: label(algorithm), saved_bytes })
    });
    if found.is_news {
        table.want_compression();
    }
    found.used.unwrap_or(Ok(Sent { compression: CertificateCompression::None, saved_bytes: 0 }))
}

fn label(algorithm: Algorithm) -> CertificateCompression {
    match algorithm {
        Algorithm::Brotli => CertificateCompression::Brotli,
        Algorithm::Zlib => CertificateCompression::Zlib,
    }
}

#[cfg(all(test, feature = "vendored-openssl"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::x509::X509;
    use rustls::compress::{BROTLI_DECOMPRESSOR, ZLIB_DECOMPRESSOR};

    use super::super::CertificateFiles;
    use super::super::client_hello::tests::body;
    use super::*;

    fn identity() -> Identity {
        let folder = tempfile::tempdir().unwrap();
        let key = EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap();
        let key = PKey::from_ec_key(key).unwrap();
        let mut builder = X509::builder().unwrap();
        // Something in it that can be made shorter.
        let mut name = openssl::x509::X509Name::builder().unwrap();
        name.append_entry_by_text("CN", &"edge".repeat(16)).unwrap();
        builder.set_subject_name(&name.build()).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let path = folder.path().join("edge.pem");
        let pem = [builder.build().to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap()].concat();
        std::fs::write(&path, pem).unwrap();
        Identity::load(&CertificateFiles::pem(&path, &path)).unwrap()
    }

    fn offer(algorithms: &[u8], has_status: bool) -> Option<Offer> {
        let list =
            [&[2 * algorithms.len() as u8][..], &algorithms.iter().flat_map(|one| [0, *one]).collect::<Vec<_>>()];
        let list = list.concat();
        let mut extensions = vec![(27, &list[..])];
        if has_status {
            extensions.push((5, &[1, 0, 0, 0, 0]));
        }
        Offer::of(&ClientHello::parse(&body(&[], &extensions)).unwrap())
    }

    /// What is found, expanded; and whether something was noted.
    fn find(identity: &Identity, offer: Offer, staple: Option<&Arc<Staple>>) -> (Option<(Algorithm, Vec<u8>)>, bool) {
        let found = identity.compressed().find(offer, staple, |algorithm, data, len| {
            let mut expanded = vec![0; len];
            let decompressor = match algorithm {
                Algorithm::Brotli => BROTLI_DECOMPRESSOR,
                Algorithm::Zlib => ZLIB_DECOMPRESSOR,
            };
            decompressor.decompress(data, &mut expanded).unwrap();
            (algorithm, expanded)
        });
        (found.used, found.is_news)
    }

    #[test]
    fn offer_is_what_we_have_of_what_the_client_takes() {
        assert!(offer(&[], true).is_none() && offer(&[3, 9], true).is_none(), "zstd is not ours");
        let both = offer(&[3, 1, 2], false).unwrap();
        assert!(both.has(Algorithm::Brotli) && both.has(Algorithm::Zlib) && !both.asks_for_status());
        let one = offer(&[1], true).unwrap();
        assert!(!one.has(Algorithm::Brotli) && one.has(Algorithm::Zlib) && one.asks_for_status());
        assert!(Offer::of(&ClientHello::parse(&body(&[], &[(5, &[1, 0, 0, 0, 0])])).unwrap()).is_none());
    }

    #[test]
    fn message_is_compressed_once_after_it_was_wanted_once() {
        let identity = identity();
        let brotli = offer(&[2], false).unwrap();
        assert_eq!(find(&identity, brotli, None), (None, true));
        assert_eq!(find(&identity, brotli, None), (None, false), "noted already");
        assert!(identity.compressed().is_wanted());
        assert_eq!(identity.compressed().fill(&identity, SystemTime::now()), 1);
        assert_eq!(identity.compressed().fill(&identity, SystemTime::now()), 0);
        let message = message::certificate(&identity, None).unwrap();
        assert_eq!(find(&identity, brotli, None), (Some((Algorithm::Brotli, message.clone())), false));
        // Who takes both gets what is there, and so does the other algorithm its turn.
        let zlib = offer(&[1], false).unwrap();
        assert_eq!(find(&identity, zlib, None), (None, true));
        assert_eq!(find(&identity, offer(&[1, 2], false).unwrap(), None).0.unwrap().0, Algorithm::Brotli);
        identity.compressed().fill(&identity, SystemTime::now());
        assert_eq!(find(&identity, zlib, None), (Some((Algorithm::Zlib, message)), false));
    }

    #[test]
    fn response_is_in_the_message_of_those_who_ask_for_it_and_of_nobody_else() {
        let identity = identity();
        let [first, second] = [b"first response", b"other response"].map(|der| Arc::new(Staple::unchecked(der)));
        let offer = offer(&[2], true).unwrap();
        let shown = |staple: Option<&Arc<Staple>>| find(&identity, offer, staple).0.map(|(_, message)| message);
        let whole = |staple: Option<&Arc<Staple>>| message::certificate(&identity, staple.map(|staple| &**staple));
        identity.staple().renew(&first);
        assert!(shown(Some(&first)).is_none() && shown(None).is_none());
        assert_eq!(identity.compressed().fill(&identity, SystemTime::now()), 2);
        assert_eq!((shown(Some(&first)), shown(None)), (whole(Some(&first)), whole(None)));
        assert_eq!(shown(Some(&Arc::new(Staple::clone(&first)))), whole(Some(&first)), "the same, read again");

        // A new one is never mixed up with the former.
        identity.staple().renew(&second);
        assert!(shown(Some(&second)).is_none());
        identity.compressed().fill(&identity, SystemTime::now());
        assert_eq!((shown(Some(&second)), shown(None)), (whole(Some(&second)), whole(None)));
        assert!(shown(Some(&first)).is_none());

        // What is revoked meanwhile leaves nothing to be done, and nothing noted.
        identity.staple().revoke();
        assert_eq!(identity.compressed().fill(&identity, SystemTime::now()), 0);
        assert!(!identity.compressed().is_wanted());
    }
}
