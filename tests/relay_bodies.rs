//! Bodies of every size through nginx, in both directions, byte for byte.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod support;

use support::body;
use support::certificate::KeyKind;
use support::client::Client;
use support::http::{get, get_kept_alive, put, whole};
use support::nginx::Nginx;
use support::proxy::{Options, Proxy};
use support::suite::{Suite, Version};

/// Around the record's limit of 2^14, and around what one turn of the relay moves.
const SIZES: [usize; 9] = [0, 1, 16_383, 16_384, 16_385, 267_263, 267_264, 267_265, 1 << 20];
const LARGE: usize = 256 << 20;

#[test]
fn download_of_any_size_arrives_whole() {
    let nginx = Nginx::start();
    let proxy = Proxy::start(&Options::to([nginx.address()]));
    for size in SIZES {
        let (name, content) = (format!("{size}"), body::bytes(size, size as u64));
        nginx.publish(&name, &content);
        for suite in Suite::with_key(KeyKind::EcdsaP256) {
            assert_eq!(get(&Client::of(&proxy).suite(suite), &name), whole(&content), "{} {size}", suite.iana);
        }
    }
}

#[test]
fn upload_of_any_size_arrives_whole() {
    let nginx = Nginx::start();
    let proxy = Proxy::start(&Options::to([nginx.address()]));
    for size in SIZES {
        for suite in Suite::with_key(KeyKind::EcdsaP256) {
            let (name, content) = (format!("{size}-{}", suite.iana), body::bytes(size, size as u64));
            put(&Client::of(&proxy).suite(suite), &name, &content);
            assert!(nginx.uploaded(&name) == content, "{name}");
        }
    }
}

#[test]
fn many_requests_over_one_connection_are_answered_in_order() {
    let nginx = Nginx::start();
    let proxy = Proxy::start(&Options::to([nginx.address()]));
    for version in Version::ALL {
        let mut tls = Client::of(&proxy).version(version).connect();
        for round in 0..100 {
            let content = body::bytes(round * 331 % 20_000, round as u64);
            nginx.publish("changing", &content);
            assert!(get_kept_alive(&mut tls, "changing", content.len()) == content, "{version:?} {round}");
        }
    }
}

#[test]
fn download_of_256_mib_arrives_whole() {
    let nginx = Nginx::start();
    let proxy = Proxy::start(&Options::to([nginx.address()]));
    let content = body::bytes(LARGE, 12);
    let expected = whole(&content);
    nginx.publish("large", &content);
    drop(content);
    for version in Version::ALL {
        assert_eq!(get(&Client::of(&proxy).version(version), "large"), expected, "{version:?}");
    }
}

#[test]
fn upload_of_256_mib_arrives_whole() {
    let nginx = Nginx::start();
    let proxy = Proxy::start(&Options::to([nginx.address()]));
    let content = body::bytes(LARGE, 13);
    for version in Version::ALL {
        let name = version.number();
        put(&Client::of(&proxy).version(version), name, &content);
        assert!(nginx.uploaded(name) == content, "{version:?}");
    }
}
