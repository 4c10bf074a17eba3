"""One run of the test binaries: in a guest under emulation, or on the host."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from . import report
from .images import search_path

# virtme-ng mounts empty file systems over these: what the tests need from below them is passed in by name.
HIDDEN = ("/tmp", "/run", "/var/tmp", "/var/log", "/var/cache", "/dev/shm")
# Where the guest sees the run's directory: in its own /tmp, so that no directory passed in by name can cover it.
GUEST_OUT = Path("/tmp/sluice-run")
# What a guest has, and what the emulator takes beside it.
MEMORY_MIB = 2048
SPARE_MIB = 512
PASSED_ENVIRONMENT = ("SLUICE_", "PROPTEST_", "RUST_")
# The emulator runs `rep movsb` byte by byte, and both the kernel and libc copy with it where the processor calls it fast.
TEST_PROCESSOR = "max,-erms,-fsrm"
# What most tests start, beside the folder of the test binaries.
PROXY = "sluice"


class Machine:
    """An emulated x86 machine with the host's file system as its root.

    Its clock advances 1 ns per instruction, so that neither the emulation nor whatever else the host does is slow for the
    guest: no time-out passes early there. While it waits, time passes as on the host; with `icount` it does not pass at
    all, which is right for measuring and wrong for tests, because files of the host may take their time."""

    def __init__(self, project, cache, icount, timeout_seconds):
        self.project = project
        self.cache = cache
        self.icount = icount
        self.timeout_seconds = timeout_seconds

    def run(self, images, tools, jobs):
        """Boots these images, which have names, runs `jobs` there, prints and hands back what came of each. As many run
        side by side as the host has processors and memory for: a test waits for its peer most of the time."""
        names = list(images)
        at_once = min(len(names), self._at_once())
        if at_once < len(names):
            print(f"memory or processors for {at_once} of {len(names)} guests: one after the other", flush=True)
        outcomes = []
        for first in range(0, len(names), at_once):
            with contextlib.ExitStack() as stack:
                guests = [stack.enter_context(self._guest(name, images[name], tools, jobs))
                          for name in names[first:first + at_once]]
                outcomes += [guest.outcome(jobs) for guest in guests]
        return outcomes

    def _at_once(self):
        by_memory = available_mib() // (MEMORY_MIB + SPARE_MIB)
        return max(1, min(by_memory, len(os.sched_getaffinity(0))))

    @contextlib.contextmanager
    def _guest(self, name, image, tools, jobs):
        """A guest that runs `jobs`; left, it is stopped."""
        with self._directory(name) as out:
            counted = {"SLUICE_ICOUNT": "1"} if self.icount else {}
            write_job(out, GUEST_OUT, self.project, jobs,
                      {"SLUICE_EXPECT_KTLS": "1", "SLUICE_KERNEL_GUEST": "1", **counted}, image.skip)
            with self._booted(image, tools, jobs, out) as process:
                yield Guest(name, image.release, out, process)

    @contextlib.contextmanager
    def _directory(self, name):
        runs = self.cache / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=runs) as directory:
            yield Path(directory)

    def command(self, image, tools, arguments, kept):
        """Boots `image` and runs one command there, which finds GUEST_OUT writable. What it leaves there is moved to
        `kept`; hands back its output and its exit status, which is none when it did not come to its end."""
        with self._directory("command") as out:
            results = out / "results"
            results.mkdir()
            lines = prologue(GUEST_OUT, self.project, {"SLUICE_ICOUNT": "1"} if self.icount else {})
            lines.append(f"{shlex.join(map(str, arguments))} > {GUEST_OUT}/log 2>&1 < /dev/null")
            lines.append(f"echo $? > {GUEST_OUT}/status")
            (out / "job").write_text("\n".join(lines) + "\n", encoding="utf-8")
            with self._booted(image, tools, [], out) as process:
                process.wait()
            status = report.read(out / "status").strip()
            if not status:
                print(report.read(out / "console"), flush=True)
            kept.mkdir(parents=True, exist_ok=True)
            for path in results.iterdir():
                shutil.copy2(path, kept / path.name)
            return report.read(out / "log"), int(status) if status else None

    def _booted(self, image, tools, jobs, out):
        print(f"booting {image.release}{' with instruction-counted clocks' if self.icount else ''}", flush=True)
        # What is measured is measured on the processor that the figures so far come from.
        emulated = "-icount shift=0,sleep=off" if self.icount else f"-cpu {TEST_PROCESSOR} -icount shift=0,sleep=on"
        command = [str(tools / "vng"), "--run", str(image.kernel), "--disable-kvm", "--user", "root",
                   "--memory", f"{MEMORY_MIB}M", "--cpus", "1", "--rwdir", f"{GUEST_OUT}={out}",
                   f"--qemu-opts={emulated}"]
        for directory in sorted({self.project, self.cache, *(job.binary.parent for job in jobs)}):
            if str(directory).startswith(tuple(f"{hidden}/" for hidden in HIDDEN)):
                command += ["--rodir", str(directory)]
        command += ["--", f"sh {GUEST_OUT / 'job'}"]
        # Without a terminal nothing that the guest prints arrives.
        terminal = ["script", "--quiet", "--return", "--command", shlex.join(command), "/dev/null"]
        environment = {**os.environ, "PATH": f"{tools}:{search_path()}"}
        return running(terminal, environment, out, self.timeout_seconds)


class Guest:
    """A booted machine."""

    def __init__(self, name, release, out, process):
        self.name = name
        self.release = release
        self.out = out
        self.process = process

    def outcome(self, jobs):
        """Waits for its end, prints what came of it and hands it back."""
        timed_out = not self.process.wait()
        return report.collect(self.name, self.release, jobs, self.out, timed_out)


def run_on_host(project, cache, jobs, timeout_seconds):
    """Runs `jobs` on the host's own kernel, which has TLS."""
    runs = cache / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="host-", dir=runs) as directory:
        out = Path(directory)
        write_job(out, out, project, jobs, {"SLUICE_EXPECT_KTLS": "1"})
        print("\nthis machine's own kernel has TLS, running natively", flush=True)
        with running(["sh", str(out / "job")], dict(os.environ), out, timeout_seconds) as process:
            return Guest("host", os.uname().release, out, process).outcome(jobs)


def available_mib():
    """Memory that the host can give without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


def write_job(out, seen_as, project, jobs, variables, skip=()):
    """Writes the shell script that the guest runs, which sees the directory `out` as `seen_as`. Neither output nor exit
    status leave the guest but by files."""
    lines = prologue(seen_as, project, variables)
    if "SLUICE_KERNEL_GUEST" in variables:
        lines += keep_in_memory(job.binary.parent.parent / PROXY for job in jobs)
    for index, job in enumerate(jobs):
        settings = [f"{key}={value}" for key, value in job.environment.items()]
        left_out = (*job.skip, *(skip if job.obeys_kernel else ()))
        arguments = [*([job.filter] if job.filter else []), *(part for name in left_out for part in ("--skip", name))]
        if job.show_output:
            arguments.append("--show-output")
        command = shlex.join(["env", *settings, str(job.binary), *arguments])
        log, status = (shlex.quote(str(seen_as / f"{index}.{kind}")) for kind in ("log", "status"))
        begun, ended = (shlex.quote(str(seen_as / f"{index}.{kind}")) for kind in ("begun", "ended"))
        lines += [f"cat /proc/uptime > {begun}", f"{command} > {log} 2>&1 < /dev/null", f"echo $? > {status}",
                  f"cat /proc/uptime > {ended}"]
    lines.append(f"dmesg > {shlex.quote(str(seen_as / 'dmesg'))} 2>/dev/null")
    (out / "job").write_text("\n".join(lines) + "\n", encoding="utf-8")


def keep_in_memory(programs):
    """Lines that put a copy in the guest's memory over each of these programs: the host's files are read anew with each
    start, which takes longer than all that a short test does."""
    lines = []
    for number, program in enumerate(sorted({program for program in programs if program.is_file()})):
        copy, place = f"/tmp/program-{number}", shlex.quote(str(program))
        lines.append(f"dd if={place} of={copy} bs=1M status=none && chmod 755 {copy} && mount --bind {copy} {place}")
    return lines


def prologue(seen_as, project, variables):
    """The first lines of a job: modules, the kernel's own word on itself, and the environment."""
    passed = {key: value for key, value in os.environ.items() if key.startswith(PASSED_ENVIRONMENT)}
    # Machines load the driver of their CPU's AES when they start; without it the kernel takes a slow one in C.
    lines = ["modprobe aesni_intel 2>/dev/null", "modprobe tls 2>/dev/null",
             f"uname -r > {shlex.quote(str(seen_as / 'release'))}", f"cd {shlex.quote(str(project))}"]
    lines += [f"export {key}={shlex.quote(value)}" for key, value in {**passed, **variables}.items()]
    if "SLUICE_ICOUNT" in variables:
        # The kernel tests what it has loaded, and one processor has to do that too. Idle time passes at once here.
        lines.append("sleep 300")
    return lines


class Running:
    """A process that was started, and how long it may take."""

    def __init__(self, process, timeout_seconds):
        self.process = process
        self.deadline = time.monotonic() + timeout_seconds

    def wait(self):
        """Whether it came to its end in time."""
        try:
            self.process.wait(timeout=max(0, self.deadline - time.monotonic()))
            return True
        except subprocess.TimeoutExpired:
            return False


@contextlib.contextmanager
def running(command, environment, out, timeout_seconds):
    """Starts `command` in the directory `out`, with its output in the file `console`; left, it is stopped."""
    with open(out / "console", "wb") as console:
        process = subprocess.Popen(command, env=environment, cwd=out, stdin=subprocess.DEVNULL, stdout=console,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield Running(process, timeout_seconds)
        finally:
            # The emulator runs in a session of its own below `script`: hanging up the terminal ends it.
            if process.poll() is None:
                stop(process)


def stop(process):
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(timeout=10)
            return
        except subprocess.TimeoutExpired:
            continue
