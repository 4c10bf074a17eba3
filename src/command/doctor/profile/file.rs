//! Profiles and knobs as they are written: TOML, built in or from a file of the operator's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;

use super::knob::Knob;

/// Largest profile that is read.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The profiles that are built in, by name.
pub(super) const BUILT_IN: [(&str, &str); 4] = [
    ("per-cpu", include_str!("../../../../tuning/profiles/per-cpu.toml")),
    ("per-core", include_str!("../../../../tuning/profiles/per-core.toml")),
    ("numa-node", include_str!("../../../../tuning/profiles/numa-node.toml")),
    ("nic-queues", include_str!("../../../../tuning/profiles/nic-queues.toml")),
];

/// The knobs of every profile.
const KNOBS: &str = include_str!("../../../../tuning/knobs.toml");

/// How a machine is to be set up.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    /// One line for people.
    pub(super) summary: String,
    pub(super) workers: Workers,
    pub(super) nic: Nic,
    /// Values that differ from those of the knobs; an empty one leaves the sysctl alone.
    #[serde(default)]
    pub(super) sysctl: BTreeMap<String, String>,
}

/// Where the workers go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Workers {
    pub(super) nodes: Nodes,
    pub(super) threads: Threads,
    pub(super) steering: Steering,
}

/// Which memory nodes have workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Nodes {
    All,
    /// The one that the NIC is attached to.
    Nic,
}

/// Which threads of a core have workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Threads {
    All,
    OnePerCore,
}

/// `workers.steering` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Steering {
    Hash,
    Cpu,
}

/// What becomes of the NIC.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nic {
    pub(super) queues: Queues,
    pub(super) interrupts: Interrupts,
    pub(super) transmit: Transmit,
    pub(super) receive: Receive,
}

/// How many queues it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Queues {
    Keep,
    OnePerWorker,
}

/// Where the interrupts of its queues go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Interrupts {
    Keep,
    /// To any CPU that has a worker.
    WorkerNode,
    /// That of queue N to the CPU of worker N.
    OwnWorker,
}

/// Which queue a CPU sends through (XPS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Transmit {
    Keep,
    /// The CPU of worker N through queue N.
    OwnWorker,
}

/// Which CPU a packet is worked on (RPS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Receive {
    Keep,
    /// The one that the queue interrupts: no packet is passed on to another.
    ByQueue,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "there is no profile {name:?}; built in are {}; a file of your own is named by a path with a slash",
        names()
    )]
    Unknown { name: String },
    #[error("profile {path} cannot be read: {source}")]
    Read { path: String, source: io::Error },
    #[error("profile {path} is larger than {FILE_BYTES_MAX} bytes; a profile is a page of TOML, see tuning/profiles")]
    TooLarge { path: String },
    #[error("profile {path} cannot be understood: {source}")]
    Parse { path: String, source: Box<toml::de::Error> },
    #[error("profile {path}: `sysctl.{key}` is no name of a sysctl; allowed are letters, digits, `.`, `_`, `-`")]
    Key { path: String, key: String },
    #[error("profile {path}: the value of `sysctl.{key}` may hold no control characters and {VALUE_BYTES_MAX} bytes")]
    Value { path: String, key: String },
}

/// Longest value of a sysctl in a profile.
const VALUE_BYTES_MAX: usize = 128;

fn names() -> String {
    BUILT_IN.map(|(name, _)| name).join(", ")
}

impl Profile {
    /// The built-in profile of this name, or the file at this path if there is a slash in it.
    pub(super) fn load(name: &str) -> Result<Self, Error> {
        if name.contains('/') {
            return Self::parse(name, &read(name)?);
        }
        let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
        let (_, text) = built_in.ok_or_else(|| Error::Unknown { name: name.to_owned() })?;
        Self::parse(name, text)
    }

    pub(super) fn parse(path: &str, text: &str) -> Result<Self, Error> {
        let path = path.to_owned();
        let parsed: Result<Self, _> = toml::from_str(text);
        let profile = parsed.map_err(|source| Error::Parse { path: path.clone(), source: Box::new(source) })?;
        let is_name = |key: &str| {
            let is_good = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
            key.bytes().all(is_good) && key.split('.').all(|part| !part.is_empty())
        };
        for (key, value) in &profile.sysctl {
            if !is_name(key) {
                return Err(Error::Key { path, key: key.clone() });
            }
            if value.len() > VALUE_BYTES_MAX || value.chars().any(char::is_control) {
                return Err(Error::Value { path, key: key.clone() });
            }
        }
        Ok(profile)
    }

    /// The knobs of this profile: the common ones with its own values, then those that only it has.
    pub(super) fn knobs(&self) -> Vec<Knob> {
        let mut knobs = common_knobs();
        for (name, value) in &self.sysctl {
            match knobs.iter_mut().find(|knob| knob.sysctl == *name) {
                Some(knob) => value.clone_into(&mut knob.value),
                None => knobs.push(Knob::of_profile(name, value)),
            }
        }
        knobs.retain(|knob| !knob.value.is_empty());
        knobs
    }
}

/// The knobs that every profile has.
pub(super) fn common_knobs() -> Vec<Knob> {
    #[derive(Deserialize)]
    struct Knobs {
        knob: Vec<Knob>,
    }
    // The file is a part of the program, and a test reads it.
    toml::from_str(KNOBS).map(|knobs: Knobs| knobs.knob).unwrap_or_default()
}

fn read(path: &str) -> Result<String, Error> {
    let error = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(Path::new(path)).map_err(error)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(error)?;
    if text.len() as u64 > FILE_BYTES_MAX { Err(Error::TooLarge { path: path.to_owned() }) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn built_in_profiles_and_knobs_can_be_read() {
        for (name, _) in BUILT_IN {
            let profile = Profile::load(name).unwrap();
            assert!(!profile.summary.is_empty());
            assert!(profile.knobs().len() > 10, "{name}");
        }
    }

    #[test]
    fn profile_that_does_not_exist_is_refused_with_the_known() {
        let message = Profile::load("per-cup").unwrap_err().to_string();
        assert!(message.contains("per-cpu, per-core, numa-node, nic-queues"), "{message}");
        assert!(matches!(Profile::load("./nonexistent.toml"), Err(Error::Read { .. })));
    }

    #[test]
    fn profile_changes_adds_and_leaves_out_sysctls() {
        let text = format!(
            "{}\n[sysctl]\n\"net.core.somaxconn\" = \"8192\"\n\"net.ipv4.tcp_congestion_control\" = \"bbr\"\n\
             \"net.ipv4.tcp_mtu_probing\" = \"\"\n",
            BUILT_IN[0].1
        );
        let knobs = Profile::parse("x", &text).unwrap().knobs();
        let value = |name| knobs.iter().find(|knob| knob.sysctl == name).map(|knob| knob.value.as_str());
        assert_eq!(value("net.core.somaxconn"), Some("8192"));
        assert_eq!(value("net.ipv4.tcp_congestion_control"), Some("bbr"));
        assert_eq!(value("net.ipv4.tcp_mtu_probing"), None);
    }

    #[test]
    fn profile_with_a_mistake_is_refused() {
        let with = |line: &str| Profile::parse("x", &format!("{}\n[sysctl]\n{line}\n", BUILT_IN[0].1)).unwrap_err();
        assert!(matches!(with("\"../../etc/passwd\" = \"x\""), Error::Key { .. }));
        assert!(matches!(with("\"net..core\" = \"x\""), Error::Key { .. }));
        assert!(matches!(with("\"net.core.somaxconn\" = \"1\\n2\""), Error::Value { .. }));
        assert!(matches!(with(&format!("\"a.b\" = \"{}\"", "9".repeat(129))), Error::Value { .. }));
        assert!(matches!(with("a = 1"), Error::Parse { .. }));
        let text = BUILT_IN[0].1.replace("steering = \"hash\"", "steering = \"hush\"");
        assert!(Profile::parse("x", &text).unwrap_err().to_string().contains("hush"));
    }

    #[test]
    fn profile_that_is_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.toml");
        std::fs::write(&path, "#".repeat(FILE_BYTES_MAX as usize + 1)).unwrap();
        assert!(matches!(Profile::load(path.to_str().unwrap()), Err(Error::TooLarge { .. })));
    }
}
