# SPDX-License-Identifier: MIT
"""All sets of BPF programs in the kernel: the one that this daemon loads, and those that earlier ones left.

A daemon of another release, or with other limits, loads another set. Sessions stay under the set that they were
opened in: it goes on, attached and pinned, until the last of them has ended. Those of our ``layout.shape`` are served
like our own. What is of another shape cannot be read; it is only kept, and removed in time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from detbuild.bpf import layout
from detbuild.daemon import kernel
from detbuild.daemon.admission import Admission
from detbuild.daemon.config import Settings
from detbuild.daemon.kernel import Kernel


class Generations:
    """The daemon's kernel (see ``sessions.Kernel``): each session by the set that holds it."""

    def __init__(self, top: Path, newest: Kernel) -> None:
        """``top`` is the directory of all sets' pins."""
        self.name = newest.name
        self._top, self._newest = top, newest
        self._removals: dict[str, threading.Thread] = {}  # the name of a set that goes -> who removes it
        self._older = [
            Kernel(place)
            for place in sorted(top.iterdir())
            if place.name not in (newest.name, kernel.BUILDING) and place.name.startswith(f"{layout.shape()}_")
        ]
        self._sweep()

    @classmethod
    def load(cls, settings: Settings) -> Generations:
        """Raises EngineUnavailable."""
        return cls(Path(settings.pins), Kernel.load(settings))

    def open(self, session: int, admission: Admission) -> None:
        self._newest.open(session, admission)

    def counters(self, session: int) -> tuple[kernel.Rows, kernel.Rows]:
        return self._holder(session).counters(session)

    def processes(self, session: int) -> list[int]:
        return self._holder(session).processes(session)

    def held_by(self, pid: int) -> int | None:
        found = [each.held_by(pid) for each in self._all()]
        return next((session for session in found if session is not None), None)

    def close(self, session: int) -> None:
        """Also where none holds it: sets may be free to go."""
        holder = self._holder(session)
        if holder.has(session):
            holder.close(session)
        self._sweep()

    def closed(self) -> list[int]:
        return sorted({session for each in self._all() for session in each.closed()})

    def drop(self, session: int) -> None:
        self._newest.drop(session)

    def sessions(self) -> list[int]:
        return sorted({session for each in self._all() for session in each.sessions()})

    def stands(self, name: str) -> bool:
        """Whether a set is still attached, though perhaps nobody can read it."""
        return bool(name) and (self._top / name).is_dir()

    def settle(self) -> None:
        """Wait for the sets that are being removed: another daemon would take one of them for its own."""
        for thread in self._removals.values():
            thread.join()

    def unload(self) -> None:
        for each in self._all():
            each.unload()

    def _all(self) -> list[Kernel]:
        return [self._newest, *self._older]

    def _holder(self, session: int) -> Kernel:
        return next((each for each in self._older if each.has(session)), self._newest)

    def _sweep(self) -> None:
        """Remove the sets of earlier daemons that hold nobody any more, and what one left half built."""
        for each in list(self._older):
            if not each.sessions() and not each.holds():
                self._older.remove(each)
                self._remove(self._top / each.name, each.leave)
        self._removals = {name: thread for name, thread in self._removals.items() if thread.is_alive()}
        known = {each.name for each in self._all()} | self._removals.keys()
        with contextlib.suppress(OSError):
            for place in [place for place in self._top.iterdir() if place.name not in known]:
                if not kernel.holds(place):
                    self._remove(place)

    def _remove(self, place: Path, then: Callable[[], None] = lambda: None) -> None:
        """Remove a set beside the daemon's loop: for each kprobe the kernel waits for all processors."""

        def work() -> None:
            kernel.remove(place)
            then()

        self._removals[place.name] = threading.Thread(target=work)
        self._removals[place.name].start()
