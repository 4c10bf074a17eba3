//! The PRF of TLS 1.2 against OpenSSL's.

use super::kdf::{derive, refuses_wrong_types};
use super::*;

/// What a derivation is asked for.
#[derive(Clone, Debug)]
struct Request {
    digest: &'static CStr,
    secret: Option<Vec<u8>>,
    seeds: Vec<Vec<u8>>,
    length: usize,
}

impl Request {
    /// Derives in one go, or with everything told beforehand and copied; none where OpenSSL refuses.
    fn derive(&self, provider: &CStr, beforehand: bool) -> Option<Vec<u8>> {
        install().unwrap();
        let mut params = vec![param::text(c"digest", self.digest)];
        params.extend(self.secret.as_ref().map(|secret| param::octets(c"secret", secret)));
        params.extend(self.seeds.iter().map(|seed| param::octets(c"seed", seed)));
        params.push(param::END);
        derive(c"TLS1-PRF", provider, &params, beforehand, self.length)
    }
}

fn requests() -> impl Strategy<Value = Request> {
    let bytes = |range| proptest::collection::vec(any::<u8>(), range);
    let digest = prop_oneof![Just(c"SHA2-256"), Just(c"SHA384")];
    (digest, bytes(1..100), bytes(1..30), proptest::collection::vec(bytes(0..70), 0..4), 1_usize..300).prop_map(
        |(digest, secret, label, mut seeds, length)| {
            seeds.insert(0, label);
            Request { digest, secret: Some(secret), seeds, length }
        },
    )
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
    let good = Request { digest: c"SHA2-256", secret: Some(vec![1; 48]), seeds: vec![b"label".to_vec()], length: 48 };
    assert!(good.derive(OURS, false).is_some());
    let bad = [
        Request { digest: c"MD5-SHA1", ..good.clone() },
        Request { secret: None, ..good.clone() },
        Request { secret: Some(Vec::new()), ..good.clone() },
        Request { seeds: Vec::new(), ..good.clone() },
        Request { length: 0, ..good },
    ];
    for request in bad {
        assert_eq!(request.derive(OURS, false), None, "{request:?}");
        assert_eq!(request.derive(OURS, true), None, "{request:?}");
    }
}

#[test]
fn parameters_of_a_wrong_type_are_refused() {
    refuses_wrong_types(c"TLS1-PRF", &[c"digest", c"secret", c"seed"]);
}
