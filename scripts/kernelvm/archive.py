"""Packages of Debian's archive, through lists of our own: the machine's sources stay as they are."""

import re
import shutil
import subprocess

from .errors import Problem

DISTRIBUTION = re.compile(r"(bullseye|bookworm|trixie|forky|sid|oldstable|stable|testing|unstable)(-updates)?$")


class Archive:
    """The packages of some suites, fetched into a directory. Suites named *-security come from the security archive."""

    def __init__(self, directory, suites):
        self.directory = directory
        self.suites = suites
        self.options = None

    def names(self):
        """The names of all packages."""
        return run(["apt-cache", *self._apt(), "pkgnames"], capture=True).split()

    def unpack(self, packages, target):
        """Puts the files of these packages below `target`; none of their scripts run, and nothing is installed."""
        downloads = fresh(self.directory / "packages")
        run(["apt-get", *self._apt(), "--quiet=2", "-o", "APT::Sandbox::User=root", "download", *packages], cwd=downloads)
        for package in downloads.glob("*.deb"):
            run(["dpkg", "-x", package, target])
        shutil.rmtree(downloads)

    def _apt(self):
        if self.options is None:
            root = self.directory / "apt"
            for part in ("lists/partial", "cache/archives/partial"):
                (root / part).mkdir(parents=True, exist_ok=True)
            sources = root / "sources.list"
            sources.write_text("".join(self._sources()), encoding="utf-8")
            settings = {"Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "/dev/null",
                        "Dir::State::lists": root / "lists", "Dir::Cache": root / "cache",
                        "Acquire::Languages": "none"}
            self.options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
            run(["apt-get", *self.options, "--quiet=2", "update"])
        return self.options

    def _sources(self):
        archive, security = mirrors()
        for suite in self.suites:
            yield f"deb {security if suite.endswith('-security') else archive} {suite} main\n"


def mirrors():
    """The addresses of the Debian archive and of its security archive, from this machine's apt configuration."""
    listing = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)"], capture=True)
    targets = [line.split(" ", 1) for line in listing.splitlines() if " " in line]
    archive = next((uri for release, uri in targets if DISTRIBUTION.match(release)), None)
    security = next((uri for release, uri in targets if release.endswith("-security")), None)
    if not (archive and security):
        raise Problem("this machine's apt configuration names no Debian archive and security archive to fetch from")
    return archive, security


def fresh(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def run(command, capture=False, **options):
    """Runs a command; its output is shown when it fails, and handed back when asked for."""
    command = [str(part) for part in command]
    try:
        done = subprocess.run(command, text=True, check=False, stdout=subprocess.PIPE if capture else None,
                              stderr=subprocess.STDOUT if capture else None, **options)
    except FileNotFoundError:
        raise Problem(f"{command[0]} is not on PATH; packages are fetched with Debian's tools") from None
    if done.returncode != 0:
        raise Problem(f"{' '.join(command)} failed ({done.returncode})\n{done.stdout or ''}")
    return done.stdout
