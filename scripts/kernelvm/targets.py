"""Which test binaries run, and with which filter."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .errors import Problem


@dataclass(frozen=True)
class Job:
    """One test binary."""

    name: str
    binary: Path
    filter: Optional[str]


def given(binaries, name_filter):
    """The jobs for binaries named on the command line."""
    for binary in binaries:
        if not binary.is_file():
            raise Problem(f"{binary} is not a file; build it first: cargo test --no-run")
    return [Job(binary.name, binary.resolve(), name_filter) for binary in binaries]


def build(project, name_filter):
    """Builds the project's tests and picks what touches kernel TLS: kernel_* and the unit tests below ktls::."""
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
        elif "lib" in target["kind"] and target["name"] == "sluice":
            jobs.append(Job(target["name"], binary, name_filter or "ktls::"))
    if not any(job.name.startswith("kernel_") for job in jobs):
        raise Problem("cargo built no test target named kernel_*")
    return sorted(jobs, key=lambda job: job.name)
