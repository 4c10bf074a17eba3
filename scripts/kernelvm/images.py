"""Fetches kernels and virtme-ng, once, into the cache. Nothing is installed except missing tools, and those as root."""

import fcntl
import importlib.util
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from .archive import Archive, fresh, run
from .errors import Problem

# Program -> the Debian package that has it.
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "modprobe": "kmod",
    "busybox": "busybox-static",
    "script": "bsdutils",
    "file": "file",
}


@dataclass(frozen=True)
class Image:
    """An unpacked kernel."""

    release: str
    kernel: Path
    # Tests of the relay that cannot hold on it.
    skip: tuple = ()


class Cache:
    """The cache directory, locked against other runs while it is filled."""

    def __init__(self, directory, config):
        self.directory = directory
        self.config = config
        suites = [section["suite"] for section in config.values() if section.get("suite")]
        self.archive = Archive(directory, suites)

    def __enter__(self):
        if platform.machine() != "x86_64":
            raise Problem(f"the kernels are x86_64 ones, this machine is {platform.machine()}")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.directory / "lock", "w", encoding="ascii")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        install_missing_tools()
        return self

    def __exit__(self, *_):
        self.lock.close()

    def tools(self):
        """The directory with virtme-ng's programs, in an environment of its own."""
        version = self.config["virtme-ng"]["version"]
        venv = self.directory / f"virtme-ng-{version}"
        # Its programs name their interpreter by path: a finished one is marked with where it was made.
        marker = venv / "complete"
        if not marker.is_file() or marker.read_text(encoding="utf-8") != str(venv):
            print(f"installing virtme-ng {version} into {venv}", flush=True)
            run([sys.executable, "-m", "venv", fresh(venv)])
            run([venv / "bin" / "pip", "install", "--quiet", f"virtme-ng=={version}"])
            marker.write_text(str(venv), encoding="utf-8")
        return venv / "bin"

    def kernel(self, name):
        """The kernel with this name in kernels.conf, fetched when the cache lacks it."""
        section = self.config[name]
        pinned = section["release"]
        if not self._unpacked(section, pinned).kernel.is_file():
            release = self._available(section, pinned)
            if not self._unpacked(section, release).kernel.is_file():
                self._fetch(section, release)
            return self._unpacked(section, release)
        return self._unpacked(section, pinned)

    def _unpacked(self, section, release):
        kernel = self.directory / release / section["image"].format(release=release)
        return Image(release, kernel, tuple(section.get("skip", "").split()))

    def _available(self, section, pinned):
        """The pinned release, or the newest of its series when the archive has dropped it."""
        first = section["packages"].split()[0]
        series = re.escape(first).replace(r"\{release\}", r"(\d+\.\d+)\.(\d+)" + re.escape(flavour(pinned))) + "$"
        found = [re.match(series, name) for name in self.archive.names()]
        patches = [int(match[2]) for match in found if match and pinned.startswith(match[1] + ".")]
        newest = max(patches, default=None)
        if newest is None:
            raise Problem(f"{section['suite']} has no release of the series of {pinned} any more; "
                          "choose another in scripts/kernels.conf")
        if int(pinned.split(".")[2].split("+")[0]) in patches:
            return pinned
        release = f"{'.'.join(pinned.split('.')[:2])}.{newest}{flavour(pinned)}"
        print(f"warning: {section['suite']} has no {pinned} any more, taking {release}; "
              "update scripts/kernels.conf", flush=True)
        return release

    def _fetch(self, section, release):
        target = self.directory / release
        partial = fresh(target.with_suffix(".partial"))
        names = section["packages"].format(release=release).split()
        print(f"fetching kernel {release}", flush=True)
        self.archive.unpack(names, partial)
        depmod(partial, release)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)


def install_missing_tools():
    missing = {package for program, package in TOOLS.items() if not shutil.which(program, path=search_path())}
    if importlib.util.find_spec("ensurepip") is None:
        missing.add("python3-venv")
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *sorted(missing)]
    if os.geteuid() != 0:
        raise Problem(f"missing tools; as root: {' '.join(command)}")
    print(f"installing {' '.join(sorted(missing))}", flush=True)
    run(["apt-get", "--quiet=2", "update"])
    run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, capture=True)


def depmod(root, release):
    """Writes the modules' index; packages leave that to their installation."""
    modules = next(path for path in (root / "lib/modules", root / "usr/lib/modules") if path.is_dir())
    # depmod looks below lib/modules only.
    base = modules.parent.parent
    run([shutil.which("depmod", path=search_path()), "--basedir", base, release])


def search_path():
    """PATH with the system directories that a user's PATH may lack."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def flavour(release):
    return release[release.index("+"):]
