//! Why a kernel has no TLS, and what the operator can do about it.

use std::{fmt, fs};

use serde::Serialize;

use super::install::InstallError;

/// Why kernel TLS is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Absence {
    /// The kernel has it as a module that is not loaded, and this process may not load it.
    ModuleNotLoaded,
    /// The kernel was built without `CONFIG_TLS`, or its module is not installed.
    NotBuilt,
    /// It is not loaded; whether there is a module cannot be seen from here (as in a container).
    NotLoaded,
    /// Something forbids it: seccomp, or a security module.
    Denied {
        /// The kernel's answer.
        error: String,
    },
    /// No listener wants it, so nobody asked the kernel.
    Unasked,
    /// The probe could not do its work, so kernel TLS is not used.
    ProbeFailed {
        /// What failed.
        error: String,
    },
}

impl Absence {
    /// What the operator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::ModuleNotLoaded => "run `modprobe tls`, and put `tls` into /etc/modules-load.d/tls.conf",
            Self::NotBuilt => "boot a kernel built with CONFIG_TLS=m or =y, 6.14 or later for re-keying",
            Self::NotLoaded => {
                "run `modprobe tls` on the host, and put `tls` into /etc/modules-load.d/tls.conf; \
                 if there is no such module, boot a kernel built with CONFIG_TLS"
            }
            Self::Denied { .. } => "allow setsockopt(TCP_ULP) and setsockopt(SOL_TLS) in the service's seccomp filter",
            Self::Unasked => "set kernel_tls on a listener",
            Self::ProbeFailed { .. } => "see that the process may open loopback sockets and has file descriptors left",
        }
    }

    /// Judges a failure to attach kernel TLS.
    pub(super) fn diagnose(error: &InstallError, facts: &KernelFacts) -> Self {
        match error {
            InstallError::NoKernelTls => match facts {
                KernelFacts { config: Some(Config::Off), .. } => Self::NotBuilt,
                KernelFacts { module: Some(true), .. } => Self::ModuleNotLoaded,
                KernelFacts { module: Some(false), config: Some(Config::Module) } => Self::NotBuilt,
                KernelFacts { module: Some(false), config: None } => Self::NotBuilt,
                KernelFacts { .. } => Self::NotLoaded,
            },
            InstallError::Other(error) if is_denial(error.raw_os_error()) => Self::Denied { error: error.to_string() },
            error => Self::ProbeFailed { error: error.to_string() },
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ModuleNotLoaded => f.write_str("the tls module is not loaded"),
            Self::NotBuilt => {
                f.write_str("the kernel was built without CONFIG_TLS, or its tls module is not installed")
            }
            Self::NotLoaded => f.write_str("the kernel offers no TLS: its tls module is not loaded, or not built"),
            Self::Denied { error } => write!(f, "the kernel forbids it: {error}"),
            Self::Unasked => f.write_str("no listener asks for it"),
            Self::ProbeFailed { error } => write!(f, "the probe failed: {error}"),
        }
    }
}

/// What the file system says about the running kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelFacts {
    /// Whether the index of the kernel's modules lists `tls`; `None` when there is no index to be seen.
    module: Option<bool>,
    /// `CONFIG_TLS` of the kernel's configuration, when that is to be seen.
    config: Option<Config>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Config {
    Off,
    Module,
    BuiltIn,
}

impl KernelFacts {
    /// Collects them for the kernel with this release.
    pub(super) fn read(release: &str) -> Self {
        let modules = ["/lib/modules", "/usr/lib/modules"]
            .iter()
            .find_map(|root| fs::read_to_string(format!("{root}/{release}/modules.dep")).ok());
        let config = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok());
        Self { module: modules.map(|index| lists_tls(&index)), config: config.as_deref().map(config_of) }
    }
}

fn lists_tls(index: &str) -> bool {
    index.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains("net/tls/tls.ko")))
}

fn config_of(text: &str) -> Config {
    match text.lines().find_map(|line| line.strip_prefix("CONFIG_TLS=")) {
        Some("m") => Config::Module,
        Some(_) => Config::BuiltIn,
        None => Config::Off,
    }
}

const fn is_denial(code: Option<i32>) -> bool {
    matches!(code, Some(libc::EPERM | libc::EACCES | libc::ENOSYS))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn diagnose(module: Option<bool>, config: Option<Config>) -> Absence {
        Absence::diagnose(&InstallError::NoKernelTls, &KernelFacts { module, config })
    }

    #[test]
    fn absence_with_the_module_installed_says_how_to_load_it() {
        let absence = diagnose(Some(true), Some(Config::Module));
        assert_eq!(absence, Absence::ModuleNotLoaded);
        assert!(absence.remedy().contains("modprobe tls") && absence.remedy().contains("/etc/modules-load.d"));
    }

    #[test]
    fn absence_without_config_tls_asks_for_another_kernel() {
        assert_eq!(diagnose(None, Some(Config::Off)), Absence::NotBuilt);
        assert_eq!(diagnose(Some(false), None), Absence::NotBuilt);
        assert!(Absence::NotBuilt.remedy().contains("CONFIG_TLS"));
    }

    #[test]
    fn absence_on_an_opaque_system_names_both_remedies() {
        let absence = diagnose(None, None);
        assert_eq!(absence, Absence::NotLoaded);
        assert!(absence.remedy().contains("modprobe tls") && absence.remedy().contains("CONFIG_TLS"));
    }

    #[test]
    fn absence_by_a_filter_names_seccomp() {
        let error = InstallError::Other(io::Error::from_raw_os_error(libc::EPERM));
        let absence = Absence::diagnose(&error, &KernelFacts::default());
        assert!(matches!(absence, Absence::Denied { .. }) && absence.remedy().contains("seccomp"));
    }

    #[test]
    fn absence_for_any_other_error_is_a_failed_probe() {
        let error = InstallError::OutOfMemory;
        assert!(matches!(Absence::diagnose(&error, &KernelFacts::default()), Absence::ProbeFailed { .. }));
    }

    #[test]
    fn module_index_is_searched_by_path() {
        assert!(lists_tls("kernel/net/ipv4/x.ko:\nkernel/net/tls/tls.ko.xz: kernel/lib/y.ko\n"));
        assert!(!lists_tls("kernel/drivers/net/tls_user.ko: kernel/net/tls/tls.ko\n"));
    }

    #[test]
    fn kernel_configuration_is_read_line_by_line() {
        assert_eq!(config_of("CONFIG_NET=y\nCONFIG_TLS=m\n"), Config::Module);
        assert_eq!(config_of("# CONFIG_TLS is not set\nCONFIG_TLS_DEVICE=y\n"), Config::Off);
        assert_eq!(config_of("CONFIG_TLS=y"), Config::BuiltIn);
    }
}
