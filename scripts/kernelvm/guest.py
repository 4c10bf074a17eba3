"""One run of the test binaries: in a guest under emulation, or on the host."""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from . import report
from .images import search_path

# virtme-ng mounts empty file systems over these: what the tests need from below them is passed in by name.
HIDDEN = ("/tmp", "/run", "/var/tmp", "/var/log", "/var/cache", "/dev/shm")
# Where the guest sees the run's directory: in its own /tmp, so that no directory passed in by name can cover it.
GUEST_OUT = Path("/tmp/sluice-run")
PASSED_ENVIRONMENT = ("SLUICE_", "PROPTEST_", "RUST_")


class Machine:
    """An emulated x86 machine with the host's file system as its root."""

    def __init__(self, project, cache, icount, timeout_seconds):
        self.project = project
        self.cache = cache
        self.icount = icount
        self.timeout_seconds = timeout_seconds

    def run(self, name, image, tools, jobs):
        """Boots `image`, runs `jobs` there, prints and hands back what came of it."""
        runs = self.cache / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=runs) as directory:
            out = Path(directory)
            counted = {"SLUICE_ICOUNT": "1"} if self.icount else {}
            write_job(out, GUEST_OUT, self.project, jobs, {"SLUICE_EXPECT_KTLS": "1", "SLUICE_KERNEL_GUEST": "1", **counted}, image.skip)
            print(f"\nbooting {image.release}{' with instruction-counted clocks' if self.icount else ''}", flush=True)
            timed_out = self._boot(image, tools, jobs, out)
            return report.collect(name, image.release, jobs, out, timed_out, out / "console")

    def command(self, image, tools, arguments, kept):
        """Boots `image` and runs one command there, which finds GUEST_OUT writable. What it leaves there is moved to
        `kept`; hands back its output and its exit status, which is none when it did not come to its end."""
        runs = self.cache / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="command-", dir=runs) as directory:
            out = Path(directory)
            results = out / "results"
            results.mkdir()
            lines = prologue(GUEST_OUT, self.project, {"SLUICE_ICOUNT": "1"} if self.icount else {})
            lines.append(f"{shlex.join(map(str, arguments))} > {GUEST_OUT}/log 2>&1 < /dev/null")
            lines.append(f"echo $? > {GUEST_OUT}/status")
            (out / "job").write_text("\n".join(lines) + "\n", encoding="utf-8")
            print(f"booting {image.release}{' with instruction-counted clocks' if self.icount else ''}", flush=True)
            self._boot(image, tools, [], out)
            status = report.read(out / "status").strip()
            if not status:
                print(report.read(out / "console"), flush=True)
            kept.mkdir(parents=True, exist_ok=True)
            for path in results.iterdir():
                shutil.copy2(path, kept / path.name)
            return report.read(out / "log"), int(status) if status else None

    def _boot(self, image, tools, jobs, out):
        command = [str(tools / "vng"), "--run", str(image.kernel), "--disable-kvm", "--user", "root", "--memory", "2G",
                   "--cpus", "1" if self.icount else "2", "--rwdir", f"{GUEST_OUT}={out}"]
        if self.icount:
            command += ["--qemu-opts=-icount shift=0,sleep=off"]
        for directory in sorted({self.project, self.cache, *(job.binary.parent for job in jobs)}):
            if str(directory).startswith(tuple(f"{hidden}/" for hidden in HIDDEN)):
                command += ["--rodir", str(directory)]
        command += ["--", f"sh {GUEST_OUT / 'job'}"]
        # Without a terminal nothing that the guest prints arrives.
        terminal = ["script", "--quiet", "--return", "--command", shlex.join(command), "/dev/null"]
        environment = {**os.environ, "PATH": f"{tools}:{search_path()}"}
        with open(out / "console", "wb") as console:
            return wait(terminal, environment, out, console, self.timeout_seconds)


def run_on_host(project, cache, jobs, timeout_seconds):
    """Runs `jobs` on the host's own kernel, which has TLS."""
    runs = cache / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="host-", dir=runs) as directory:
        out = Path(directory)
        write_job(out, out, project, jobs, {"SLUICE_EXPECT_KTLS": "1"})
        print("\nthis machine's own kernel has TLS, running natively", flush=True)
        with open(out / "console", "wb") as console:
            timed_out = wait(["sh", str(out / "job")], dict(os.environ), out, console, timeout_seconds)
        return report.collect("host", os.uname().release, jobs, out, timed_out, out / "console")


def write_job(out, seen_as, project, jobs, variables, skip=()):
    """Writes the shell script that the guest runs, which sees the directory `out` as `seen_as`. Neither output nor exit
    status leave the guest but by files."""
    lines = prologue(seen_as, project, variables)
    for index, job in enumerate(jobs):
        settings = [f"{key}={value}" for key, value in job.environment.items()]
        left_out = (*job.skip, *(skip if job.obeys_kernel else ()))
        arguments = [*([job.filter] if job.filter else []), *(part for name in left_out for part in ("--skip", name))]
        if job.show_output:
            arguments.append("--show-output")
        command = shlex.join(["env", *settings, str(job.binary), *arguments])
        log, status = (shlex.quote(str(seen_as / f"{index}.{kind}")) for kind in ("log", "status"))
        lines += [f"{command} > {log} 2>&1 < /dev/null", f"echo $? > {status}"]
    lines.append(f"dmesg > {shlex.quote(str(seen_as / 'dmesg'))} 2>/dev/null")
    (out / "job").write_text("\n".join(lines) + "\n", encoding="utf-8")


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


def wait(command, environment, cwd, console, timeout_seconds):
    """Runs `command` to its end; whether it had to be stopped because it took too long."""
    process = subprocess.Popen(command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=console,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try:
        process.wait(timeout=timeout_seconds)
        return False
    except subprocess.TimeoutExpired:
        return True
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
