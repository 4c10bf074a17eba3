//! The machine that a comparison runs on, as far as it can be told without privileges.

use std::fs;
use std::path::Path;

use super::process::allowed_cpus;
use super::schema::Environment;

/// Describes this machine; what cannot be found out is empty.
pub fn describe(note: Option<&str>) -> Environment {
    let cpu_info = read("/proc/cpuinfo");
    let field = |name: &str| {
        let mut lines = cpu_info.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let flags = field("flags");
    let has = |feature: &&&str| flags.split_whitespace().any(|flag| flag == **feature);
    let system = nix::sys::utsname::uname().ok();
    let text =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
    let release = text(system.as_ref().map(nix::sys::utsname::UtsName::release));
    Environment {
        kernel: format!("{} {release}", text(system.as_ref().map(nix::sys::utsname::UtsName::sysname))),
        architecture: text(system.as_ref().map(nix::sys::utsname::UtsName::machine)),
        cpu_model: field("model name"),
        cpus: allowed_cpus().unwrap_or_default(),
        cpu_features: AEAD_FEATURES.iter().filter(|feature| has(feature)).map(|name| (*name).to_owned()).collect(),
        memory_bytes: memory_bytes(&read("/proc/meminfo")),
        distribution: distribution(&read("/etc/os-release")),
        hypervisor: hypervisor(&flags),
        congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        tcp_upper_layers: words(&read("/proc/sys/net/ipv4/tcp_available_ulp")),
        load_average: read("/proc/loadavg").split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        governor: Some(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")).filter(|name| !name.is_empty()),
        client_tls_library: library_words(openssl::version::version()),
        note: note.map(str::to_owned),
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// `OpenSSL 4.0.3` without the date.
fn library_words(text: &str) -> String {
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn memory_bytes(memory_info: &str) -> u64 {
    let total = memory_info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

fn distribution(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or_default().trim_matches('"').to_owned()
}

fn hypervisor(cpu_flags: &str) -> Option<String> {
    if !cpu_flags.split_whitespace().any(|flag| flag == "hypervisor") {
        return None;
    }
    let maker = read("/sys/class/dmi/id/sys_vendor");
    Some(if maker.is_empty() { "unnamed".to_owned() } else { maker })
}

/// Instruction sets that decide about AEAD speed.
const AEAD_FEATURES: [&str; 6] = ["aes", "avx2", "avx512f", "vaes", "vpclmulqdq", "sha_ni"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;

    #[test]
    fn environment_of_this_machine_has_a_kernel_and_cpus() {
        let environment = describe(Some("quiet"));
        assert!(environment.kernel.starts_with("Linux "), "{}", environment.kernel);
        assert!(!environment.cpus.is_empty());
        assert!(environment.memory_bytes > 0);
        assert_eq!(environment.note.as_deref(), Some("quiet"));
    }

    #[test]
    fn files_without_the_expected_lines_give_nothing() {
        assert_eq!(memory_bytes("MemFree: 1 kB"), 0);
        assert_eq!(memory_bytes("MemTotal:    2048 kB"), 2048 * 1024);
        assert_eq!(distribution("ID=x"), "");
        assert_eq!(distribution("PRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
    }
}
