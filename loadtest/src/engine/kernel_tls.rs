//! Record protection by the client's own kernel: the keys of a finished handshake go to the socket, and OpenSSL is done.
//!
//! Nothing may have been read beyond the handshake (`engine::socket` sees to that): both directions begin where it ended.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{TcpTlsRx, TcpTlsTx, TcpUlp, TlsCryptoInfo};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, TlsGetRecordType, recvmsg, setsockopt};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::md::Md;
use openssl::pkey::{Id, PKey};
use openssl::pkey_ctx::{HkdfMode, PkeyCtx};
use openssl::sign::Signer;
use openssl::ssl::SslRef;

use crate::result::Negotiated;
use crate::run::RunError;
use crate::sys;

/// The application traffic secrets of a connection as OpenSSL logs them; TLS 1.3 only.
#[derive(Debug, Default)]
pub struct Secrets {
    client: Vec<u8>,
    server: Vec<u8>,
}

/// Where OpenSSL's key log puts them.
pub type SecretSlot = Arc<Mutex<Secrets>>;

/// Takes a line of the key log (RFC 9850): label, client random, secret.
pub fn note(slot: &SecretSlot, line: &str) {
    let mut words = line.split(' ');
    let (label, secret) = (words.next(), words.nth(1).and_then(unhex));
    if let (Ok(mut secrets), Some(secret)) = (slot.lock(), secret) {
        match label {
            Some("CLIENT_TRAFFIC_SECRET_0") => secrets.client = secret,
            Some("SERVER_TRAFFIC_SECRET_0") => secrets.server = secret,
            _ => {}
        }
    }
}

/// Refuses before a run what this kernel cannot do.
pub fn check(negotiated: Option<&Negotiated>) -> Result<(), RunError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(local)?;
    let stream = TcpStream::connect(listener.local_addr().map_err(local)?).map_err(local)?;
    setsockopt(&stream, TcpUlp::default(), b"tls").map_err(|errno| {
        let remedy = "run `modprobe tls` as root, or leave --kernel-tls out";
        let text = match errno {
            Errno::ENOENT | Errno::ENOPROTOOPT => format!("this kernel offers no TLS; {remedy}"),
            errno => format!("this kernel refuses it ({errno}); {remedy}"),
        };
        local(io::Error::other(text))
    })?;
    match negotiated {
        Some(negotiated) if Aead::of(&negotiated.suite).is_none() => {
            Err(RunError::Plan(format!("--kernel-tls: the kernel has no {}; choose with --suite", negotiated.suite)))
        }
        _ => Ok(()),
    }
}

/// Hands both directions of a connection over. On failure the connection is lost.
pub fn promote(ssl: &SslRef, slot: &SecretSlot, socket: BorrowedFd<'_>) -> Result<(), PromoteError> {
    let suite = super::client_tls::suite(ssl);
    let aead = Aead::of(suite).ok_or(PromoteError::Suite)?;
    let hash = if suite.ends_with("SHA384") { Hash::Sha384 } else { Hash::Sha256 };
    let (send, receive) = if ssl.version_str() == "TLSv1.3" {
        let secrets = slot.lock().map_err(|_| PromoteError::Secrets)?;
        (aead.tls13_keys(&secrets.client, hash)?, aead.tls13_keys(&secrets.server, hash)?)
    } else {
        aead.tls12_keys(ssl, hash)?
    };
    setsockopt(&socket, TcpUlp::default(), b"tls")?;
    setsockopt(&socket, TcpTlsTx, &send)?;
    setsockopt(&socket, TcpTlsRx, &receive)?;
    Ok(())
}

/// Why a connection could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// The kernel does not have the suite.
    #[error("the kernel does not have the suite")]
    Suite,
    /// The key log brought no secrets.
    #[error("the key log brought no secrets")]
    Secrets,
    /// OpenSSL could not derive the keys.
    #[error("OpenSSL: {0}")]
    Library(#[from] ErrorStack),
    /// The kernel refused.
    #[error("setsockopt: {0}")]
    Kernel(#[from] Errno),
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes of payload.
    Data(usize),
    /// A ticket, which nobody here can use.
    Ticket,
    /// close_notify.
    CloseNotify,
    /// The end of TCP without one.
    EndOfStream,
    /// Another alert.
    Alert,
    /// A KeyUpdate, or what TLS does not know: the client goes no further.
    Unexpected,
}

/// Room for the content type that the kernel tells with each read.
pub fn control_room() -> Vec<u8> {
    cmsg_space!(u8)
}

/// Reads payload or one other record. 16 KiB of room take any record whole.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8], control: &mut [u8]) -> io::Result<Received> {
    let mut first = [0; 2];
    let (len, content_type) = {
        let mut parts = [IoSliceMut::new(into)];
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(control), MsgFlags::MSG_DONTWAIT)?;
        let content_type = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::TlsGetRecordType(content_type) => Some(content_type),
            _ => None,
        });
        (message.bytes, content_type)
    };
    first[..len.min(2)].copy_from_slice(&into[..len.min(2)]);
    Ok(match (content_type, first) {
        (Some(TlsGetRecordType::ApplicationData), _) => Received::Data(len),
        (Some(TlsGetRecordType::Alert), [_, CLOSE_NOTIFY]) => Received::CloseNotify,
        (Some(TlsGetRecordType::Alert), _) => Received::Alert,
        (Some(TlsGetRecordType::Handshake), [NEW_SESSION_TICKET, _]) => Received::Ticket,
        (None, _) if len == 0 => Received::EndOfStream,
        _ => Received::Unexpected,
    })
}

/// Says close_notify, if there is room for it.
pub fn send_close_notify(socket: BorrowedFd<'_>) -> io::Result<()> {
    sys::send_record(socket, ALERT, &[WARNING, CLOSE_NOTIFY])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aead {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
}

impl Aead {
    fn of(suite: &str) -> Option<Self> {
        let known = [
            ("AES_128_GCM", Self::Aes128Gcm),
            ("AES_256_GCM", Self::Aes256Gcm),
            ("CHACHA20_POLY1305", Self::ChaCha20Poly1305),
        ];
        known.into_iter().find(|(name, _)| suite.contains(name)).map(|(_, aead)| aead)
    }

    const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// RFC 8446 section 7.3. No record has been protected yet.
    fn tls13_keys(self, secret: &[u8], hash: Hash) -> Result<TlsCryptoInfo, PromoteError> {
        if secret.is_empty() {
            return Err(PromoteError::Secrets);
        }
        let mut iv = [0; IV_LEN];
        let mut key = vec![0; self.key_len()];
        expand_label(secret, hash, b"key", &mut key)?;
        expand_label(secret, hash, b"iv", &mut iv)?;
        Ok(self.info(libc::TLS_1_3_VERSION, &key, iv, 0))
    }

    /// RFC 5246 section 6.3; the Finished was record 0.
    fn tls12_keys(self, ssl: &SslRef, hash: Hash) -> Result<(TlsCryptoInfo, TlsCryptoInfo), PromoteError> {
        let session = ssl.session().ok_or(PromoteError::Secrets)?;
        let mut master = vec![0; session.master_key_len()];
        session.master_key(&mut master);
        let (mut client_random, mut server_random) = ([0; 32], [0; 32]);
        ssl.client_random(&mut client_random);
        ssl.server_random(&mut server_random);
        let seed = [&b"key expansion"[..], &server_random, &client_random].concat();
        // AES-GCM has a salt of 4 bytes, and counts an explicit nonce behind it (RFC 5288 section 3).
        let iv_len = if self == Self::ChaCha20Poly1305 { IV_LEN } else { SALT_LEN };
        let key_len = self.key_len();
        let block = expand_tls12(&master, hash, &seed, 2 * (key_len + iv_len))?;
        let keys = |side: usize, nonce: &[u8]| {
            let mut iv = [0; IV_LEN];
            iv[..iv_len].copy_from_slice(&block[2 * key_len + side * iv_len..][..iv_len]);
            iv[iv_len..].copy_from_slice(&nonce[..IV_LEN - iv_len]);
            self.info(libc::TLS_1_2_VERSION, &block[side * key_len..][..key_len], iv, 1)
        };
        // A nonce must not come twice: OpenSSL began at a random one, and so does the kernel.
        let mut nonce = [0; IV_LEN - SALT_LEN];
        openssl::rand::rand_bytes(&mut nonce)?;
        Ok((keys(0, &nonce), keys(1, &nonce)))
    }

    fn info(self, version: u16, key: &[u8], iv: [u8; IV_LEN], sequence: u64) -> TlsCryptoInfo {
        let rec_seq = sequence.to_be_bytes();
        let info = |cipher_type| libc::tls_crypto_info { version, cipher_type };
        match self {
            Self::Aes128Gcm => TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
                info: info(libc::TLS_CIPHER_AES_GCM_128),
                iv: part(&iv[SALT_LEN..]),
                key: part(key),
                salt: part(&iv[..SALT_LEN]),
                rec_seq,
            }),
            Self::Aes256Gcm => TlsCryptoInfo::Aes256Gcm(libc::tls12_crypto_info_aes_gcm_256 {
                info: info(libc::TLS_CIPHER_AES_GCM_256),
                iv: part(&iv[SALT_LEN..]),
                key: part(key),
                salt: part(&iv[..SALT_LEN]),
                rec_seq,
            }),
            Self::ChaCha20Poly1305 => TlsCryptoInfo::Chacha20Poly1305(libc::tls12_crypto_info_chacha20_poly1305 {
                info: info(libc::TLS_CIPHER_CHACHA20_POLY1305),
                iv,
                key: part(key),
                salt: [],
                rec_seq,
            }),
        }
    }
}

impl Hash {
    fn digest(self) -> MessageDigest {
        match self {
            Self::Sha256 => MessageDigest::sha256(),
            Self::Sha384 => MessageDigest::sha384(),
        }
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
fn expand_label(secret: &[u8], hash: Hash, label: &[u8], out: &mut [u8]) -> Result<(), ErrorStack> {
    let (out_len, label_len) = (out.len() as u16, b"tls13 ".len() + label.len());
    let info = [&out_len.to_be_bytes()[..], &[label_len as u8], b"tls13 ", label, &[0]].concat();
    let mut context = PkeyCtx::new_id(Id::HKDF)?;
    context.derive_init()?;
    context.set_hkdf_mode(HkdfMode::EXPAND_ONLY)?;
    context.set_hkdf_md(if hash == Hash::Sha384 { Md::sha384() } else { Md::sha256() })?;
    context.set_hkdf_key(secret)?;
    context.add_hkdf_info(&info)?;
    context.derive(Some(out)).map(drop)
}

/// P_hash (RFC 5246 section 5).
fn expand_tls12(secret: &[u8], hash: Hash, seed: &[u8], len: usize) -> Result<Vec<u8>, ErrorStack> {
    let key = PKey::hmac(secret)?;
    let hmac = |data: &[u8]| Signer::new(hash.digest(), &key)?.sign_oneshot_to_vec(data);
    let (mut out, mut a) = (Vec::new(), hmac(seed)?);
    while out.len() < len {
        out.extend(hmac(&[&a[..], seed].concat())?);
        a = hmac(&a)?;
    }
    out.truncate(len);
    Ok(out)
}

/// The caller's lengths are those of the algorithm.
fn part<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(bytes);
    part
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn local(source: io::Error) -> RunError {
    RunError::Local { what: "--kernel-tls", source }
}

const IV_LEN: usize = 12;
const SALT_LEN: usize = 4;
const ALERT: u8 = 21;
const WARNING: u8 = 1;
const CLOSE_NOTIFY: u8 = 0;
const NEW_SESSION_TICKET: u8 = 4;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn key_log_lines_of_other_secrets_are_passed_over() {
        let slot = SecretSlot::default();
        note(&slot, "CLIENT_HANDSHAKE_TRAFFIC_SECRET 00 aa");
        note(&slot, "CLIENT_TRAFFIC_SECRET_0 00 0a0b");
        note(&slot, "SERVER_TRAFFIC_SECRET_0 00 0c");
        note(&slot, "nonsense");
        let secrets = slot.lock().unwrap();
        assert_eq!((&secrets.client[..], &secrets.server[..]), (&[10, 11][..], &[12][..]));
    }

    /// RFC 8448 section 3, the server's application traffic secret.
    #[test]
    fn keys_of_tls13_are_those_of_the_standards_example() {
        let secret = unhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643").unwrap();
        let Ok(TlsCryptoInfo::Aes128Gcm(info)) = Aead::Aes128Gcm.tls13_keys(&secret, Hash::Sha256) else {
            panic!("AES-128-GCM")
        };
        assert_eq!(info.key[..], unhex("9f02283b6c9c07efc26bb9f2ac92e356").unwrap());
        assert_eq!([&info.salt[..], &info.iv].concat(), unhex("cf782b88dd83549aadf1e984").unwrap());
    }

    #[test]
    fn suites_without_an_aead_of_the_kernels_are_told_apart() {
        assert_eq!(Aead::of("TLS_AES_128_GCM_SHA256"), Some(Aead::Aes128Gcm));
        assert_eq!(Aead::of("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"), Some(Aead::ChaCha20Poly1305));
        assert_eq!(Aead::of("TLS_ECDHE_ECDSA_WITH_AES_128_CCM"), None);
    }
}
