//! `sluice tickets new|show|ratchet|revoke --ring FILE`: ring files. Prints no secret, ever.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use crate::telemetry::Label;
use crate::ticket::{FileError, LockWait, Ring, RingError, RingFacts, RingFile, RingShape, UnixSeconds};

/// Makes, shows, ratchets and revokes ticket-ring files.
#[derive(Debug, Args)]
pub struct TicketsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a ring file; refuses to overwrite one
    New {
        #[command(flatten)]
        ring: RingPath,
        /// How long one key seals new tickets (5m to 7d)
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
        epoch: Duration,
        /// Longest life of a ticket (1s to 7d)
        #[arg(long, value_name = "DURATION", default_value = "12h", value_parser = humantime::parse_duration)]
        lifetime: Duration,
    },
    /// Show what is public about a ring; equal fingerprints mean equal keys
    Show {
        #[command(flatten)]
        ring: RingPath,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Wipe the keys of expired tickets from the file, as a running proxy does by itself
    Ratchet {
        #[command(flatten)]
        ring: RingPath,
    },
    /// Replace all keys: refuse every ticket issued so far, wherever the new file reaches
    Revoke {
        #[command(flatten)]
        ring: RingPath,
    },
}

#[derive(Debug, Args)]
struct RingPath {
    /// The ring file
    #[arg(long = "ring", value_name = "FILE")]
    path: PathBuf,
}

/// Runs the command against the system's clock; a failure is told on standard error.
pub fn run(args: TicketsArgs) -> ExitCode {
    match execute_at(&args, SystemTime::now().into(), &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice tickets: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// Runs the command as if it were `now`, and writes what it has to say to `out`.
pub fn execute_at(args: &TicketsArgs, now: UnixSeconds, out: &mut dyn Write) -> Result<(), TicketsError> {
    match &args.action {
        Action::New { ring, epoch, lifetime } => {
            let shape = RingShape::new(*epoch, *lifetime)?;
            let file = RingFile::at(&ring.path);
            let lock = file.lock(LockWait::Block)?;
            let ring = Ring::generate_at(shape, now)?;
            file.create(&lock, &ring)?;
            writeln!(out, "made {}", file.path().display())?;
            print(out, &RingFacts::at(&ring, now)?)
        }
        Action::Show { ring, json } => {
            let (ring, _) = RingFile::at(&ring.path).load()?;
            let facts = RingFacts::at(&ring, now)?;
            if *json {
                return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&facts).map_err(std::io::Error::from)?)?);
            }
            print(out, &facts)
        }
        Action::Ratchet { ring } => {
            let file = RingFile::at(&ring.path);
            let lock = file.lock(LockWait::Block)?;
            let (mut ring, _) = file.load()?;
            let epochs = ring.ratchet_at(now)?;
            if epochs > 0 {
                file.replace(&lock, &ring)?;
            }
            writeln!(out, "ratcheted past {epochs} epochs")?;
            print(out, &RingFacts::at(&ring, now)?)
        }
        Action::Revoke { ring } => {
            let file = RingFile::at(&ring.path);
            let lock = file.lock(LockWait::Block)?;
            let (former, _) = file.load()?;
            let ring = former.revoked_at(now)?;
            file.replace(&lock, &ring)?;
            writeln!(out, "revoked: every ticket issued so far is refused by a node once it has this file")?;
            print(out, &RingFacts::at(&ring, now)?)
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TicketsError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// Nobody reads what we print.
    #[error("cannot print")]
    Print(#[from] std::io::Error),
}

const YEAR_10000: u64 = 253_402_300_800;

fn print(out: &mut dyn Write, facts: &RingFacts) -> Result<(), TicketsError> {
    let seconds = |seconds| humantime::format_duration(Duration::from_secs(seconds));
    writeln!(out, "id             {}", facts.id)?;
    writeln!(out, "generation     {} (revocations so far)", facts.generation)?;
    match facts.standing_epochs {
        0 => writeln!(out, "standing       {}", facts.standing.label())?,
        epochs => writeln!(out, "standing       {} by {epochs} epochs", facts.standing.label())?,
    }
    writeln!(out, "epoch length   {}", seconds(facts.epoch_length_seconds))?;
    writeln!(out, "lifetime       {}", seconds(facts.retention_seconds))?;
    writeln!(out, "epochs         {} (oldest key) to {} (now)", facts.first_epoch, facts.current_epoch)?;
    for (what, at) in [("next key    ", facts.next_key_unix_seconds), ("next ratchet", facts.next_ratchet_unix_seconds)]
    {
        // Later years have no RFC 3339 form.
        if at < YEAR_10000 {
            let at = UNIX_EPOCH + Duration::from_secs(at);
            writeln!(out, "{what}   {}", humantime::format_rfc3339_seconds(at))?;
        }
    }
    writeln!(out, "fingerprint    {}", facts.fingerprint.as_deref().unwrap_or("none: no key for the present"))?;
    Ok(())
}

/// An error with what caused it, on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let source_text = source.to_string();
        // A transparent error repeats its cause.
        if !text.contains(&source_text) {
            text.push_str(": ");
            text.push_str(&source_text);
        }
        cause = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

    use super::*;
    use clap::Parser;
    use std::os::unix::fs::PermissionsExt;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        tickets: TicketsArgs,
    }

    fn run_at(now: UnixSeconds, line: &[&str], ring: &std::path::Path) -> Result<String, TicketsError> {
        let ring = ring.to_str().unwrap();
        let args = [&["sluice", line[0], "--ring", ring], &line[1..]].concat();
        let mut out = Vec::new();
        execute_at(&Line::try_parse_from(args).unwrap().tickets, now, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn secret_in(path: &std::path::Path) -> String {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().find_map(|line| line.strip_prefix("chain-secret ")).unwrap().to_owned()
    }

    #[test]
    fn new_makes_a_private_file_and_never_overwrites_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        run_at(NOW, &["new"], &path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let secret = secret_in(&path);
        assert!(matches!(run_at(NOW, &["new"], &path), Err(TicketsError::File(FileError::Exists { .. }))));
        assert_eq!(secret_in(&path), secret);
    }

    #[test]
    fn new_with_spans_out_of_bounds_makes_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        assert!(matches!(run_at(NOW, &["new", "--epoch", "1m"], &path), Err(TicketsError::Ring(_))));
        assert!(matches!(run_at(NOW, &["new", "--lifetime", "8d"], &path), Err(TicketsError::Ring(_))));
        assert!(!path.exists());
        let text = run_at(NOW, &["new", "--epoch", "30m", "--lifetime", "1day"], &path).unwrap();
        assert!(text.contains("epoch length   30m") && text.contains("lifetime       1day"), "{text}");
    }

    #[test]
    fn ratchet_replaces_the_secret_only_when_epochs_are_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        run_at(NOW, &["new"], &path).unwrap();
        let secret = secret_in(&path);
        assert!(run_at(NOW, &["ratchet"], &path).unwrap().starts_with("ratcheted past 0 epochs"));
        assert_eq!(secret_in(&path), secret);
        let later = NOW.plus(Duration::from_secs(7200));
        assert!(run_at(later, &["ratchet"], &path).unwrap().starts_with("ratcheted past 2 epochs"));
        assert_ne!(secret_in(&path), secret);
    }

    #[test]
    fn revoke_replaces_the_secret_and_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        run_at(NOW, &["new"], &path).unwrap();
        let secret = secret_in(&path);
        assert!(run_at(NOW, &["revoke"], &path).unwrap().contains("generation     1"));
        assert_ne!(secret_in(&path), secret);
        let missing = directory.path().join("none");
        assert!(matches!(run_at(NOW, &["revoke"], &missing), Err(TicketsError::File(FileError::Missing { .. }))));
    }

    #[test]
    fn no_command_prints_the_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        for line in [&["new"][..], &["show"], &["show", "--json"], &["ratchet"], &["revoke"]] {
            let before = path.exists().then(|| secret_in(&path));
            let text = run_at(NOW.plus(Duration::from_secs(3600)), line, &path).unwrap();
            for secret in before.into_iter().chain([secret_in(&path)]) {
                assert!(!text.contains(&secret[..8]) && !text.contains(&secret[56..]), "{line:?}: {text}");
            }
        }
    }

    #[test]
    fn show_tells_where_the_ring_stands() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ring");
        run_at(NOW, &["new"], &path).unwrap();
        let at = |now| {
            let json = run_at(now, &["show", "--json"], &path).unwrap();
            serde_json::from_str::<serde_json::Value>(&json).unwrap()
        };
        assert_eq!(at(NOW)["standing"], "current");
        assert_eq!(at(NOW)["next_key_unix_seconds"], NOW.0 + 3600);
        assert_eq!(at(NOW)["next_ratchet_unix_seconds"], NOW.0 + 120, "the skew behind the end of the oldest ticket");
        let later = at(NOW.plus(Duration::from_secs(3600)));
        assert_eq!((later["standing"].as_str(), later["standing_epochs"].as_u64()), (Some("behind"), Some(1)));
        assert!(later["fingerprint"].is_string());
        let before = at(NOW.minus(Duration::from_secs(86_400)));
        assert_eq!(before["standing"], "ahead");
        assert!(before["fingerprint"].is_null());
    }
}
