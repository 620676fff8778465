"""Whether a program serves a directory, told without a question to that program."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detbuild.linux import mounts, proc
from detbuild.linux.mounts import Mounts

_LINE = b"%s 25 0:99 / /mnt\\040-\\040fuse rw,relatime shared:7 - %s source rw\n"


def mount_id(descriptor: int) -> bytes:
    return proc.read("self", f"fdinfo/{descriptor}").partition(b"mnt_id:")[2].split()[0]


@pytest.mark.parametrize(
    ("kind", "served"),
    [(b"fuse", True), (b"fuse.bindfs", True), (b"fuseblk", True), (b"fuseblk.ntfs", True)]
    + [(b"fusectl", False), (b"ext4", False), (b"overlay", False)],
)
def test_the_kind_of_the_mount_of_another_namespace_decides(
    kind: bytes, served: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor, here = os.open(tmp_path, os.O_RDONLY), Mounts()
    own, read = mount_id(descriptor), proc.read
    here._lines.pop(own)
    asked = []

    def told(pid: int | str, name: str) -> bytes:
        if name != "mountinfo":
            return read(pid, name)
        asked.append(pid)
        return _LINE % (b"1" + own, b"fuse") + _LINE % (own, kind)

    monkeypatch.setattr(proc, "read", told)
    assert here.served(descriptor, 10007) is served
    assert asked == [10007]
    os.close(descriptor)


def test_what_was_served_before_is_no_program_of_the_sessions(tmp_path: Path) -> None:
    descriptor, here = os.open(tmp_path, os.O_RDONLY), Mounts()
    own = mount_id(descriptor)
    here._lines[own] = _LINE.strip() % (own, b"fuse")
    assert here.served(descriptor, os.getpid())
    here._first |= {here._lines[own]}
    assert not here.served(descriptor, os.getpid())
    os.close(descriptor)


def test_no_directory_of_this_machines_own_is_taken_for_a_served_one(tmp_path: Path) -> None:
    mounts.begin()
    for place in (tmp_path, "/", "/proc", "/dev"):
        descriptor = os.open(place, os.O_RDONLY)
        assert not mounts.served(descriptor, os.getpid())
        os.close(descriptor)
