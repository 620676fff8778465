"""Docker and podman inside the virtual machine, and an image of this machine's own files: there is no registry.

The image is all but empty. Whoever runs it mounts /usr and detbuild's library, which is not what docs/daemon.md has to
say; all other options are the claims' own.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hand import PLACE
from table import Lacking

IMAGE = "detbuild-tests"
USER = 1000  # an ordinary one of the image
NAME, OUTSIDE = "detbuild-user", 61001  # one of the machine
HOME = Path("/run/detbuild-rootless")  # that one's

_PLACE = Path("/run/detbuild-containers")
_PATH = "/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COMMANDS = {"detbuild": "detbuild", "detbuildd": "detbuild.daemon"}
_MOUNTS = ("-v", "/usr:/usr:ro", "-v", f"{PLACE}:{PLACE}:ro")
_SECONDS = 500  # for one command: an emulated machine starts a container in about ten


@dataclass(frozen=True)
class Manager:
    """``command`` is docker or podman with its places, ``environment`` what it needs beside them."""

    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def run(self, *command: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """A command in a container of its own, which has no network."""
        return self.ask("run", "--rm", "--network", "none", *_MOUNTS, *options, IMAGE, *command)

    def start(self, name: str, *command: str, options: Sequence[str] = ()) -> None:
        """The same in the background, until ``ask("stop", name)`` or ``ask("kill", name)``."""
        done = self.ask("run", "-d", "--name", name, "--network", "none", *_MOUNTS, *options, IMAGE, *command)
        assert done.returncode == 0, done.stdout + done.stderr

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *words], capture_output=True, text=True, check=False, timeout=_SECONDS, cwd="/",
            env={"PATH": _PATH, "HOME": "/root", **dict(self.environment)},
        )  # fmt: skip

    def load(self) -> Manager:
        """This one, which has the image."""
        changes = [f"ENV PATH={_PATH}", f"ENV PYTHONPATH={PLACE / 'lib'}", "ENV PYTHONDONTWRITEBYTECODE=1"]
        words = [word for change in changes for word in ("--change", change)]
        done = self.ask("import", *words, str(_image()), IMAGE)
        assert done.returncode == 0, done.stdout + done.stderr
        return self


@cache
def docker() -> Manager:
    """With a daemon of its own, which ends with the machine. Raises Lacking."""
    _needs("dockerd", "docker.io")
    _needs("apparmor_parser", "apparmor")  # no container starts without, where the kernel has AppArmor
    # What it asks of netfilter and of a bridge has no part in what is claimed.
    command = ["dockerd", "--bridge=none", "--iptables=false", "--storage-driver=vfs", f"--data-root={_PLACE}/docker"]
    # The first docker in the path may be another release's client.
    manager = Manager((str(_needs("docker", "docker.io")),))
    _PLACE.mkdir(exist_ok=True)
    with (_PLACE / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
    end = time.monotonic() + _SECONDS
    while manager.ask("version").returncode:
        said = (_PLACE / "dockerd.log").read_text(errors="replace")[-2000:]
        assert daemon.poll() is None, f"dockerd ended: {said}"
        assert time.monotonic() < end, f"dockerd does not serve: {said}"
        time.sleep(1)
    return manager.load()


@cache
def podman() -> Manager:
    """Root's. Raises Lacking."""
    return Manager((*_podman(), *_places(_PLACE / "podman"))).load()


@cache
def rootless() -> Manager:
    """An ordinary user's podman; the user is in the group. Raises Lacking."""
    command = _podman()
    _needs("newuidmap", "uidmap")
    # By hand: useradd wants to replace /etc/shadow, which the machine has mounted.
    _append("/etc/passwd", f"{NAME}:x:{OUTSIDE}:{OUTSIDE}::{HOME}:/bin/sh")
    for path in ("/etc/subuid", "/etc/subgid"):
        _append(path, f"{NAME}:1000000:65536")
    runtime = HOME / "runtime"
    runtime.mkdir(mode=0o700, parents=True)
    for directory in (HOME, runtime):
        os.chown(directory, OUTSIDE, OUTSIDE)
    become = ("setpriv", f"--reuid={OUTSIDE}", f"--regid={OUTSIDE}", "--groups=detbuild", "--")
    environment = (("HOME", str(HOME)), ("XDG_RUNTIME_DIR", str(runtime)))
    return Manager((*become, *command, *_places(HOME / "podman")), environment).load()


def _append(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(f"{line}\n")


def _podman() -> tuple[str, ...]:
    for program in ("crun", "runc"):
        _needs(program, program)
    return (str(_needs("podman", "podman")), "--cgroup-manager=cgroupfs", "--events-backend=file")


def _places(top: Path) -> tuple[str, ...]:
    return ("--storage-driver=vfs", f"--root={top}/root", f"--runroot={top}/run", f"--tmpdir={top}/tmp")


def _needs(program: str, package: str) -> Path:
    found = shutil.which(program, path=_PATH)
    if not found:
        raise Lacking(f"{program} is not installed: apt-get install {package}")
    return Path(found)


@cache
def _image() -> Path:
    """A tar of an image that has what is not below /usr."""
    _PLACE.mkdir(exist_ok=True)
    path = _PLACE / "image.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("etc", "opt", "opt/bin", "tmp", "usr"):
            _add(tar, name, tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755)
        for link in sorted(each for each in Path("/").iterdir() if each.is_symlink()):
            target = os.readlink(link)
            if target.startswith("usr/"):
                _add(tar, link.name, tarfile.SYMTYPE, target=target)
        users = f"root:x:0:0::/root:/bin/sh\nbuilder:x:{USER}:{USER}::/tmp:/bin/sh\n"
        _add(tar, "etc/passwd", content=users)
        _add(tar, "etc/group", content=f"root:x:0:\nbuilder:x:{USER}:\n")
        for name, module in _COMMANDS.items():
            _add(tar, f"opt/bin/{name}", content=f'#!/bin/sh\nexec /usr/bin/python3 -m {module} "$@"\n', mode=0o755)
    return path


def _add(
    tar: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, *, content: str = "", target: str = "",
    mode: int = 0o644,
) -> None:  # fmt: skip
    entry = tarfile.TarInfo(name)
    entry.type, entry.size, entry.linkname, entry.mode = kind, len(content), target, mode
    tar.addfile(entry, io.BytesIO(content.encode()))
