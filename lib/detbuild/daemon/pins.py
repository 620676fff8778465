# SPDX-License-Identifier: MIT
"""The pins of sets of BPF programs: a directory each, in a BPF file system.

A set's own name, its *generation*, is only ever that of a complete one: what is being built or removed has another, so
that the next daemon knows what one that was killed left in the middle. No name has a dot: that file system allows none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detbuild.bpf import layout
from detbuild.daemon.loader import TRACING, change_kprobes, group
from detbuild.daemon.lock import take
from detbuild.daemon.preemption import urgent
from detbuild.errors import EngineUnavailable
from detbuild.linux import bpf

BUILDING, REMOVING = "building_", "removing_"
_KINDS = ("maps", "programs", "links")
_LETS_GO = 5.0  # seconds in which the kernel frees the links whose pins are gone
_AGAIN = 0.01  # seconds


@contextmanager
def usable(top: Path) -> Iterator[None]:
    """Make the directory of all sets. Raises EngineUnavailable, also for an OSError within."""
    try:
        _prepare(top)
        yield
    except OSError as error:
        raise EngineUnavailable(
            f"the BPF file system cannot be used ({error})",
            cause="the daemon must be root of the machine itself, outside any container",
            remedy=f"mount -t bpf bpf {top.parent}, as root",
        ) from error


def lock(top: Path) -> int:
    """A descriptor that keeps a second daemon from the sets, as long as it is open. Raises DaemonError, OSError.

    It is of the directory itself, since a BPF file system holds no files.
    """
    return take(os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), top)


def _prepare(top: Path) -> None:
    for path in (top, *top.parents):
        if path.is_dir() and _file_system(path) == "bpf":
            break
    else:
        subprocess.run(["mount", "-t", "bpf", "bpf", str(top.parent)], check=False, capture_output=True)
    top.mkdir(mode=0o700, exist_ok=True)


def _file_system(path: Path) -> str:
    best = ("", "")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if len(place) >= len(best[0]) and (path == Path(place) or Path(place) in path.parents):
            best = (place, kind)
    return best[1]


def generation(place: Path) -> str:
    """Whose pins these are, complete or not."""
    return place.name.removeprefix(BUILDING).removeprefix(REMOVING)


def complete(place: Path) -> bool:
    """Whether a set of this ``layout.shape`` lacks nothing: whoever may write there may have taken a part away."""
    try:
        maps, programs, links = ({path.name for path in (place / kind).iterdir()} for kind in _KINDS)
    except FileNotFoundError:
        return False
    return layout.MAPS.keys() <= maps and bool(links) and links == programs


def holds(place: Path) -> bool:
    """Whether a set, of whatever release, has a process in a session. Raises OSError where that cannot be told."""
    try:
        processes = bpf.get(str(place / "maps" / "processes"))
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        with urgent():
            return not bpf.empty(processes)
    finally:
        os.close(processes)


def retire(place: Path) -> Path:
    """Take a set's name from what is to be removed, and return the name that it has instead."""
    going = place.with_name(REMOVING + generation(place))
    if place != going:
        shutil.rmtree(going, ignore_errors=True)
        with contextlib.suppress(OSError):
            place.rename(going)
    return going


def remove(place: Path) -> None:
    """Detach and unpin a set, complete or not. Its directory goes last: the next daemon ends what was begun here."""
    going = retire(place)
    for part in list(going.glob("*")):
        shutil.rmtree(part, ignore_errors=True)
    _forget(generation(going))
    shutil.rmtree(going, ignore_errors=True)


def kprobes(generation: str) -> list[str]:
    """The probes of a set, as GROUP/NAME: none where it is of fexit programs."""
    try:
        lines = (TRACING / "kprobe_events").read_text().splitlines()
    except OSError:
        return []
    names = [line.split()[0].partition(":")[2] for line in lines]
    return [name for name in names if name.startswith(group(generation) + "/")]


def _forget(generation: str) -> None:
    """Remove a set's kprobes. Each is busy until its link is freed, which is some time after its pin is gone."""
    end = time.monotonic() + _LETS_GO
    while events := kprobes(generation):
        for event in events:
            with contextlib.suppress(OSError):
                change_kprobes(f"-:{event}")
        if time.monotonic() > end:
            return
        time.sleep(_AGAIN)
