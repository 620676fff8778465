"""Sets of BPF programs that earlier daemons left: they go when they hold nobody, and nobody waits for that."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from conftest import wait_for
from detbuild.bpf import layout
from detbuild.daemon import generations, pins
from detbuild.daemon.generations import Generations

OLDER, DAMAGED = f"{layout.shape()}_older", f"{layout.shape()}_damaged"


class Set:
    """A loaded set that lists its sessions, and writes down that its descriptors were closed."""

    def __init__(self, place: Path) -> None:
        self.name = place.name
        self.held = {7} if place.name == OLDER else set()
        self.left = False

    def sessions(self) -> list[int]:
        return sorted(self.held)

    def holds(self) -> bool:
        return bool(self.held)

    def has(self, session: int) -> bool:
        return session in self.held

    def close(self, session: int) -> None:
        self.held.discard(session)

    def leave(self) -> None:
        self.left = True


class Removals:
    """What was removed, each only when the kernel, played by ``free``, is through with it."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.free = threading.Event()

    def __call__(self, place: Path) -> None:
        self.begun.append(place.name)
        assert self.free.wait(60)
        place.rmdir()


@pytest.fixture
def removals(monkeypatch: pytest.MonkeyPatch) -> Removals:
    made = Removals()
    monkeypatch.setattr(pins, "remove", made)
    monkeypatch.setattr(pins, "holds", lambda _place: False)
    monkeypatch.setattr(pins, "complete", lambda place: place.name != DAMAGED)
    monkeypatch.setattr(generations, "Kernel", Set)
    return made


def loaded(top: Path, *names: str) -> Generations:
    for name in names:
        (top / name).mkdir()
    (top / "newest").mkdir()
    return Generations(top, Set(top / "newest"))  # type: ignore[arg-type]


def test_a_set_goes_when_its_last_session_is_closed_and_the_close_does_not_wait(
    tmp_path: Path, removals: Removals
) -> None:
    sets = loaded(tmp_path, OLDER)
    older = sets._older[0]
    assert removals.begun == []
    sets.close(7)
    assert sets.sessions() == []
    assert wait_for(lambda: removals.begun == [f"removing_{OLDER}"])
    sets.close(8)  # the next one's end begins no second removal
    assert not older.left  # type: ignore[attr-defined]
    removals.free.set()
    sets.settle()
    assert older.left  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == ["newest"]
    assert removals.begun == [f"removing_{OLDER}"]


def test_what_an_earlier_daemon_left_half_built_or_removed_goes_at_start(tmp_path: Path, removals: Removals) -> None:
    removals.free.set()
    loaded(tmp_path, "building_one", "removing_two", "ffffffff_of_another_release").settle()
    assert [path.name for path in tmp_path.iterdir()] == ["newest"]
    assert sorted(removals.begun) == ["removing_ffffffff_of_another_release", "removing_one", "removing_two"]


def test_a_set_that_lacks_a_part_is_not_served_and_what_it_held_is_lost(tmp_path: Path, removals: Removals) -> None:
    sets = loaded(tmp_path, DAMAGED, OLDER, "ffffffff_of_another_release")
    assert [each.name for each in sets._older] == [OLDER]
    assert not sets.stands(DAMAGED)
    assert removals.begun[0] == f"removing_{DAMAGED}"
    removals.free.set()
    sets.settle()


def test_what_the_daemon_serves_is_no_set_that_nobody_can_read(
    tmp_path: Path, removals: Removals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that such a set does not know was in one of the same name, which was built again."""
    monkeypatch.setattr(pins, "holds", lambda _place: True)
    sets = loaded(tmp_path, OLDER, "ffffffff_of_another_release")
    assert [sets.stands(name) for name in ("newest", OLDER, "ffffffff_of_another_release")] == [False, False, True]
