//! The key schedule of TLS 1.3 against OpenSSL's.

use super::kdf::{derive, refuses_wrong_types};
use super::*;

/// What a derivation is asked for.
#[derive(Clone, Debug)]
struct Request {
    mode: c_int,
    digest: &'static CStr,
    key: Option<Vec<u8>>,
    salt: Option<Vec<u8>>,
    label: Vec<u8>,
    data: Option<Vec<u8>>,
    length: usize,
}

impl Request {
    /// Derives in one go, or with everything told beforehand; none where OpenSSL refuses.
    fn derive(&self, provider: &CStr, beforehand: bool) -> Option<Vec<u8>> {
        install().unwrap();
        let mut params = vec![
            param::int(c"mode", &self.mode),
            param::text(c"digest", self.digest),
            param::octets(c"prefix", b"tls13 "),
            param::octets(c"label", &self.label),
        ];
        params.extend(self.key.as_ref().map(|key| param::octets(c"key", key)));
        params.extend(self.salt.as_ref().map(|salt| param::octets(c"salt", salt)));
        params.extend(self.data.as_ref().map(|data| param::octets(c"data", data)));
        params.push(param::END);
        derive(c"TLS13-KDF", provider, &params, beforehand, self.length)
    }
}

fn bytes(length: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), length)
}

fn requests() -> impl Strategy<Value = Request> {
    let digest = prop_oneof![Just((c"SHA2-256", 32)), Just((c"SHA384", 48)), Just((c"sha-256", 32))];
    digest.prop_flat_map(|(digest, length)| {
        let input = proptest::option::of(prop_oneof![bytes(length), bytes(66)]);
        let extract = (input, proptest::option::of(bytes(length))).prop_map(move |(key, salt)| Request {
            mode: ffi::EVP_KDF_HKDF_MODE_EXTRACT_ONLY,
            digest,
            key,
            salt,
            label: b"derived".to_vec(),
            data: None,
            length,
        });
        let data = proptest::option::of(bytes(length));
        let label = proptest::collection::vec(any::<u8>(), 0..30);
        let expand = (bytes(length), label, data, 1_usize..200).prop_map(move |(key, label, data, length)| Request {
            mode: ffi::EVP_KDF_HKDF_MODE_EXPAND_ONLY,
            digest,
            key: Some(key),
            salt: None,
            label,
            data,
            length,
        });
        prop_oneof![extract, expand]
    })
}

proptest! {
    #[test]
    fn both_libraries_derive_the_same(request in requests()) {
        let theirs = request.derive(THEIRS, false);
        prop_assert!(theirs.is_some());
        prop_assert_eq!(&request.derive(OURS, false), &theirs);
        prop_assert_eq!(&request.derive(OURS, true), &theirs);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let good = Request {
        mode: ffi::EVP_KDF_HKDF_MODE_EXPAND_ONLY,
        digest: c"SHA2-256",
        key: Some(vec![1; 32]),
        salt: None,
        label: b"key".to_vec(),
        data: None,
        length: 16,
    };
    assert!(good.derive(OURS, false).is_some());
    let bad = [
        Request { mode: ffi::EVP_KDF_HKDF_MODE_EXTRACT_AND_EXPAND, ..good.clone() },
        Request { mode: 77, ..good.clone() },
        Request { digest: c"MD5", ..good.clone() },
        Request { key: None, ..good.clone() },
        Request { key: Some(vec![1; 31]), ..good.clone() },
        Request { label: vec![b'a'; 250], ..good.clone() },
        Request { data: Some(vec![0; 256]), ..good.clone() },
        Request { length: 0, ..good.clone() },
        Request { length: 255 * 32 + 1, ..good.clone() },
        Request { mode: ffi::EVP_KDF_HKDF_MODE_EXTRACT_ONLY, length: 31, ..good },
    ];
    for request in bad {
        assert_eq!(request.derive(OURS, false), None, "{request:?}");
        assert_eq!(request.derive(OURS, true), None, "{request:?}");
    }
}

#[test]
fn parameters_of_a_wrong_type_are_refused() {
    let names = [c"mode", c"digest", c"key", c"salt", c"prefix", c"label", c"data"];
    refuses_wrong_types(c"TLS13-KDF", &names);
}
