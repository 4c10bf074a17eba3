//! What only OpenSSL's object knows about an established connection.

use openssl::nid::Nid;
use openssl::pkey::{Id, PKeyRef, Public};
use openssl::ssl::{SslRef, SslStream};
use openssl::x509::X509;

use super::handshake::Wire;
use crate::sys;

/// Facts about a connection, for those who want to know: a header for the backend, a log. It holds OpenSSL's object, and
/// with it more memory than an idle connection may cost: drop it before data is relayed.
pub struct Facts {
    stream: SslStream<Wire>,
}

impl Facts {
    pub(super) fn of(stream: SslStream<Wire>) -> Self {
        Self { stream }
    }

    /// The protocol version as OpenSSL writes it, such as `TLSv1.3`.
    pub fn version(&self) -> &'static str {
        self.ssl().version_str()
    }

    /// The cipher suite as OpenSSL writes it, such as `ECDHE-RSA-AES128-GCM-SHA256`.
    pub fn cipher(&self) -> &'static str {
        self.ssl().current_cipher().map_or("", |cipher| cipher.name())
    }

    /// The algorithm with which our certificate is signed as OpenSSL writes it, such as `RSA-SHA256`.
    pub fn certificate_signature(&self) -> Option<&'static str> {
        self.ssl().certificate()?.signature_algorithm().object().nid().short_name().ok()
    }

    /// Kind and size of the key of our certificate, such as `RSA2048` or `EC256`.
    pub fn certificate_key(&self) -> Option<String> {
        key_name(&*self.ssl().certificate()?.public_key().ok()?)
    }

    /// The algorithm with which we signed the handshake under its name in RFC 8446 section 4.2.3; none in a resumption,
    /// where nothing is signed.
    pub fn signature_scheme(&self) -> Option<&'static str> {
        let (kind, digest) = sys::ssl::signature(self.ssl())?;
        let key = self.ssl().certificate()?.public_key().ok()?.id();
        scheme_name(kind, digest, key)
    }

    /// The certificate that the client proved to own, in this connection or in the one that the session stems from; none
    /// where it showed none.
    pub fn client_certificate(&self) -> Option<X509> {
        self.ssl().peer_certificate()
    }

    fn ssl(&self) -> &SslRef {
        self.stream.ssl()
    }
}

fn key_name(key: &PKeyRef<Public>) -> Option<String> {
    let kind = match key.id() {
        Id::RSA | Id::RSA_PSS => "RSA",
        Id::EC => "EC",
        Id::ED25519 => return Some("ED25519".to_owned()),
        Id::ED448 => return Some("ED448".to_owned()),
        _ => return None,
    };
    Some(format!("{kind}{}", key.bits()))
}

/// RFC 8446 section 4.2.3. RSASSA-PSS has a name of its own for keys that are for PSS only.
fn scheme_name(kind: Nid, digest: Nid, key: Id) -> Option<&'static str> {
    Some(match (kind, digest) {
        (Nid::X9_62_ID_ECPUBLICKEY, Nid::SHA256) => "ecdsa_secp256r1_sha256",
        (Nid::X9_62_ID_ECPUBLICKEY, Nid::SHA384) => "ecdsa_secp384r1_sha384",
        (Nid::X9_62_ID_ECPUBLICKEY, Nid::SHA512) => "ecdsa_secp521r1_sha512",
        (Nid::RSASSAPSS, Nid::SHA256) if key == Id::RSA => "rsa_pss_rsae_sha256",
        (Nid::RSASSAPSS, Nid::SHA384) if key == Id::RSA => "rsa_pss_rsae_sha384",
        (Nid::RSASSAPSS, Nid::SHA512) if key == Id::RSA => "rsa_pss_rsae_sha512",
        (Nid::RSASSAPSS, Nid::SHA256) => "rsa_pss_pss_sha256",
        (Nid::RSASSAPSS, Nid::SHA384) => "rsa_pss_pss_sha384",
        (Nid::RSASSAPSS, Nid::SHA512) => "rsa_pss_pss_sha512",
        (Nid::RSAENCRYPTION, Nid::SHA256) => "rsa_pkcs1_sha256",
        (Nid::RSAENCRYPTION, Nid::SHA384) => "rsa_pkcs1_sha384",
        (Nid::RSAENCRYPTION, Nid::SHA512) => "rsa_pkcs1_sha512",
        (kind, _) if kind.as_raw() == Id::ED25519.as_raw() => "ed25519",
        (kind, _) if kind.as_raw() == Id::ED448.as_raw() => "ed448",
        _ => return None,
    })
}
