//! Our PROXY protocol headers and those of the crate `ppp` mean the same, whoever writes and whoever reads them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

use std::net::SocketAddr;

use ppp::v2::{Addresses, Builder, Command, IPv4, IPv6, Protocol, Type, Version};
use proptest::prelude::*;
use sluice::proxy_protocol::{
    ClientCertificate, Endpoints, HEADER_BYTES_MAX, Header, ParseError, Parsed, Received, Tls, Tlv, Tlvs, encode_v1,
    encode_v2, parse,
};

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let v4 = (any::<([u8; 4], u16)>(), any::<([u8; 4], u16)>())
        .prop_map(|(source, destination)| Endpoints { source: source.into(), destination: destination.into() });
    let v6 = (any::<([u16; 8], u16)>(), any::<([u16; 8], u16)>())
        .prop_map(|(source, destination)| Endpoints { source: source.into(), destination: destination.into() })
        .prop_filter("a mapped address is read as the IPv4 address that it is", |endpoints| {
            [endpoints.source, endpoints.destination].iter().all(|address| address.ip().to_canonical().is_ipv6())
        });
    prop_oneof![v4, v6]
}

fn tlvs() -> impl Strategy<Value = Tlvs> {
    proptest::sample::subsequence(Tlv::ALL.to_vec(), 0..=Tlv::ALL.len()).prop_map(|tlvs| tlvs.into_iter().collect())
}

fn complete(bytes: &[u8]) -> (usize, Received) {
    match parse(bytes) {
        Ok(Parsed::Complete { len, header }) => (len, header),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn version_1_header_is_read_by_the_other_and_by_us(endpoints in endpoints(), rest in any::<Vec<u8>>()) {
        let header = encode_v1(&endpoints);
        let theirs = ppp::v1::Header::try_from(&header[..]).unwrap();
        let read: (SocketAddr, SocketAddr) = match theirs.addresses {
            ppp::v1::Addresses::Tcp4(a) =>
                ((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into()),
            ppp::v1::Addresses::Tcp6(a) =>
                ((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into()),
            ppp::v1::Addresses::Unknown => panic!("unknown"),
        };
        prop_assert_eq!(read, (endpoints.source, endpoints.destination));
        let (len, ours) = complete(&[&header[..], &rest].concat());
        prop_assert_eq!((len, ours.endpoints), (header.len(), Some(endpoints)));
    }

    #[test]
    fn version_2_header_is_read_by_the_other_and_by_us(
        endpoints in endpoints(),
        tlvs in tlvs(),
        alpn in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=255)),
        authority in proptest::option::of("[a-z0-9.-]{1,255}"),
        unique_id in proptest::collection::vec(any::<u8>(), 0..=128),
        client in proptest::option::of((proptest::option::of("\\PC{0,64}"), proptest::collection::vec(any::<u8>(), 0..2048), any::<bool>())),
        rest in any::<Vec<u8>>(),
    ) {
        let client = client.as_ref().map(|(common_name, der, is_fresh)| ClientCertificate {
            common_name: common_name.as_deref(),
            der,
            is_fresh: *is_fresh,
        });
        let tls = Tls {
            version: "TLSv1.2",
            cipher: "ECDHE-RSA-AES128-GCM-SHA256",
            sig_alg: Some("RSA-SHA256"),
            key_alg: Some("RSA2048"),
            group: Some("X25519MLKEM768"),
            sig_scheme: Some("rsa_pss_rsae_sha256"),
            client,
        };
        let header = Header { endpoints, alpn: alpn.as_deref(), authority: authority.as_deref(), unique_id: &unique_id, tls };
        let bytes = encode_v2(&header, tlvs);

        let theirs = ppp::v2::Header::try_from(&bytes[..]).unwrap();
        prop_assert_eq!((theirs.command, theirs.protocol), (Command::Proxy, Protocol::Stream));
        let expected = match (endpoints.source, endpoints.destination) {
            (SocketAddr::V4(a), SocketAddr::V4(b)) => Addresses::IPv4(IPv4::new(*a.ip(), *b.ip(), a.port(), b.port())),
            (SocketAddr::V6(a), SocketAddr::V6(b)) => Addresses::IPv6(IPv6::new(*a.ip(), *b.ip(), a.port(), b.port())),
            _ => unreachable!("one family"),
        };
        prop_assert_eq!(&theirs.addresses, &expected);
        let read: Vec<_> = theirs.tlvs().map(|tlv| tlv.unwrap()).map(|tlv| (tlv.kind, tlv.value.into_owned())).collect();
        let value = |kind: Type| read.iter().find(|(other, _)| *other == u8::from(kind)).map(|(_, value)| &value[..]);
        prop_assert_eq!(value(Type::ALPN), alpn.as_deref().filter(|_| tlvs.contains(Tlv::Alpn)));
        prop_assert_eq!(value(Type::Authority), authority.as_deref().map(str::as_bytes).filter(|_| tlvs.contains(Tlv::Authority)));
        prop_assert_eq!(value(Type::UniqueId), Some(&unique_id[..]).filter(|_| tlvs.contains(Tlv::UniqueId)));
        prop_assert_eq!(value(Type::SSL).is_some(), tlvs.contains(Tlv::Ssl));
        prop_assert_eq!(value(Type::CRC32C).is_some(), tlvs.contains(Tlv::Crc32c));

        let (len, ours) = match parse(&[&bytes[..], &rest].concat()) {
            Ok(Parsed::Complete { len, header }) => (len, header),
            // What we send may be longer than what we take: a certificate is.
            Err(ParseError::TooLong(len)) => {
                prop_assert!(len == bytes.len() && len > HEADER_BYTES_MAX);
                return Ok(());
            }
            other => panic!("{other:?}"),
        };
        prop_assert_eq!((len, ours.endpoints), (bytes.len(), Some(endpoints)));
        prop_assert_eq!(ours.unique_id.as_deref(), Some(&unique_id[..]).filter(|_| tlvs.contains(Tlv::UniqueId)));
    }

    #[test]
    fn header_of_the_other_is_read_by_us(
        endpoints in endpoints(),
        is_local in any::<bool>(),
        tlvs in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..100)), 0..8),
        rest in any::<Vec<u8>>(),
    ) {
        let command = if is_local { Command::Local } else { Command::Proxy };
        let mut builder = Builder::with_addresses(Version::Two | command, Protocol::Stream, (endpoints.source, endpoints.destination));
        // Not a checksum: it would be wrong.
        for (kind, value) in tlvs.iter().filter(|(kind, _)| *kind != u8::from(Type::CRC32C)) {
            builder = builder.write_tlv(*kind, value).unwrap();
        }
        let bytes = builder.build().unwrap();
        let (len, ours) = complete(&[&bytes[..], &rest].concat());
        prop_assert_eq!((len, ours.endpoints), (bytes.len(), Some(endpoints).filter(|_| !is_local)));
        let id = tlvs.iter().rfind(|(kind, _)| *kind == u8::from(Type::UniqueId)).map(|(_, value)| &value[..]);
        prop_assert_eq!(ours.unique_id.as_deref(), id);
    }

    /// Any bytes give an answer, and an answer never changes when more bytes come.
    #[test]
    fn bytes_of_a_peer_never_panic_and_a_verdict_stands(mut bytes in any::<Vec<u8>>(), start in 0..3_usize, cut in any::<prop::sample::Index>()) {
        let begin: &[u8] = [&b""[..], b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11"][start];
        bytes.splice(0..0, begin.iter().copied());
        let early = parse(&bytes[..cut.index(bytes.len() + 1)]);
        if early != Ok(Parsed::Incomplete) {
            prop_assert_eq!(early, parse(&bytes));
        }
    }
}
