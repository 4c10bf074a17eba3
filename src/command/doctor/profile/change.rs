//! What would make a machine fit its profile, in a form that `tuning/apply` carries out.

/// One change, with what takes it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A value of a file below /proc or /sys.
    Write { path: String, found: String, wanted: String },
    /// The number of combined queues of an interface, which ethtool changes.
    Channels { interface: String, found: usize, wanted: usize },
}

impl Change {
    /// One line: what to do, to what, from what, to what, separated by tabs. No part has a tab or a line break in it.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Write { path, found, wanted } => format!("write\t{path}\t{found}\t{wanted}"),
            Self::Channels { interface, found, wanted } => format!("channels\t{interface}\t{found}\t{wanted}"),
        }
    }
}
