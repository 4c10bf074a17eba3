//! Values as they are written in the file: read without stopping at the first mistake, each with its place.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use toml::{Spanned, Value};

use crate::backend::ServerAddress;
use crate::proxy_protocol::Tlv;
use crate::record::ProtocolVersion;
use crate::telemetry::diagnostics::{self, Format};
use crate::telemetry::output::{Facility, JOURNAL_SOCKET, Target};
use crate::tls::client_auth::{AllowedIdentity, ExpiredCrl};
use crate::tls::compression::CompressionMode;
use crate::{admin, ktls, server, tls, worker};

use super::cpu;
use super::near::nearest;

/// One key of the file: absent, or a value with its place, or a mistake with its place.
pub(super) struct Field<T>(Option<Spanned<Parsed<T>>>);

/// An array of values.
pub(super) struct List<T>(Option<Spanned<Vec<Field<T>>>>);

/// A value that is written as one TOML string or number.
pub(super) trait Scalar: Sized {
    /// Reads it; bounds are checked later.
    fn parse(value: &Value) -> Result<Self, Mismatch>;

    /// The JSON schema of what [`Self::parse`] takes.
    fn schema() -> Schema;
}

/// A value of the wrong kind.
#[derive(Clone, Debug)]
pub(super) struct Mismatch {
    pub(super) found: String,
    pub(super) allowed: String,
    pub(super) help: Option<String>,
}

/// A value and its place in the file.
pub(super) type Written<T> = (T, Range<usize>);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ByteCount(pub(super) u64);

/// How many workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerCount {
    /// One per CPU.
    Auto,
    /// This many.
    Number(u64),
}

/// The CPUs of the workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CpuChoice {
    /// Every CPU that the process may run on.
    Auto,
    /// One of them for each core, however many threads it has.
    Cores,
    /// These, ascending, without repetition.
    List(Vec<usize>),
}

/// What is done with the PROXY protocol towards a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxyProtocol {
    /// No header is sent.
    Off,
    /// One line of text.
    V1,
    /// Binary, with TLVs.
    V2,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientAuthChoice {
    /// They need one.
    Required,
    /// They may have one.
    Optional,
    /// They are not asked.
    Off,
}

/// Whether a backend's servers may be reached both with the client certificates that a name needs and without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MixedClientAuth {
    /// They may not.
    Refuse,
    /// They tell the connections apart themselves.
    Accept,
}

impl<T> Field<T> {
    /// Whether the key is not in the file.
    pub(super) fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    /// The place and the value or the mistake; none where the key is absent.
    pub(super) fn written(&self) -> Option<(Range<usize>, Result<&T, &Mismatch>)> {
        self.0.as_ref().map(|spanned| (spanned.span(), spanned.get_ref().0.as_ref()))
    }
}

impl<T> List<T> {
    /// The place of the array and its entries; none where the key is absent.
    pub(super) fn written(&self) -> Option<(Range<usize>, &[Field<T>])> {
        self.0.as_ref().map(|spanned| (spanned.span(), spanned.get_ref().as_slice()))
    }
}

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Scalar> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(|value| Self(Some(value)))
    }
}

impl<'de, T: Scalar> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(|value| Self(Some(value)))
    }
}

impl<T: Scalar> JsonSchema for Field<T> {
    fn schema_name() -> Cow<'static, str> {
        "Field".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        T::schema()
    }
}

impl<T: Scalar> JsonSchema for List<T> {
    fn schema_name() -> Cow<'static, str> {
        "List".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": T::schema() })
    }
}

/// The outcome of reading one value. Deserializing it never fails, so that the rest of the file is read too.
struct Parsed<T>(Result<T, Mismatch>);

impl<'de, T: Scalar> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Value::deserialize(deserializer) {
            Ok(value) => T::parse(&value),
            // The one thing that is TOML and not a value: an integer beyond 64 bits.
            Err(_) => Err(Mismatch::new("a number beyond 64 bits", "a smaller number")),
        }))
    }
}

impl Mismatch {
    fn new(found: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { found: found.into(), allowed: allowed.into(), help: None }
    }

    /// The value is not of a kind that the key takes.
    fn kind(value: &Value, allowed: impl Into<String>) -> Self {
        Self::new(format!("found {}", describe(value)), allowed)
    }

    fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }
}

/// A value in a message: strings shortened and with control characters escaped.
fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Integer(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Boolean(value) => format!("{value}"),
        Value::Datetime(_) => "a date".into(),
        Value::Array(_) => "an array".into(),
        Value::Table(_) => "a table".into(),
    }
}

/// A string of the file in a message.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
    }
}

impl Scalar for String {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        match value {
            Value::String(text) => Ok(text.clone()),
            other => Err(Mismatch::kind(other, "a string in quotes")),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl Scalar for PathBuf {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        match value {
            Value::String(text) if !text.is_empty() && !text.contains('\0') => Ok(Self::from(text)),
            other => Err(Mismatch::kind(other, "a path in quotes")),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "x-unit": "path" })
    }
}

impl Scalar for u64 {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        let allowed = "a whole number, not negative";
        match value {
            Value::Integer(number) => Self::try_from(*number).map_err(|_| Mismatch::kind(value, allowed)),
            other => Err(Mismatch::kind(other, allowed)),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer" })
    }
}

impl Scalar for Duration {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        let allowed = "a duration in quotes, such as \"500ms\", \"10s\", \"5m\" or \"12h\"";
        match value {
            Value::String(text) => humantime::parse_duration(text).map_err(|_| Mismatch::kind(value, allowed)),
            Value::Integer(number) => {
                Err(Mismatch::kind(value, allowed).help(format!("add the unit: \"{number}s\" for seconds")))
            }
            other => Err(Mismatch::kind(other, allowed)),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "x-unit": "duration" })
    }
}

impl Scalar for ByteCount {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        let allowed = "a size in quotes, such as \"64KiB\", \"1MiB\" or \"2GiB\"";
        match value {
            Value::String(text) => {
                text.parse::<ByteSize>().map(|size| Self(size.as_u64())).map_err(|_| Mismatch::kind(value, allowed))
            }
            Value::Integer(number) => {
                Err(Mismatch::kind(value, allowed).help(format!("add the unit: \"{number}B\" for bytes")))
            }
            other => Err(Mismatch::kind(other, allowed)),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "x-unit": "size" })
    }
}

impl Scalar for WorkerCount {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        match value {
            Value::String(text) if text == "auto" => Ok(Self::Auto),
            Value::Integer(number) if *number >= 0 => Ok(Self::Number(number.unsigned_abs())),
            other => Err(Mismatch::kind(other, "\"auto\" (one per CPU) or a whole number")),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1 }], "default": "auto" })
    }
}

impl Scalar for CpuChoice {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        let allowed = "\"auto\" (every CPU that the process may use), \"cores\" (one CPU of each core) or a list such as \"0-3,8\"";
        match value {
            Value::String(text) if text == "auto" => Ok(Self::Auto),
            Value::String(text) if text == "cores" => Ok(Self::Cores),
            Value::String(text) => cpu::parse_list(text)
                .map(Self::List)
                .map_err(|error| Mismatch::new(format!("found {}: {error}", quote(text)), allowed)),
            Value::Integer(number) => Err(Mismatch::kind(value, allowed).help(format!("quote it: \"{number}\""))),
            other => Err(Mismatch::kind(other, allowed)),
        }
    }

    fn schema() -> Schema {
        json_schema!({
            "type": "string",
            "x-unit": "CPU list",
            "pattern": "^(auto|cores|[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)$",
            "default": "auto"
        })
    }
}

impl Scalar for SocketAddr {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        let Value::String(text) = value else {
            return Err(Mismatch::kind(value, ADDRESS_FORM).help("give the IP address and the port in quotes"));
        };
        text.parse().map_err(|_| {
            let mismatch = Mismatch::kind(value, ADDRESS_FORM);
            let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
            if port.parse::<u16>().is_err() || text.parse::<IpAddr>().is_ok() {
                let example = text.parse::<IpAddr>().map_or(ANY_ADDRESS, |ip| Self::new(ip, ANY_ADDRESS.port()));
                return mismatch.help(format!("add the port, as in \"{example}\""));
            }
            match host {
                "" | "*" => mismatch.help(format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\" for every address")),
                "localhost" => mismatch.help(format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\"")),
                _ => mismatch.help("names are not resolved: give an IP address"),
            }
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "x-unit": "address" })
    }
}

impl Scalar for IpNet {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        let Value::String(text) = value else { return Err(Mismatch::kind(value, NETWORK_FORM)) };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let network: Self = text.parse().map_err(|_| Mismatch::kind(value, NETWORK_FORM))?;
        if network == network.trunc() {
            return Ok(network);
        }
        // Either the address or the length is a slip, and only its writer knows which.
        Err(Mismatch::kind(value, NETWORK_FORM).help(format!(
            "the network is \"{}\", the one address \"{}\"",
            network.trunc(),
            network.addr()
        )))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "x-unit": "network" })
    }
}

/// An address, or the path of a unix socket.
fn parse_endpoint<T>(value: &Value, tcp: impl Fn(SocketAddr) -> T, unix: impl Fn(PathBuf) -> T) -> Result<T, Mismatch> {
    let allowed = format!("{ADDRESS_FORM}, or \"unix:/path/to/socket\"");
    match value {
        Value::String(text) => match text.strip_prefix("unix:") {
            Some("") => Err(Mismatch::kind(value, allowed)),
            Some(path) if path.contains('\0') => Err(Mismatch::kind(value, allowed)),
            Some(path) => Ok(unix(PathBuf::from(path))),
            None if text.starts_with('/') => {
                Err(Mismatch::kind(value, allowed).help(format!("write {}", quote(&format!("unix:{text}")))))
            }
            None => SocketAddr::parse(value).map(tcp).map_err(|mismatch| Mismatch { allowed, ..mismatch }),
        },
        other => Err(Mismatch::kind(other, allowed)),
    }
}

impl Scalar for ServerAddress {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        parse_endpoint(value, Self::Tcp, Self::Unix)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "x-unit": "server" })
    }
}

impl Scalar for admin::Address {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        parse_endpoint(value, Self::Tcp, Self::Unix)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "x-unit": "address or socket" })
    }
}

/// Values that are one of a few names; the first is the default.
macro_rules! choice {
    ($type:ty { $($name:literal => $value:expr),+ $(,)? }) => {
        impl Scalar for $type {
            fn parse(value: &Value) -> Result<Self, Mismatch> {
                choose(value, &[$(($name, $value)),+])
            }

            fn schema() -> Schema {
                let names = [$($name),+];
                json_schema!({ "enum": names, "default": names[0] })
            }
        }
    };
}

/// Where the records of a log go; nowhere when it is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogOutput(pub(super) Option<Target>);

impl Scalar for LogOutput {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        let allowed = "\"off\", \"stdout\", \"stderr\", \"journald\", \"file:/path\", \"syslog+unix:/path\", or \
                       \"syslog+udp:\", \"syslog+tcp:\" or \"syslog+tls:\" with an address such as 192.0.2.1:514";
        let Value::String(text) = value else { return Err(Mismatch::kind(value, allowed)) };
        let path = |path: &str| Some(PathBuf::from(path)).filter(|_| !path.is_empty() && !path.contains('\0'));
        let address = |address: &str| address.parse::<SocketAddr>().ok();
        let target = match text.split_once(':').unwrap_or((text, "")) {
            ("off", "") => return Ok(Self(None)),
            ("stdout", "") => Some(Target::Stdout),
            ("stderr", "") => Some(Target::Stderr),
            ("journald", "") => Some(Target::Journal(PathBuf::from(JOURNAL_SOCKET))),
            ("journald", rest) => path(rest).map(Target::Journal),
            ("file", rest) => path(rest).map(Target::File),
            ("syslog+unix", rest) => path(rest).map(Target::SyslogUnix),
            ("syslog+udp", rest) => address(rest).map(Target::SyslogUdp),
            ("syslog+tcp", rest) => address(rest).map(Target::SyslogTcp),
            ("syslog+tls", rest) => address(rest).map(Target::SyslogTls),
            _ => None,
        };
        let mismatch = || match text.strip_prefix('/') {
            Some(_) => Mismatch::kind(value, allowed).help(format!("write {}", quote(&format!("file:{text}")))),
            None => Mismatch::kind(value, allowed),
        };
        target.map(|target| Self(Some(target))).ok_or_else(mismatch)
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "x-unit": "output", "default": "off" })
    }
}

/// Where the log of the process goes; somewhere it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProcessLogOutput(pub(super) Target);

impl Scalar for ProcessLogOutput {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        let without_off = |mismatch: Mismatch| {
            let allowed = mismatch.allowed.trim_start_matches("\"off\", ").to_owned();
            Mismatch { allowed, ..mismatch }
        };
        match LogOutput::parse(value).map_err(without_off)? {
            LogOutput(Some(target)) => Ok(Self(target)),
            LogOutput(None) => Err(Mismatch::kind(value, "an output").help("to log nothing, write level = \"off\"")),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "x-unit": "output", "default": "stderr" })
    }
}

/// What the log of the process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogFilter(pub(super) String);

impl Scalar for LogFilter {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        let Value::String(text) = value else { return Err(Mismatch::kind(value, diagnostics::FILTER_FORM)) };
        match diagnostics::check_filter(text) {
            Ok(()) if !text.trim().is_empty() => Ok(Self(text.clone())),
            _ => Err(Mismatch::kind(value, diagnostics::FILTER_FORM)),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "x-unit": "log filter", "default": "info" })
    }
}

choice!(Format { "text" => Self::Text, "json" => Self::Json });
choice!(Facility {
    "daemon" => Self::Daemon, "local0" => Self::Local(0), "local1" => Self::Local(1), "local2" => Self::Local(2),
    "local3" => Self::Local(3), "local4" => Self::Local(4), "local5" => Self::Local(5), "local6" => Self::Local(6),
    "local7" => Self::Local(7),
});
choice!(admin::SocketMode { "0600" => Self::User, "0660" => Self::Group });
choice!(worker::Steering { "hash" => Self::Hash, "cpu" => Self::Cpu });
choice!(worker::IoDriver { "auto" => Self::Auto, "uring" => Self::Uring, "epoll" => Self::Epoll });
choice!(ktls::Mode { "auto" => Self::Auto, "off" => Self::Off, "always" => Self::Always, "required" => Self::Required });
choice!(ktls::Bulk { "auto" => Self::Auto, "splice" => Self::Splice, "copy" => Self::Copy });
choice!(ClientAuthChoice { "required" => Self::Required, "optional" => Self::Optional, "off" => Self::Off });
choice!(MixedClientAuth { "refuse" => Self::Refuse, "accept" => Self::Accept });
choice!(ExpiredCrl { "refuse" => Self::Refuse, "warn" => Self::Warn });
choice!(server::Sandbox { "auto" => Self::Auto, "off" => Self::Off, "required" => Self::Required });
choice!(server::CoreDumps { "refuse" => Self::Refuse, "allow" => Self::Allow });
choice!(ktls::KnownBugs { "refuse" => Self::Refuse, "accept" => Self::Accept });
choice!(tls::Policy { "intermediate" => Self::Intermediate, "modern" => Self::Modern });
choice!(CompressionMode { "auto" => Self::Auto, "off" => Self::Off, "required" => Self::Required });
choice!(tls::stapling::OcspMode { "off" => Self::Off, "file" => Self::File, "fetch" => Self::Fetch });
choice!(tls::UnknownServerName { "default" => Self::Default, "refuse" => Self::Refuse });

impl Scalar for ProtocolVersion {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        choose(value, &VERSIONS).map_err(|mismatch| match value {
            Value::Float(number) => mismatch.help(format!("quote it: \"{number}\"")),
            Value::String(text) if ["1.0", "1.1", "SSLv3", "3.0"].contains(&text.as_str()) => {
                mismatch.help("RFC 8996 forbids the versions before TLS 1.2, and none of their suites is an AEAD")
            }
            _ => mismatch,
        })
    }

    fn schema() -> Schema {
        json_schema!({ "enum": VERSIONS.map(|(name, _)| name) })
    }
}

const VERSIONS: [(&str, ProtocolVersion); 2] = [("1.2", ProtocolVersion::Tls12), ("1.3", ProtocolVersion::Tls13)];

impl Scalar for tls::Group {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        choose(value, &Self::ALL.map(|group| (group.name(), group)))
    }

    fn schema() -> Schema {
        json_schema!({ "enum": Self::ALL.map(Self::name) })
    }
}

impl Scalar for tls::SignatureAlgorithm {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        choose(value, &Self::ALL.map(|algorithm| (algorithm.name, algorithm))).map_err(|mismatch| {
            match value.as_str() {
                Some(text) if text.to_ascii_lowercase().contains("sha1") => {
                    mismatch.help("SHA-1 signatures can be forged (RFC 9155)")
                }
                _ => mismatch,
            }
        })
    }

    fn schema() -> Schema {
        json_schema!({ "enum": Self::ALL.map(|algorithm| algorithm.name) })
    }
}

choice!(ProxyProtocol { "off" => Self::Off, "v1" => Self::V1, "v2" => Self::V2 });

/// The names of the TLVs in the file.
const TLVS: [(&str, Tlv); Tlv::ALL.len()] = [
    ("alpn", Tlv::Alpn),
    ("authority", Tlv::Authority),
    ("crc32c", Tlv::Crc32c),
    ("unique_id", Tlv::UniqueId),
    ("ssl", Tlv::Ssl),
    ("cn", Tlv::Cn),
    ("cipher", Tlv::Cipher),
    ("sig_alg", Tlv::SigAlg),
    ("key_alg", Tlv::KeyAlg),
    ("group", Tlv::Group),
    ("sig_scheme", Tlv::SigScheme),
    ("client_cert", Tlv::ClientCert),
];

impl Scalar for AllowedIdentity {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        let allowed = "\"cn:NAME\", \"dns:NAME\", \"uri:URI\" or \"spki:sha256:\" and 64 hexadecimal digits";
        value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| Mismatch::kind(value, allowed))
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "x-unit": "identity" })
    }
}

impl Scalar for Tlv {
    fn parse(value: &Value) -> Result<Self, Mismatch> {
        choose(value, &TLVS)
    }

    fn schema() -> Schema {
        json_schema!({ "enum": TLVS.map(|(name, _)| name) })
    }
}

fn choose<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Result<T, Mismatch> {
    let text = value.as_str();
    if let Some((_, chosen)) = choices.iter().find(|(name, _)| text == Some(name)) {
        return Ok(*chosen);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let mismatch = Mismatch::kind(value, one_of(&names));
    Err(match text.and_then(|text| nearest(text, names)) {
        Some(name) => mismatch.help(format!("did you mean \"{name}\"?")),
        None => mismatch,
    })
}

fn one_of(names: &[&str]) -> String {
    match names {
        [only] => format!("{only:?} only"),
        [rest @ .., last] => {
            let rest: Vec<String> = rest.iter().map(|name| format!("{name:?}")).collect();
            format!("{} or {last:?}", rest.join(", "))
        }
        [] => String::new(),
    }
}

const ANY_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8443);

const ADDRESS_FORM: &str = "an IP address and port such as \"192.0.2.1:8443\" or \"[2001:db8::1]:8443\"";

const NETWORK_FORM: &str = "a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", or one address";

/// Characters of a string of the file that a message repeats.
const QUOTED_CHARS_MAX: usize = 80;
