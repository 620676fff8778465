"""Pins of sets of programs: one that a killed daemon left in the middle is never taken for a complete one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_daemon_kernel import Rows

from detbuild.bpf import layout
from detbuild.daemon import kernel, pins
from detbuild.daemon.config import Settings
from detbuild.daemon.generations import Generations
from detbuild.daemon.kernel import Kernel
from detbuild.errors import DaemonError, EngineUnavailable
from detbuild.linux import bpf

PARTS = [f"maps/{name}" for name in layout.MAPS] + [f"{kind}/{name}" for kind in ("programs", "links") for name in "ab"]


class Killed(BaseException):
    """As SIGKILL: nothing that follows is done."""


class Probes:
    """The kprobes of two sets, which stay busy for a while; ``seen`` is what was pinned when one was removed."""

    def __init__(self, top: Path) -> None:
        self.events = ["detbuild_one/a", "detbuild_one/b", "detbuild_two/a"]
        self.seen = set[str]()
        self._top, self._busy = top, 3

    def of(self, generation: str) -> list[str]:
        return [event for event in self.events if event.startswith(f"detbuild_{generation}/")]

    def change(self, line: str) -> None:
        self._busy -= 1
        if self._busy >= 0:
            raise OSError(errno.EBUSY, "kprobe_events")
        self.events.remove(line.removeprefix("-:"))
        self.seen |= {str(path.relative_to(self._top)) for path in self._top.rglob("*")}


@pytest.fixture(params=["any", "bpf"])
def top(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory in any file system, and in one of BPF, in which directories stand for what is pinned."""
    if request.param == "any":
        yield tmp_path
        return
    if subprocess.run(["mount", "-t", "bpf", "bpf", str(tmp_path)], check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a BPF file system")
    try:
        (tmp_path / "detbuild").mkdir()
        yield tmp_path / "detbuild"
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.fixture
def probes(top: Path, monkeypatch: pytest.MonkeyPatch) -> Probes:
    made = Probes(top)
    monkeypatch.setattr(pins, "kprobes", made.of)
    monkeypatch.setattr(pins, "change_kprobes", made.change)
    return made


def put(place: Path) -> Path:
    for part in PARTS:
        (place / part).mkdir(parents=True)
    return place


def names(top: Path) -> list[str]:
    return sorted(path.name for path in top.iterdir())


@pytest.mark.parametrize("lost", ["links/a", "programs/b", "maps/processes", "links", "maps"])
def test_a_set_without_one_of_its_parts_is_not_complete(tmp_path: Path, lost: str) -> None:
    place = put(tmp_path / "one")
    assert pins.complete(place)
    shutil.rmtree(place / lost)
    assert not pins.complete(place)


def test_a_set_of_no_programs_is_not_complete(tmp_path: Path) -> None:
    place = put(tmp_path / "one")
    for kind in ("links", "programs"):
        shutil.rmtree(place / kind)
        (place / kind).mkdir()
    assert not pins.complete(place)


def test_a_removal_that_is_killed_leaves_no_set_and_is_ended_by_the_next(
    top: Path, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, removed = put(top / "one"), list[Path]()

    def rmtree(path: Path, ignore_errors: bool) -> None:
        if not path.exists():
            return
        if removed:
            raise Killed
        removed.append(path)
        for each in path.iterdir():
            each.rmdir()

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree)
        with pytest.raises(Killed):
            pins.remove(place)
    assert names(top) == ["removing_one"]
    pins.remove(top / "removing_one")
    assert names(top) == []
    assert probes.events == ["detbuild_two/a"]
    assert probes.seen == {"removing_one"}


@pytest.mark.parametrize("name", ["one", "building_one", "removing_one"])
def test_what_is_removed_takes_its_kprobes_along_however_far_it_was(top: Path, probes: Probes, name: str) -> None:
    pins.remove(put(top / name))
    assert names(top) == []
    assert probes.events == ["detbuild_two/a"]


def test_a_half_built_set_of_another_generation_goes_with_its_kprobes(
    top: Path, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpf, "get", lambda path: os.open(path, os.O_RDONLY))
    monkeypatch.setattr(bpf, "empty", lambda _fd: True)
    put(top / "building_one")
    put(top / "newest")
    Generations(top, SimpleNamespace(name="newest")).settle()  # type: ignore[arg-type]
    assert names(top) == ["newest"]
    assert probes.events == ["detbuild_two/a"]


@pytest.mark.parametrize("left", ["", "building_", "removing_"])
def test_a_set_that_lacks_a_link_is_built_again(
    top: Path, probes: Probes, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    def build(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert names(top) == []
        put(Path(json.loads(command[-1])["place"]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(bpf, "get", lambda _path: 0)
    monkeypatch.setattr(bpf, "Map", Rows)
    monkeypatch.setattr(kernel, "VMLINUX", Path("/"))
    monkeypatch.setattr(kernel, "_digest", lambda _settings, _fexit: "one")
    monkeypatch.setattr(pins, "_prepare", lambda _top: None)
    monkeypatch.setattr(subprocess, "run", build)
    shutil.rmtree(put(top / f"{left}one") / "links" / "b")
    settings = Settings(pins=str(top), probes="fexit")
    assert Kernel.load(settings).name == "one"
    assert (top / "one/links/b").is_dir()
    assert names(top) == ["one"]
    monkeypatch.setattr(subprocess, "run", None)
    assert Kernel.load(settings).name == "one"


def test_a_second_daemon_gets_nothing_of_what_is_pinned(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its state is: it would close the sessions of the first, which it has no records of."""
    loads, held = list[Settings](), list[int]()

    def load(settings: Settings) -> SimpleNamespace:
        loads.append(settings)
        if len(loads) == 1:
            raise EngineUnavailable("not yet")
        return SimpleNamespace(name="newest")

    def lock(place: Path) -> int:
        held.append(locked(place))
        return held[-1]

    locked = pins.lock
    monkeypatch.setattr(Kernel, "load", load)
    monkeypatch.setattr(pins, "_prepare", lambda _top: None)
    monkeypatch.setattr(pins, "lock", lock)
    settings = Settings(pins=str(top))
    with pytest.raises(EngineUnavailable):
        Generations.load(settings)
    Generations.load(settings)
    with pytest.raises(DaemonError) as caught:
        Generations.load(settings)
    assert caught.value.refused == f"another detbuildd has the lock on {top}"
    assert len(loads) == 2
    os.close(held[-1])
