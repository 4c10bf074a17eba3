//! One thing that was looked at, and what is to be thought of it.

use std::fmt;

use serde::Serialize;

/// How bad a finding is, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Could be better; nothing to get up for.
    Note,
    /// Costs throughput, connections or safety.
    Warning,
    /// The proxy does not start, or does not do what its configuration demands.
    Broken,
}

impl Level {
    /// The name in both outputs.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Broken => "broken",
        }
    }
}

/// What a finding is about, in the order of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Subject {
    Kernel,
    IoUring,
    KernelTls,
    Limits,
    Network,
    Cpu,
    Openssl,
    Configuration,
    Profile,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::IoUring => "io_uring",
            Self::KernelTls => "kernel TLS",
            Self::Limits => "limits",
            Self::Network => "network",
            Self::Cpu => "CPU",
            Self::Openssl => "OpenSSL",
            Self::Configuration => "configuration",
            Self::Profile => "profile",
        })
    }
}

/// One judgement. Made by [`Check`], which gives each one that is not ok a remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    subject: Subject,
    check: &'static str,
    about: Option<String>,
    level: Level,
    found: String,
    wanted: String,
    remedy: Option<String>,
}

impl Finding {
    pub(super) fn subject(&self) -> Subject {
        self.subject
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// What was found on the machine.
    pub(super) fn found(&self) -> &str {
        &self.found
    }

    /// What would be ok.
    pub(super) fn wanted(&self) -> &str {
        &self.wanted
    }

    /// What to do; there is one exactly where the level is not ok.
    pub(super) fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// The check, and which of several things it looked at: `listener edge`.
    pub(super) fn title(&self) -> String {
        match &self.about {
            Some(about) => format!("{} {about}", self.check),
            None => self.check.to_owned(),
        }
    }
}

/// Something that was looked at and is still to be judged.
#[derive(Clone, Debug)]
pub(super) struct Check {
    subject: Subject,
    name: &'static str,
    about: Option<String>,
    found: String,
    wanted: String,
}

impl Check {
    /// `name` is what programs know the check by; `found` and `wanted` are for people.
    pub(super) fn new(
        subject: Subject,
        name: &'static str,
        found: impl Into<String>,
        wanted: impl Into<String>,
    ) -> Self {
        Self { subject, name, about: None, found: found.into(), wanted: wanted.into() }
    }

    /// Which of several things it is about.
    pub(super) fn about(mut self, about: impl Into<String>) -> Self {
        self.about = Some(about.into());
        self
    }

    pub(super) fn ok(self) -> Finding {
        self.judged(Level::Ok, None)
    }

    pub(super) fn note(self, remedy: impl Into<String>) -> Finding {
        self.judged(Level::Note, Some(remedy.into()))
    }

    pub(super) fn warning(self, remedy: impl Into<String>) -> Finding {
        self.judged(Level::Warning, Some(remedy.into()))
    }

    pub(super) fn broken(self, remedy: impl Into<String>) -> Finding {
        self.judged(Level::Broken, Some(remedy.into()))
    }

    /// For a level that was computed; an ok finding has no use for the remedy.
    pub(super) fn at(self, level: Level, remedy: impl Into<String>) -> Finding {
        let remedy = (level != Level::Ok).then(|| remedy.into());
        self.judged(level, remedy)
    }

    /// The fact could not be read, so there is no verdict.
    pub(super) fn unread(mut self, path: &str) -> Finding {
        self.found = format!("{path} cannot be read");
        self.note(format!("see that {path} is there and readable: is /proc or /sys mounted?"))
    }

    fn judged(self, level: Level, remedy: Option<String>) -> Finding {
        let Self { subject, name, about, found, wanted } = self;
        Finding { subject, check: name, about, level, found, wanted, remedy }
    }
}

/// `1 worker`, `2 workers`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [Level; 4] = [Level::Ok, Level::Note, Level::Warning, Level::Broken];

    #[test]
    fn finding_has_a_remedy_exactly_where_it_is_not_ok() {
        let check = || Check::new(Subject::Cpu, "steal", "1 %", "none");
        assert_eq!(check().ok().remedy(), None);
        for finding in [check().note("a"), check().warning("a"), check().broken("a"), check().unread("/proc/stat")] {
            assert!(finding.remedy().is_some(), "{finding:?}");
        }
        for level in LEVELS {
            assert_eq!(check().at(level, "a").remedy().is_some(), level != Level::Ok);
        }
    }

    #[test]
    fn levels_ascend_and_print_as_they_serialize() {
        assert!(LEVELS.is_sorted());
        for level in LEVELS {
            assert_eq!(serde_json::to_value(level).ok(), Some(level.name().into()));
        }
    }
}
