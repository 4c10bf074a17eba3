//! Descriptors and pipes.

use nix::sys::resource::{Resource, getrlimit};

use super::finding::{Check, Finding, Level, Subject};
use super::plan::{Plan, wants_kernel_tls};
use super::source;
use crate::relay::PipePool;
use crate::server::descriptors_needed;

/// Connections that a process without a configuration is judged for: those of one worker, by default.
const CONNECTIONS_WITHOUT_PLAN: usize = 16_384;
/// What a pipe's pages are counted in. Larger pages make fewer of them, so the judgement errs on the strict side.
const PAGE_BYTES: u64 = 4096;

#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Hard RLIMIT_NOFILE of this process, which the proxy raises its soft limit to.
    pub(super) open_files: Option<u64>,
    /// fs.pipe-user-pages-soft; 0 is no limit.
    pub(super) pipe_pages: Option<u64>,
    /// fs.pipe-max-size in bytes.
    pub(super) pipe_bytes: Option<u64>,
}

impl Facts {
    pub(super) fn read() -> Self {
        Self {
            open_files: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard),
            pipe_pages: source::sysctl_number("fs.pipe-user-pages-soft"),
            pipe_bytes: source::sysctl_number("fs.pipe-max-size"),
        }
    }
}

pub(super) fn judge(facts: &Facts, plan: Option<&Plan>) -> Vec<Finding> {
    vec![judge_open_files(facts, plan), judge_pipe_pages(facts, plan), judge_pipe_bytes(facts, plan)]
}

fn judge_open_files(facts: &Facts, plan: Option<&Plan>) -> Finding {
    let (needed, wanted) = match plan {
        Some(plan) => {
            let needed = descriptors_needed(plan.worker_count, plan.connections_max);
            let (workers, connections) = (plan.worker_count, plan.connections_max);
            (needed, format!("{needed}: {workers} x {connections} connections with 2 each, and 256"))
        }
        None => {
            let needed = descriptors_needed(1, CONNECTIONS_WITHOUT_PLAN);
            (needed, format!("{needed} for one worker at its default; --config FILE tells how many workers there are"))
        }
    };
    let check = |found: String| Check::new(Subject::Limits, "open_files", found, wanted);
    match facts.open_files {
        None => check(String::new()).unread("/proc/self/limits"),
        Some(u64::MAX) => check("no limit".to_owned()).ok(),
        Some(limit) if limit >= needed => check(format!("{limit} for this process")).ok(),
        Some(limit) => {
            // With less than what the process needs beside its connections, it may not come up at all.
            let level = match (plan, limit <= descriptors_needed(0, 0)) {
                (Some(_), true) => Level::Broken,
                (Some(_), false) => Level::Warning,
                (None, _) => Level::Note,
            };
            let remedy = "raise LimitNOFILE= of the service (ulimit -Hn), or lower workers.connections_max";
            check(format!("{limit} for this process (hard limit)")).at(level, remedy)
        }
    }
}

fn judge_pipe_pages(facts: &Facts, plan: Option<&Plan>) -> Finding {
    let worker_count = plan.map_or(1, |plan| plan.worker_count) as u64;
    let needed = worker_count.saturating_mul(PipePool::KEPT_BYTES_MAX as u64 / PAGE_BYTES);
    let wanted = format!("{needed} for the pipes that workers keep ({worker_count} of them), or 0: no limit");
    let check = |found: String| Check::new(Subject::Limits, "pipe_pages", found, wanted);
    match facts.pipe_pages {
        None => check(String::new()).unread("/proc/sys/fs/pipe-user-pages-soft"),
        Some(pages) if pages == 0 || pages >= needed => check(format!("fs.pipe-user-pages-soft = {pages}")).ok(),
        Some(pages) => {
            let found = format!("fs.pipe-user-pages-soft = {pages}: pipes shrink to one or two pages beyond it");
            let level = if wants_kernel_tls(plan) { Level::Warning } else { Level::Note };
            let remedy = format!("run `sysctl -w fs.pipe-user-pages-soft={needed}`, and keep it in /etc/sysctl.d");
            check(found).at(level, remedy)
        }
    }
}

fn judge_pipe_bytes(facts: &Facts, plan: Option<&Plan>) -> Finding {
    let needed = PipePool::PIPE_BYTES as u64;
    let check = |found: String| Check::new(Subject::Limits, "pipe_size", found, format!("{needed} or more"));
    match facts.pipe_bytes {
        None => check(String::new()).unread("/proc/sys/fs/pipe-max-size"),
        Some(bytes) if bytes >= needed => check(format!("fs.pipe-max-size = {bytes}")).ok(),
        Some(bytes) => {
            let found = format!("fs.pipe-max-size = {bytes}: pipes stay at 64 KiB for a user without privilege");
            let level = if wants_kernel_tls(plan) { Level::Warning } else { Level::Note };
            check(found).at(level, format!("run `sysctl -w fs.pipe-max-size={needed}`, and keep it in /etc/sysctl.d"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::testing::plan;
    use super::*;
    use crate::ktls::Mode;

    const GOOD: Facts = Facts { open_files: Some(65_536), pipe_pages: Some(16_384), pipe_bytes: Some(1 << 20) };

    fn levels(facts: &Facts, mode: Mode) -> Vec<Level> {
        judge(facts, Some(&plan(mode))).iter().map(Finding::level).collect()
    }

    #[test]
    fn limits_that_suffice_are_ok() {
        assert_eq!(levels(&GOOD, Mode::Auto), [Level::Ok; 3]);
        let none = Facts { open_files: Some(u64::MAX), pipe_pages: Some(0), ..GOOD };
        assert_eq!(levels(&none, Mode::Auto), [Level::Ok; 3]);
    }

    #[test]
    fn open_files_are_judged_against_the_connections_of_all_workers() {
        let open_files = |limit| levels(&Facts { open_files: Some(limit), ..GOOD }, Mode::Auto)[0];
        assert_eq!(open_files(40_256), Level::Ok);
        assert_eq!(open_files(40_255), Level::Warning);
        assert_eq!(open_files(256), Level::Broken);
    }

    #[test]
    fn open_files_without_a_configuration_are_a_note_at_most() {
        let level = |limit| judge(&Facts { open_files: Some(limit), ..GOOD }, None)[0].level();
        assert_eq!((level(33_024), level(33_023), level(20)), (Level::Ok, Level::Note, Level::Note));
    }

    #[test]
    fn short_pipes_matter_where_kernel_tls_is_wanted() {
        let short = Facts { pipe_pages: Some(4095), pipe_bytes: Some(65_536), ..GOOD };
        assert_eq!(levels(&short, Mode::Auto)[1..], [Level::Warning; 2]);
        assert_eq!(levels(&short, Mode::Off)[1..], [Level::Note; 2]);
        assert_eq!(levels(&Facts { pipe_pages: Some(4096), ..GOOD }, Mode::Auto)[1], Level::Ok);
    }

    #[test]
    fn limits_that_cannot_be_read_are_notes() {
        let unread = Facts { open_files: None, pipe_pages: None, pipe_bytes: None };
        assert_eq!(levels(&unread, Mode::Auto), [Level::Note; 3]);
    }
}
