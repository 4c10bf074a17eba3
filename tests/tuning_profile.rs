//! Profiles: what the doctor says of a machine, what `tuning/apply` does to it, and that it can be taken back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed expectation is a failed test")]

mod doctor_support;
mod tuning_support;

use std::path::PathBuf;
use std::process::{Command, Output};

use doctor_support::{Report, doctor, doctor_json};
use tuning_support::Machine;

#[test]
fn profile_of_nic_queues_compares_sysctls_queues_and_placement() {
    let machine = Machine::with_queues(2);
    let report = compare("nic-queues", &machine);
    // The NIC's node has the cores 2 and 3.
    let placement = report.find("placement", None)["found"].as_str().unwrap();
    assert!(placement.contains("workers.cpus = \"2-3\" and workers.steering = \"cpu\""), "{placement}");
    let level = |check, about: &str| report.find(check, Some(about))["level"].as_str().unwrap().to_owned();
    assert_eq!(level("sysctl", "net.core.somaxconn"), "warning");
    assert_eq!(level("sysctl", "net.ipv4.tcp_syncookies"), "ok");
    assert_eq!(level("sysctl", "net.ipv4.ip_local_port_range"), "note");
    assert_eq!(level("sysctl", "net.netfilter.nf_conntrack_max"), "ok");
    assert_eq!(level("queues", "eth0"), "ok");
    assert_eq!(level("interrupt", "eth0 1"), "warning");
    assert_eq!(level("transmit_queue", "eth0 1"), "warning");
    assert_eq!(level("receive_queue", "eth0 1"), "ok");
    assert_eq!(report.find("irqbalance", None)["level"], "ok");
    assert_eq!(report.code, 0, "a machine that differs is no broken one");
}

#[test]
fn profile_per_core_takes_one_thread_of_each_core() {
    let report = compare("per-core", &Machine::with_queues(1));
    let placement = report.find("placement", None)["found"].as_str().unwrap();
    assert!(
        placement.contains("workers on CPU 0-3, ") && placement.contains("workers.cpus = \"cores\""),
        "{placement}"
    );
}

#[test]
fn profile_per_cpu_leaves_the_nic_alone() {
    let report = compare("per-cpu", &Machine::with_queues(1));
    let about_nic = |check| report.findings().iter().filter(|finding| finding["check"] == check).count();
    assert_eq!((about_nic("interrupt"), about_nic("queues"), about_nic("irqbalance")), (0, 0, 0));
}

#[test]
fn irqbalance_is_noticed_where_interrupts_are_to_stay() {
    let machine = Machine::with_queues(1);
    machine.write("proc/4711/comm", "irqbalance");
    assert_eq!(compare("numa-node", &machine).find("irqbalance", None)["level"], "warning");
}

#[test]
fn nic_that_is_not_there_is_named() {
    let machine = Machine::with_queues(1);
    let root = machine.path().to_str().unwrap();
    let report = doctor_json(&["--profile", "nic-queues", "--interface", "eth7", "--root", root]);
    let finding = report.find("nic", None);
    assert!(finding["found"].as_str().unwrap().contains("eth7"), "{finding}");
    machine.write("sys/class/net/bond0/operstate", "up");
    let report = doctor_json(&["--profile", "numa-node", "--interface", "bond0", "--root", root]);
    assert_eq!(report.find("interrupts", Some("bond0"))["found"], "no device behind it");
}

#[test]
fn wrong_profile_or_interface_is_an_error_of_usage() {
    for arguments in [
        &["--profile", "per-cup"][..],
        &["--profile", "./nonexistent.toml"],
        &["--profile", "per-cpu", "--interface", "eth0;reboot"],
        &["--profile", "per-cpu", "--interface", "a-name-of-16-bytes"],
        &["--changes"],
        &["--root", "/"],
    ] {
        let output = doctor(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    assert!(String::from_utf8(doctor(&["--profile", "per-cup"]).stderr).unwrap().contains("per-cpu, per-core"));
}

#[test]
fn profile_of_this_machine_is_judged_beside_everything_else() {
    let report = doctor_json(&["--profile", "per-cpu"]);
    assert!(report.of_subject("kernel").len() > 1, "{}", report.json);
    assert!(report.of_subject("profile").len() > 10, "{}", report.json);
}

#[test]
fn profile_of_the_operator_is_taken_from_its_file() {
    let machine = Machine::with_queues(1);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/profile.toml");
    let report = compare(example, &machine);
    machine.write("proc/sys/net/ipv4/tcp_congestion_control", "cubic");
    assert_eq!(report.find("sysctl", Some("net.ipv4.tcp_congestion_control"))["level"], "note");
    let report = compare(example, &machine);
    assert_eq!(report.find("sysctl", Some("net.ipv4.tcp_congestion_control"))["level"], "warning");
}

#[test]
fn apply_shows_what_it_would_do_and_does_nothing() {
    let machine = Machine::with_queues(2);
    let before = machine.state();
    let output = apply(&machine, "nic-queues", &[]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("would write 4096 to") && text.contains("net/core/somaxconn (now 128)"), "{text}");
    assert_eq!(machine.state(), before);
    assert!(!undo(&machine).exists());
}

#[test]
fn apply_brings_the_machine_to_the_profile_and_undo_takes_it_back() {
    let machine = Machine::with_queues(2);
    let before = machine.state();
    let output = apply(&machine, "nic-queues", &["--write"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(machine.read("proc/sys/net/core/somaxconn"), "4096");
    assert_eq!(machine.read("proc/sys/net/ipv4/ip_local_port_range"), "10240 65535");
    assert_eq!(machine.read("proc/irq/41/smp_affinity_list"), "3");
    assert_eq!(machine.read("sys/class/net/eth0/queues/tx-1/xps_cpus"), "00000008");
    let again = text(&apply(&machine, "nic-queues", &["--write"]));
    assert!(again.contains("nothing to do"), "{again}");

    // A second profile on top: its undo must not forget what was there first.
    let output = apply(&machine, "numa-node", &["--write"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    machine.write("proc/irq/40/smp_affinity_list", "5");
    assert_eq!(apply(&machine, "numa-node", &["--write"]).status.code(), Some(0));
    let undone = Command::new(undo(&machine)).output().unwrap();
    assert_eq!(undone.status.code(), Some(0), "{}", text(&undone));
    assert_eq!(machine.state(), before);
    assert!(!undo(&machine).exists(), "an undo that succeeded is done with");
}

#[test]
fn apply_sets_the_queues_first_and_then_their_interrupts() {
    let machine = Machine::with_queues(1);
    let before = machine.state();
    let output = apply(&machine, "nic-queues", &["--write"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("set the queues of eth0 to 2 (was 1)"), "{}", text(&output));
    assert_eq!(machine.read("proc/irq/41/smp_affinity_list"), "3");
    let undone = Command::new(undo(&machine)).output().unwrap();
    assert_eq!(undone.status.code(), Some(0), "{}", text(&undone));
    assert_eq!(machine.state(), before);
}

#[test]
fn change_that_fails_is_told_and_the_others_are_made() {
    let machine = Machine::with_queues(1);
    let output = apply_with(&machine, "nic-queues", &["--write"], 1);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("these did not take:\nchannels\teth0\t1\t2"), "{text}");
    assert_eq!(machine.read("proc/sys/net/core/somaxconn"), "4096");
}

#[test]
fn apply_refuses_wrong_usage() {
    let machine = Machine::with_queues(1);
    for arguments in [&["--rite"][..], &["per-core"], &["--interface"]] {
        let output = apply(&machine, "per-cpu", arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
    }
    assert_ne!(apply(&machine, "per-cup", &["--write"]).status.code(), Some(0));
}

#[test]
fn check_is_the_doctor() {
    let output = Command::new(script("check"))
        .args(["per-cpu", "--json", "--root"])
        .arg(Machine::with_queues(1).path())
        .env("SLUICE", env!("CARGO_BIN_EXE_sluice"))
        .output()
        .unwrap();
    assert!(!Report::of(&output).of_subject("profile").is_empty());
}

#[test]
fn scripts_are_clean() {
    let output = Command::new("shellcheck").args([script("apply"), script("check")]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

fn compare(profile: &str, machine: &Machine) -> Report {
    doctor_json(&["--profile", profile, "--root", machine.path().to_str().unwrap()])
}

fn apply(machine: &Machine, profile: &str, arguments: &[&str]) -> Output {
    apply_with(machine, profile, arguments, 0)
}

/// `ethtool_exit`: how its stand-in ends.
fn apply_with(machine: &Machine, profile: &str, arguments: &[&str], ethtool_exit: u8) -> Output {
    let mut command = Command::new(script("apply"));
    command.arg("--root").arg(machine.path()).arg("--undo").arg(undo(machine)).arg(profile).args(arguments);
    command.env("SLUICE", env!("CARGO_BIN_EXE_sluice")).env("ETHTOOL", machine.ethtool(ethtool_exit));
    command.output().unwrap()
}

fn undo(machine: &Machine) -> PathBuf {
    machine.path().join("run/undo")
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tuning").join(name)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
