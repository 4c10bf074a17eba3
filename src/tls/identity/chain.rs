//! The order of a certificate chain, and what in it clients would refuse.

use openssl::nid::Nid;
use openssl::pkey::{PKeyRef, Private};
use openssl::x509::{X509, X509Ref, X509VerifyResult};

/// Certificates in the order in which they are sent.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) leaf: X509,
    /// Each one has issued the one before it (RFC 8446 section 4.4.2), or stands where the file has it.
    pub(super) issuers: Vec<X509>,
    pub(super) repair: Option<Repair>,
}

/// What was done to a chain that was out of order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Whether certificates stand in another order than in the file.
    pub is_reordered: bool,
    /// The positions in the file, from 1, of certificates that belong to no link and are not sent.
    pub left_out: Vec<usize>,
}

impl Chain {
    /// Puts certificates in order: first the one of the key, then each one's issuer, by name and key identifier. A file
    /// that is in order is left as it is. None where no certificate belongs to the key.
    pub(super) fn build(certificates: Vec<X509>, key: &PKeyRef<Private>) -> Option<Self> {
        let is_leaf = |certificate: &X509| certificate.public_key().is_ok_and(|public| public.public_eq(key));
        let first = certificates.iter().position(is_leaf)?;
        let mut order = vec![first];
        let mut last = first;
        while let Some(next) = issuer_of(&certificates, last, &order) {
            order.push(next);
            last = next;
        }
        let left_out: Vec<_> = (0..certificates.len()).filter(|position| !order.contains(position)).collect();
        let is_reordered = !order.is_sorted();
        let repair = (is_reordered || !left_out.is_empty())
            .then(|| Repair { is_reordered, left_out: left_out.iter().map(|position| position + 1).collect() });
        let mut slots: Vec<_> = certificates.into_iter().map(Some).collect();
        let mut ordered = order.into_iter().filter_map(|position| slots.get_mut(position)?.take());
        Some(Self { leaf: ordered.next()?, issuers: ordered.collect(), repair })
    }

    /// The first certificate behind the leaf, counted from 1 with the leaf, whose key OpenSSL refuses at security level
    /// 2: it would fail every handshake. The leaf's key was looked at by its kind.
    pub(super) fn weak_issuer(&self) -> Option<usize> {
        let is_weak =
            |certificate: &X509| certificate.public_key().is_ok_and(|key| key.security_bits() < SECURITY_BITS_MIN);
        self.issuers.iter().position(is_weak).map(|position| position + 2)
    }

    /// The first certificate, counted from 1 with the leaf, that is signed with SHA-1 or MD5, and which of the two. What
    /// self-signed certificates say of themselves proves nothing and is not looked at.
    pub(super) fn weak_signature(&self) -> Option<(usize, &'static str)> {
        let certificates = std::iter::once(&self.leaf).chain(&self.issuers);
        certificates.zip(1..).find_map(|(certificate, position)| Some((position, weak_digest(certificate)?)))
    }
}

/// The position of the certificate that issued the one at `position`, of those that are not in the chain yet.
fn issuer_of(certificates: &[X509], position: usize, chain: &[usize]) -> Option<usize> {
    let subject = certificates.get(position)?;
    let is_issuer = |(candidate, certificate): (usize, &X509)| {
        (!chain.contains(&candidate) && certificate.issued(subject) == X509VerifyResult::OK).then_some(candidate)
    };
    // A self-signed certificate is the end, also where a copy of it follows.
    let is_self_signed = subject.issued(subject) == X509VerifyResult::OK;
    if is_self_signed { None } else { certificates.iter().enumerate().find_map(is_issuer) }
}

fn weak_digest(certificate: &X509Ref) -> Option<&'static str> {
    let algorithms = certificate.signature_algorithm().object().nid().signature_algorithms()?;
    let digest = match algorithms.digest {
        Nid::MD5 => "MD5",
        Nid::SHA1 => "SHA-1",
        _ => return None,
    };
    (certificate.issued(certificate) != X509VerifyResult::OK).then_some(digest)
}

/// OpenSSL's security level 2.
pub(super) const SECURITY_BITS_MIN: u32 = 112;
