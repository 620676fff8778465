"""What a program of the session serves (FUSE): it would wait for an engine that waits for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import supervised
from results import ENGINES, run

NAMES = ["a", "b", "c"]
_LIST = 'bindfs "$1/source" "$1/mount" && ls "$1/mount" && umount "$1/mount"'


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory ``mount`` in which bindfs may show the directory ``source`` beside it."""
    if not shutil.which("bindfs") or not os.access("/dev/fuse", os.W_OK) or os.geteuid():
        pytest.skip("only root can mount what bindfs (of the package bindfs) serves by /dev/fuse")
    for name in ("source", "mount"):
        (tmp_path / name).mkdir()
    for name in reversed(NAMES):
        (tmp_path / "source" / name).touch()
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path / "mount"], check=False, capture_output=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_directory_is_listed_by_its_server_and_leaks(engine: str, place: Path) -> None:
    result = run(engine, "sh", "-c", _LIST, "-", place, policy="strict")
    assert (result.lines, result.err) == (NAMES, "")
    assert {read.outcome for read in result.audit.reads if (read.name, read.source) == ("ls", "getdents64")} == {
        "leaked"
    }


def test_a_supervisor_lets_the_server_list_too(place: Path) -> None:
    result = supervised.run("sh", "-c", _LIST, "-", place, policy="strict")
    assert (result.lines, result.err) == (NAMES, "")
    listed = {Path(read.program).name: read.outcome for read in result.audit.reads if read.source == "getdents64"}
    assert (listed["ls"], listed["bindfs"]) == ("leaked", "fixed")


def test_a_program_is_executed_under_a_supervisor_that_cannot_look_at_it(place: Path) -> None:
    shutil.copy("/bin/echo", place / "source" / "program")
    script = 'bindfs "$1/source" "$1/mount" && "$1/mount/program" done && umount "$1/mount"'
    result = supervised.run("sh", "-c", script, "-", place, policy="strict")
    assert (result.out, result.err) == ("done\n", "")
    assert [gap.split(":")[0] for gap in result.gaps] == ["program out of reach"]


def test_a_directory_that_was_served_before_the_session_is_in_order(place: Path) -> None:
    subprocess.run(["bindfs", place / "source", place / "mount"], check=True)
    result = run("tracer", "ls", "-U", place / "mount", policy="time +order")
    assert (result.lines, result.err) == (NAMES, "")
    assert not result.audit.leaks
