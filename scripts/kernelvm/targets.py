"""Which test binaries run, with which filter and which settings."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from .errors import Problem


@dataclass(frozen=True)
class Job:
    """One run of a test binary."""

    name: str
    binary: Path
    filter: Optional[str]
    environment: dict = field(default_factory=dict)
    skip: tuple = ()
    # Whether it also leaves out what kernels.conf names in `skip` for a kernel.
    obeys_kernel: bool = False
    show_output: bool = False


# The promises of the userspace relay, held to again with the kernel's engine.
RELAY = ("relay_bodies", "relay_close", "relay_records", "relay_timeouts")
# Bodies take minutes in an emulated machine: `auto` moves them through both engines, kernel_relay_transfer has `always`.
ONE_POLICY = ("relay_bodies",)
# Far too much for an emulated machine; and handshakes that never get as far as a record of data.
RELAY_SKIP = ("256_mib", "silent_client", "trickles_its_hello")
# What the kernel does not show to us, with any version: see docs/kernel-tls.md, and kernel_relay_control for what holds.
ALWAYS_SKIP = ("flood_of_empty_records", "oversized_record_is_refused_by_its_header", "change_cipher_spec_after",
               "come_in_one_segment")
# What carries less than `auto` promotes below: it would run in userspace from beginning to end, as `cargo test` has it.
AUTO_SKIP = ("truncation_", "reset_by_", "fatal_alert", "data_behind_close_notify", "record_split", "byte_by_byte",
             "one_segment_with_the_end", "come_in_one_segment", "empty_data_records", "padding", "key_updates_of", "renegotiation",
             "forged_record", "reordered_records", "oversized_record", "change_cipher_spec_after", "idle_connection",
             "bytes_in_one_direction", "never_answers", "truncated_client")
# Those of the relay wait, and let others work meanwhile; kernel_* count what the whole kernel did, one after another.
RELAY_AT_ONCE = {"RUST_TEST_THREADS": "3"}
POLICIES = {
    "always": {"SLUICE_TEST_KERNEL_TLS": "always"},
    # Low enough for the tests' bodies to be promoted in mid-stream.
    "auto": {"SLUICE_TEST_KERNEL_TLS": "auto", "SLUICE_TEST_KERNEL_TLS_AFTER": "64KiB"},
}


def given(binaries, name_filter, show_output=False):
    """The jobs for binaries named on the command line."""
    for binary in binaries:
        if not binary.is_file():
            raise Problem(f"{binary} is not a file; build it first: cargo test --no-run")
    return [Job(binary.name, binary.resolve(), name_filter, show_output=show_output) for binary in binaries]


def build(project, name_filter):
    """Builds the project's tests and picks what touches kernel TLS: kernel_*, the unit tests below ktls::, and the
    relay's tests under each policy that promotes."""
    # The whole workspace, as `make test` builds it: one package alone unites other features of the dependencies, and
    # everything would be built again.
    command = ["cargo", "test", "--no-run", "--message-format=json-render-diagnostics", "--workspace"]
    try:
        built = subprocess.run(command, cwd=project, stdout=subprocess.PIPE, text=True, check=False)
    except FileNotFoundError:
        raise Problem("cargo is not on PATH; install the Rust toolchain or name test binaries") from None
    if built.returncode != 0:
        raise Problem(f"{' '.join(command)} failed")
    jobs = []
    for line in built.stdout.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") != "compiler-artifact" or not message.get("executable"):
            continue
        target, binary = message["target"], Path(message["executable"])
        if target["name"].startswith("kernel_"):
            jobs.append(Job(target["name"], binary, name_filter))
        elif target["name"] in RELAY:
            jobs += relay_jobs(target["name"], binary, name_filter)
        elif "lib" in target["kind"] and target["name"] == "sluice":
            jobs.append(Job(target["name"], binary, name_filter or "ktls::"))
    if not any(job.name.startswith("kernel_") for job in jobs):
        raise Problem("cargo built no test target named kernel_*")
    return sorted(jobs, key=lambda job: job.name)


def relay_jobs(name, binary, name_filter):
    """The relay's tests in `binary`, once for each policy."""
    for policy, environment in POLICIES.items():
        is_always = policy == "always"
        if is_always and name in ONE_POLICY:
            continue
        skip = RELAY_SKIP + (ALWAYS_SKIP if is_always else AUTO_SKIP)
        yield Job(f"{name} (kernel_tls = {policy})", binary, name_filter, {**environment, **RELAY_AT_ONCE}, skip, is_always)
