"""Turns what a run left behind into the usual test output and a verdict."""

import re
from dataclasses import dataclass

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)
WARNING = re.compile(r"BUG:|Oops|KASAN|general protection|WARNING: .*net/tls|refcount_t|Call Trace")


@dataclass
class Outcome:
    """What came of one kernel."""

    name: str
    passed: int = 0
    failed: int = 0
    ignored: int = 0
    problems: tuple = ()


def collect(name, release, jobs, out, timed_out):
    """Prints the logs of one run and counts its tests."""
    outcome, problems, seconds = Outcome(name), [], 0.0
    booted = read(out / "release").strip()
    if booted != release:
        problems.append(f"the guest did not run (its kernel says {booted!r})")
    if timed_out:
        problems.append("the run hung and was stopped")
    for index, job in enumerate(jobs):
        log, status = read(out / f"{index}.log"), read(out / f"{index}.status").strip()
        took = taken_seconds(out, index)
        seconds += took
        print(f"\n     Running {job.name} on {name}: {took:.0f} s\n{log.rstrip()}", flush=True)
        results = RESULT.findall(log)
        for passed, failed, ignored in results:
            outcome.passed += int(passed)
            outcome.failed += int(failed)
            outcome.ignored += int(ignored)
        if not results or status not in ("0", "101"):
            problems.append(f"{job.name} did not come to its end (exit status {status or 'none'})")
    if outcome.passed + outcome.failed == 0:
        problems.append("no test ran")
    complaints = [line for line in read(out / "dmesg").splitlines() if WARNING.search(line)]
    if complaints:
        problems.append("the kernel complained: " + "; ".join(complaints[:5]))
    if problems:
        print(f"\n---- console of {name}\n{read(out / 'console').rstrip()}\n---- end of console", flush=True)
    for problem in problems:
        print(f"kernel {name}: {problem}", flush=True)
    outcome.problems = tuple(problems)
    print(f"kernel {name} ({release}): {outcome.passed} passed, {outcome.failed} failed, {outcome.ignored} ignored "
          f"in {seconds:.0f} s", flush=True)
    return outcome


def taken_seconds(out, index):
    """How long a job took, by the clock of the machine that ran it; 0 when it did not come to its end."""
    begun, ended = (read(out / f"{index}.{kind}").split() for kind in ("begun", "ended"))
    return float(ended[0]) - float(begun[0]) if begun and ended else 0.0


def total(outcomes):
    """Prints the closing line; the exit status."""
    passed, failed = (sum(getattr(outcome, kind) for outcome in outcomes) for kind in ("passed", "failed"))
    broken = [outcome.name for outcome in outcomes if outcome.problems]
    print(f"\ntest-kernel: {passed} passed, {failed} failed"
          + (f"; not trustworthy: {', '.join(broken)}" if broken else ""), flush=True)
    return 1 if failed or broken or not outcomes else 0


def read(path):
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
