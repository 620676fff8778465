"""Sets of BPF programs that earlier daemons left: they go when they hold nobody, and nobody waits for that."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from conftest import wait_for
from detbuild.bpf import layout
from detbuild.daemon import generations, kernel
from detbuild.daemon.generations import Generations

OLDER = f"{layout.shape()}_older"


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

    def __call__(self, place: Path, generation: str = "") -> None:
        self.begun.append(place.name)
        assert self.free.wait(60)
        place.rmdir()


@pytest.fixture
def removals(monkeypatch: pytest.MonkeyPatch) -> Removals:
    made = Removals()
    monkeypatch.setattr(kernel, "remove", made)
    monkeypatch.setattr(kernel, "holds", lambda _place: False)
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
    assert wait_for(lambda: removals.begun == [OLDER])
    sets.close(8)  # the next one's end begins no second removal
    assert sets.stands(OLDER)
    assert not older.left  # type: ignore[attr-defined]
    removals.free.set()
    sets.settle()
    assert older.left  # type: ignore[attr-defined]
    assert not sets.stands(OLDER)
    assert removals.begun == [OLDER]


def test_what_an_earlier_daemon_left_half_built_goes_at_the_start(tmp_path: Path, removals: Removals) -> None:
    removals.free.set()
    loaded(tmp_path, kernel.BUILDING, "ffffffff_of_another_release").settle()
    assert [path.name for path in tmp_path.iterdir()] == ["newest"]
    assert sorted(removals.begun) == sorted([kernel.BUILDING, "ffffffff_of_another_release"])
