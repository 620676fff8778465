"""The rows of a session, put and taken away: with maps in this process's memory, and no BPF."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import EPOCH, child, children, needs_root

from conftest import wait_for
from detbuild.bpf import layout
from detbuild.daemon import kernel, loader, pins
from detbuild.daemon.admission import Admission
from detbuild.daemon.config import Settings
from detbuild.daemon.kernel import Kernel
from detbuild.errors import EngineUnavailable
from detbuild.linux import bpf

NUMBER = 5


class Rows:
    """As ``bpf.Map``; ``room`` is how many rows it has."""

    room = 1000

    def __init__(self, _fd: int, key: Any, value: Any) -> None:
        self.fd, self._key, self._value, self._rows = 0, key, value, dict[bytes, bytes]()

    def get(self, key: Any) -> Any:
        row = self._rows.get(bytes(key))
        return self._value.from_buffer_copy(row) if row else None

    def put(self, key: Any, value: Any) -> None:
        if len(self._rows) >= self.room:
            raise OSError(errno.E2BIG, "bpf(BPF_MAP_UPDATE_ELEM)")
        self._rows[bytes(key)] = bytes(value)

    def delete(self, key: Any) -> bool:
        return self._rows.pop(bytes(key), None) is not None

    def items(self) -> Iterator[tuple[Any, Any]]:
        for key, value in list(self._rows.items()):
            yield self._key.from_buffer_copy(key), self._value.from_buffer_copy(value)

    def where(self, field: str, *numbers: int) -> Iterator[tuple[Any, Any]]:
        for key, value in self.items():
            if getattr(key if hasattr(key, field) else value, field) in numbers:
                yield key, value


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    (tmp_path / "programs").mkdir()
    monkeypatch.setattr(bpf, "get", lambda _path: 0)
    monkeypatch.setattr(bpf, "Map", Rows)
    return Kernel(tmp_path)


def test_no_look_at_the_maps_can_be_preempted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would run no probe on that CPU, and count nothing."""
    policy, looks = [os.SCHED_OTHER], list[int]()

    class Watched(Rows):
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_"):
                looks.append(policy[-1])
            return super().__getattribute__(name)

    def empty(_fd: int) -> bool:
        looks.append(policy[-1])
        return False

    (tmp_path / "programs").mkdir()
    monkeypatch.setattr(bpf, "get", lambda _path: os.open(os.devnull, os.O_RDONLY))
    monkeypatch.setattr(bpf, "Map", Watched)
    monkeypatch.setattr(Kernel, "_missed", lambda _self: 0)
    monkeypatch.setattr(pins, "kprobes", lambda _generation: ["detbuild/one"])
    monkeypatch.setattr(os, "sched_getscheduler", lambda _pid: policy[-1])
    monkeypatch.setattr(os, "sched_setscheduler", lambda _pid, to, _parameter: policy.append(to))
    monkeypatch.setattr(bpf, "empty", empty)
    held = Kernel(tmp_path)
    with child() as opener, child() as supervisor:
        opened(held, opener.pid, supervisor.pid)
        seen = [held.counters(NUMBER), held.processes(NUMBER), held.held_by(opener.pid), held.has(NUMBER)]
        seen.append(held.sessions())
        held.close(NUMBER)
        seen += [held.closed(), held.holds(), pins.holds(tmp_path)]
        held.drop(NUMBER)
    assert seen == [([], []), [opener.pid], NUMBER, True, [NUMBER], [NUMBER], True, True]
    assert len(looks) > len(seen)
    assert set(looks) == {os.SCHED_FIFO}
    assert policy[-1] == os.SCHED_OTHER


def left(rows: Kernel) -> dict[str, int]:
    """How many rows each map has that has any."""
    counts = {name: len(list(each.items())) for name, each in rows._maps.items()}
    return {name: count for name, count in counts.items() if count}


def opened(rows: Kernel, opener: int, supervisor: int) -> None:
    rows.open(NUMBER, Admission(opener, opener, supervisor, EPOCH))


def test_a_session_that_is_dropped_leaves_no_row(rows: Kernel) -> None:
    with child() as opener, child() as supervisor:
        opened(rows, opener.pid, supervisor.pid)
        assert rows.held_by(opener.pid) == NUMBER
        rows.drop(NUMBER)
    assert left(rows) == {}


@needs_root
def test_a_supervisor_in_a_pid_namespace_below_its_opener_is_refused_and_leaves_no_row(rows: Kernel) -> None:
    with child() as opener, child("unshare", "--pid", "--fork", "sleep", "1000") as outer:
        if not wait_for(lambda: bool(outer.poll() or children(outer.pid))) or outer.poll():
            pytest.skip("no pid namespaces here")
        (supervisor,) = children(outer.pid)
        with pytest.raises(EngineUnavailable, match="has no number in the pid namespace of its supervisor"):
            opened(rows, opener.pid, supervisor)
        subprocess.run(["kill", "-9", str(supervisor)], check=True)
    assert left(rows) == {}


def test_whatever_breaks_while_rows_are_put_leaves_none(rows: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_pid: int | str) -> list[int]:
        if left(rows):
            raise RuntimeError("a bug of ours")
        return [1]

    monkeypatch.setattr(kernel, "numbers", broken)
    with child() as opener, child() as supervisor, pytest.raises(RuntimeError):
        opened(rows, opener.pid, supervisor.pid)
    assert left(rows) == {}


def test_a_full_table_is_named_with_the_others(rows: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows._maps["sessions"], "room", 0)
    with child() as opener, child() as supervisor, pytest.raises(EngineUnavailable) as refused:
        opened(rows, opener.pid, supervisor.pid)
    assert "sessions is full" in refused.value.cause


def test_a_number_that_is_another_process_s_by_now_is_in_no_session(rows: Kernel) -> None:
    with child() as opener, child() as supervisor:
        opened(rows, opener.pid, supervisor.pid)
        heir = ctypes.c_uint32(opener.pid)
        row = rows._maps["processes"].get(heir)
        assert row is not None
        assert rows.held_by(opener.pid) == NUMBER
        row.forked -= 60 * kernel.SECOND  # as though the row were of one that was there a minute earlier
        rows._maps["processes"].put(heir, row)
        assert rows.held_by(opener.pid) is None


def test_a_closed_session_stays_as_long_as_its_own_processes_do(rows: Kernel) -> None:
    with child() as supervisor:
        with child() as opener:
            opened(rows, opener.pid, supervisor.pid)
            rows.close(NUMBER)
            assert rows.sessions() == []
            assert rows.closed() == [NUMBER]
        # The kernel part would have taken the row away.
        assert rows.closed() == []
    assert left(rows) == {}


def test_a_session_is_admitted_with_every_thread_and_no_row_of_counts(rows: Kernel) -> None:
    with child() as opener, child() as supervisor:
        opened(rows, opener.pid, supervisor.pid)
        assert left(rows) == {"sessions": 1, "supervisors": 1, "processes": 1, "threads": 1, "aliases": 1}
        row = rows._maps["sessions"].get(ctypes.c_uint32(NUMBER))
        assert isinstance(row, layout.Session)
        assert (row.live, row.rows, row.root) == (1, 0, opener.pid)


def test_programs_with_other_constants_are_another_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kernel._digest(Settings(), fexit=True)
    other = tmp_path / "loader.py"
    other.write_text(Path(loader.__file__).read_text().replace("_SHARES = 8", "_SHARES = 9"))
    monkeypatch.setattr(loader, "__file__", str(other))
    assert kernel._digest(Settings(), fexit=True) != before
