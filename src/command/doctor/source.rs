//! Reading facts from /proc and /sys.

use std::fs;

/// The value of a sysctl; none where this kernel does not have it, or does not show it.
pub(super) fn sysctl(name: &str) -> Option<String> {
    text(&format!("/proc/sys/{}", name.replace('.', "/")))
}

/// The value of a sysctl that is one number.
pub(super) fn sysctl_number(name: &str) -> Option<u64> {
    sysctl(name)?.parse().ok()
}

/// The content of a file, without white space around it.
pub(super) fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
