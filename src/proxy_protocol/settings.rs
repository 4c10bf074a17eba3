//! What a backend is told about each client.

/// The header that a backend gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    /// In which form.
    pub version: Version,
    /// What version 2 says beside the addresses.
    pub tlvs: Tlvs,
}

/// The form of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text with the addresses.
    V1,
    /// Binary, with room for more.
    V2,
}

/// A piece of information that a version 2 header can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tlv {
    /// The ALPN protocol that was chosen.
    Alpn,
    /// The server_name that the client asked for.
    Authority,
    /// A checksum of the header.
    Crc32c,
    /// The identifier of the connection: the one that came from the load balancer in front, otherwise our own.
    UniqueId,
    /// The protocol version, and whether the client has proved its certificate.
    Ssl,
    /// The common name of the client's certificate.
    Cn,
    /// The cipher suite, as OpenSSL names it.
    Cipher,
    /// The algorithm with which our certificate is signed.
    SigAlg,
    /// Kind and size of our key.
    KeyAlg,
    /// The key-exchange group.
    Group,
    /// The algorithm with which we signed the handshake.
    SigScheme,
    /// The client's certificate as a whole, DER.
    ClientCert,
}

impl Tlv {
    /// Every TLV.
    pub const ALL: [Self; 12] = [
        Self::Alpn,
        Self::Authority,
        Self::Crc32c,
        Self::UniqueId,
        Self::Ssl,
        Self::Cn,
        Self::Cipher,
        Self::SigAlg,
        Self::KeyAlg,
        Self::Group,
        Self::SigScheme,
        Self::ClientCert,
    ];

    /// Whether it is a part of [`Tlv::Ssl`].
    fn is_within_ssl(self) -> bool {
        !matches!(self, Self::Alpn | Self::Authority | Self::Crc32c | Self::UniqueId)
    }
}

/// A set of TLVs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tlvs(u16);

impl Tlvs {
    /// Whether it is in the set. [`Tlv::Ssl`] is where anything that is carried inside it is.
    pub fn contains(self, tlv: Tlv) -> bool {
        self.0 & (1 << tlv as u16) != 0
    }

    /// Everything but what costs more than it tells: the checksum, which TCP has already, and the whole certificate.
    pub fn usual() -> Self {
        Tlv::ALL.into_iter().filter(|tlv| !matches!(tlv, Tlv::Crc32c | Tlv::ClientCert)).collect()
    }
}

impl FromIterator<Tlv> for Tlvs {
    fn from_iter<T: IntoIterator<Item = Tlv>>(tlvs: T) -> Self {
        Self(tlvs.into_iter().fold(0, |set, tlv| {
            let around = if tlv.is_within_ssl() { 1 << Tlv::Ssl as u16 } else { 0 };
            set | around | 1 << tlv as u16
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_ssl_tlv_bring_it_along() {
        let set: Tlvs = [Tlv::Cn].into_iter().collect();
        assert!(set.contains(Tlv::Ssl) && set.contains(Tlv::Cn));
        assert!(!set.contains(Tlv::Cipher) && !set.contains(Tlv::Alpn));
        assert!(![Tlv::Alpn].into_iter().collect::<Tlvs>().contains(Tlv::Ssl));
    }
}
