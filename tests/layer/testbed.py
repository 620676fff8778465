"""Builds with real BitBake and OE-Core, in the place that DETBUILD_OE_ROOT names, else /opt/oe.

That place holds openembedded-core, bitbake, meta-testbed and downloads, and testbed.env names the user who builds
there: BitBake refuses root. Builds go below DETBUILD_OE_BUILDS, else /var/tmp/detbuild-oe. What a test run builds is
made anew each time; the builds without detbuild are kept for the next run with the same OE-Core and BitBake.
"""

from __future__ import annotations

import fcntl
import functools
import getpass
import hashlib
import os
import pwd
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(os.environ.get("DETBUILD_OE_ROOT", "/opt/oe"))
PLACE = Path(os.environ.get("DETBUILD_OE_BUILDS", "/var/tmp/detbuild-oe")) / ROOT.name
# A class: writes down what each task that really runs has for an epoch, before its first prefunc.
TELL = """
addhandler tell
tell[eventmask] = "bb.build.TaskStarted"
python tell() {
    path = d.expand("${TMPDIR}/told")
    bb.utils.mkdirhier(path)
    with open(os.path.join(path, d.getVar("PN") + "." + e.getTask()), "w") as file:
        file.write(d.getVar("SOURCE_DATE_EPOCH"))
}
"""
CLONE = Path(__file__).resolve().parents[2]
MIT = "${COREBASE}/meta/COPYING.MIT;md5=3da9cfbcb788c80a0384361b4de20420"
HIDE_OE_CORE = 'BBMASK += "/openembedded-core/meta/recipes-"\nBBFILE_PATTERN_IGNORE_EMPTY_core = "1"\n'


@functools.cache
def builder() -> str:
    """The user who builds. Skips the test where there is no testbed, or this user cannot become that one.

    Waits for another test run in the same place to end.
    """
    if not (ROOT / "testbed.env").is_file():
        pytest.skip(f"no OE testbed in {ROOT}; name one in DETBUILD_OE_ROOT")
    found = re.search(r"^BUILDER=(\S+)", (ROOT / "testbed.env").read_text(), re.M)
    assert found
    if os.geteuid() != 0 and getpass.getuser() != found[1]:
        pytest.skip(f"only root and {found[1]} can build in {ROOT}")
    user = pwd.getpwnam(found[1])
    PLACE.mkdir(parents=True, exist_ok=True)
    os.chown(PLACE, user.pw_uid, user.pw_gid)
    # Held until this process ends.
    fcntl.flock(os.open(PLACE / ".lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644), fcntl.LOCK_EX)
    return found[1]


def give(path: Path, user_name: str = "") -> None:
    """To the builder; root's own files would stop it."""
    user = pwd.getpwnam(user_name or builder())
    for one in [path, *path.rglob("*")]:
        if not one.is_symlink():
            os.chown(one, user.pw_uid, user.pw_gid)


@functools.cache
def layer() -> Path:
    """A copy of this layer that the builder can read: the clone may lie in somebody's home."""
    copy = PLACE / "meta-detbuild"
    shutil.rmtree(copy, ignore_errors=True)
    listed = subprocess.run(
        ["git", "-C", str(CLONE), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (CLONE / name).is_file() and name.partition("/")[0] not in {"tests", "docs"}:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CLONE / name, copy / name)
    give(copy)
    return copy


class Failed(Exception):
    """BitBake ended with another code than 0; the text is the end of its output."""


class BuildDirectory:
    """A build directory of its own TMPDIR, sstate cache and hash server.

    ``recipes`` are name -> text of recipes in a layer beside it; LICENSE is added to them. ``inherit`` false builds
    without detbuild. ``everything`` takes OE-Core's own recipes in. ``user`` builds instead of the builder, on a host
    that calls itself ``host``; only root can have that.
    """

    def __init__(
        self,
        path: Path,
        conf: str = "",
        recipes: Mapping[str, str] | None = None,
        *,
        inherit: bool = True,
        everything: bool = False,
        user: str = "",
        host: str = "",
    ) -> None:
        self.path = path
        self.user, self._host = user or builder(), host
        self._inherit, self.everything = inherit, everything
        shutil.rmtree(path, ignore_errors=True)
        (path / "conf").mkdir(parents=True)
        layers = [ROOT / "openembedded-core/meta", ROOT / "meta-testbed"] + ([layer()] if inherit else [])
        if recipes:
            layers.append(self._layer(recipes))
        (path / "conf/bblayers.conf").write_text(
            f'BBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS = "{" ".join(map(str, layers))}"\n'
        )
        self.configure(conf)
        give(path, self.user)

    def configure(self, conf: str) -> None:
        """Write local.conf anew with ``conf`` at its end."""
        (self.path / "conf/local.conf").write_text(
            'CONF_VERSION = "2"\nMACHINE = "qemux86-64"\nDISTRO = "testbed"\n'
            f'DL_DIR = "{ROOT}/downloads"\nTMPDIR = "${{TOPDIR}}/tmp"\nSSTATE_DIR = "${{TOPDIR}}/sstate-cache"\n'
            'PARALLEL_MAKE = "-j 2"\nBB_NUMBER_THREADS ?= "2"\nBB_SERVER_TIMEOUT = "0"\n'
            + ("" if self.everything else HIDE_OE_CORE)
            + ('INHERIT += "detbuild"\n' if self._inherit else "")
            + conf
            + "\n"
        )

    def _layer(self, recipes: Mapping[str, str]) -> Path:
        top = self.path / "meta-cases"
        (top / "conf").mkdir(parents=True)
        (top / "conf/layer.conf").write_text(
            'BBPATH .= ":${LAYERDIR}"\nBBFILES += "${LAYERDIR}/*.bb ${LAYERDIR}/*.bbappend"\n'
            'BBFILE_COLLECTIONS += "cases"\nBBFILE_PATTERN_cases = "^${LAYERDIR}/"\n'
            'LAYERSERIES_COMPAT_cases = "wrynose blacksail"\n'
        )
        for name, text in recipes.items():
            licence = f'LICENSE = "MIT"\nLIC_FILES_CHKSUM = "file://{MIT}"\n' if name.endswith(".bb") else ""
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text(licence + text)
        return top

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """bitbake, in the background."""
        return self._shell(f"exec nice bitbake {shlex.join(arguments)}")

    def python(self, program: str, **variables: str) -> subprocess.Popen[str]:
        """A Python program that may import BitBake, with standard input open, and ``variables`` set."""
        exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in variables.items())
        return self._shell(f"{exports}exec python3 -c {shlex.quote(program)}", stdin=subprocess.PIPE, stderr=None)

    def _shell(self, command: str, **options: Any) -> subprocess.Popen[str]:
        """A command with the build environment set up."""
        become = ["runuser", "-u", self.user, "--"] if os.geteuid() == 0 else []
        if self._host:
            become = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self._host, *become]
        home = pwd.getpwnam(self.user).pw_dir
        home = home if os.path.isdir(home) else str(self.path)
        setup = f"cd {ROOT}/openembedded-core && . ./oe-init-build-env {self.path} {ROOT}/bitbake >/dev/null"
        environment = [f"HOME={home}", f"USER={self.user}", f"LOGNAME={self.user}", "TERM=dumb", "LC_ALL=en_US.UTF-8"]
        path = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return subprocess.Popen(
            [*become, "env", "-i", *environment, path, "bash", "-c", f"{setup} && umask 022 && {command}"],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options},
        )

    def bitbake(self, *arguments: str, seconds: float = 1200) -> str:
        """Run bitbake to its end; what it printed. Raises Failed."""
        return self.run(f"exec nice bitbake {shlex.join(arguments)}", seconds)

    def run(self, command: str, seconds: float = 1200) -> str:
        """Run a shell command in the build environment to its end; what it printed. Raises Failed."""
        with self._shell(command) as process:
            try:
                output = process.communicate(timeout=seconds)[0]
            except BaseException:
                process.terminate()
                raise
        self._settle()
        if process.returncode:
            raise Failed("\n".join(output.splitlines()[-40:]))
        return output

    def _settle(self) -> None:
        """The server ends after its client; until then it owns the directory's sockets and databases."""
        end = time.monotonic() + 60
        while any((self.path / name).exists() for name in ("bitbake.sock", "hashserve.sock")):
            assert time.monotonic() < end, f"BitBake's server in {self.path} does not end"
            time.sleep(0.1)

    @property
    def packages(self) -> Path:
        return self.path / "tmp/deploy/deb"

    @property
    def state(self) -> Path:
        return self.path / "cache/detbuild"

    def logs(self, recipe: str) -> Path:
        """A recipe's directory of logs, BitBake's T."""
        return next((self.path / "tmp/work").glob(f"*/{recipe}/*/temp"))

    def sstate(self) -> set[str]:
        """``recipe:task`` of every object in the sstate cache."""
        names = [path.name for path in (self.path / "sstate-cache").rglob("sstate:*.tar.zst")]
        return {f"{name.split(':')[1]}:{re.sub('^[0-9a-f]+_|.tar.zst$', '', name.split(':')[-1])}" for name in names}


Pair = tuple[BuildDirectory, BuildDirectory]
LENGTHS = ("a", "another-directory-whose-name-has-another-length")
# A third of the build's time, for the same configure script and C library as hello's.
LEFT_OUT = 'TESTBED_RECIPES:remove = "sed"'


def _pair(top: Path, inherit: bool) -> Pair:
    # In turn and not at once: they must be made at different times.
    builds = [BuildDirectory(top / name, LEFT_OUT, inherit=inherit) for name in LENGTHS]
    for build in builds:
        build.bitbake("tb-all")
    return builds[0], builds[1]


@functools.cache
def with_detbuild() -> Pair:
    """The testbed's recipes, built in two directories of different length at two times."""
    builder()
    return _pair(PLACE / "with", True)


@functools.cache
def packages_without() -> tuple[Path, Path]:
    """The same without detbuild: the two trees of packages, built once for each OE-Core and BitBake."""
    builder()
    revisions = [(ROOT / f".{name}.rev").read_text().strip()[:12] for name in ("openembedded-core", "bitbake")]
    kept = PLACE / "without" / "-".join([*revisions, hashlib.sha256(LEFT_OUT.encode()).hexdigest()[:8]])
    if not (kept / "done").exists():
        shutil.rmtree(kept, ignore_errors=True)
        for build in _pair(PLACE / "without" / "builds", False):
            shutil.copytree(build.packages, kept / build.path.name)
        shutil.rmtree(PLACE / "without" / "builds")
        (kept / "done").touch()
    return kept / LENGTHS[0], kept / LENGTHS[1]
