# SPDX-License-Identifier: MIT
"""All sets of BPF programs in the kernel: the one that this daemon loads, and those that earlier ones left.

A daemon of another release, or with other limits, loads another set. Sessions stay under the set that they were
opened in: it goes on, attached and pinned, until the last of them has ended. Those of our ``layout.shape`` are served
like our own. What is of another shape cannot be read; it is only kept, and removed in time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from detbuild.bpf import layout
from detbuild.daemon import pins
from detbuild.daemon.admission import Admission
from detbuild.daemon.config import Settings
from detbuild.daemon.kernel import Kernel, Rows


class Generations:
    """The daemon's kernel (see ``sessions.Kernel``): each session by the set that holds it."""

    def __init__(self, top: Path, newest: Kernel) -> None:
        """``top`` is the directory of all sets' pins."""
        self.name = newest.name
        self._top, self._newest = top, newest
        self._removals: dict[str, threading.Thread] = {}  # the generation that goes -> who removes it
        self._older: list[Kernel] = []
        for place in sorted(top.iterdir()):
            if place.name != newest.name and place.name.startswith(f"{layout.shape()}_"):
                if pins.complete(place):
                    self._older.append(Kernel(place))
                else:
                    self._remove(place)  # its sessions are lost: nobody can say what they saw
        self._sweep()

    @classmethod
    def load(cls, settings: Settings) -> Generations:
        """Nobody else's from now on, for as long as this process lives. Raises EngineUnavailable, DaemonError."""
        top = Path(settings.pins)
        with pins.usable(top):
            locked = pins.lock(top)
            try:
                return cls(top, Kernel.load(settings))
            except BaseException:
                os.close(locked)
                raise

    def open(self, session: int, admission: Admission) -> None:
        self._newest.open(session, admission)

    def counters(self, session: int) -> tuple[Rows, Rows]:
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
        """Whether a set that nobody here can read is still attached."""
        return bool(name) and name not in [each.name for each in self._all()] and (self._top / name).is_dir()

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
        """Remove the sets of earlier daemons that hold nobody any more, and what one left half built or removed."""
        for each in list(self._older):
            if not each.sessions() and not each.holds():
                self._older.remove(each)
                self._remove(self._top / each.name, each.leave)
        self._removals = {name: thread for name, thread in self._removals.items() if thread.is_alive()}
        known = {each.name for each in self._all()} | self._removals.keys()
        with contextlib.suppress(OSError):
            for place in [place for place in self._top.iterdir() if pins.generation(place) not in known]:
                if not pins.holds(place):
                    self._remove(place)

    def _remove(self, place: Path, then: Callable[[], None] = lambda: None) -> None:
        """Remove a set beside the daemon's loop: for each kprobe the kernel waits for all processors."""

        going = pins.retire(place)

        def work() -> None:
            pins.remove(going)
            then()

        thread = self._removals[pins.generation(place)] = threading.Thread(target=work)
        thread.start()
