"""A kernel of make-believe, which holds whoever descends from an opener, and the daemon upon it as a process.

What it "pins" is a file each session in the directory ``settings.pins``, so that it outlives the daemon as BPF does.
A daemon with another RELEASE in its environment loads other programs, and cannot read what is another release's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from detbuild.daemon import __main__ as entrance
from detbuild.daemon import config as configuration
from detbuild.daemon import log
from detbuild.daemon.admission import Admission
from detbuild.daemon.config import Settings
from detbuild.errors import EngineUnavailable
from detbuild.linux import proc

REFUSED_EPOCH = 666  # what this kernel refuses to hold
BROKEN_EPOCH = 667  # where it has a bug
LARGE_EPOCH = 668  # where it has seen many programs
# What an opener does after the daemon has looked at it, and before it is held.
KILLED_EPOCH, EXECUTES_EPOCH = 669, 670


class FakeKernel:
    """Follows processes by their parents, and by a file for those whose parents have ended."""

    def __init__(self, settings: Settings) -> None:
        self.name = os.environ.get("RELEASE", "1")
        self._pins = Path(settings.pins)
        self._pins.mkdir(parents=True, exist_ok=True)

    @classmethod
    def load(cls, settings: Settings) -> FakeKernel:
        return cls(settings)

    def open(self, session: int, admission: Admission) -> None:
        if admission.epoch == REFUSED_EPOCH:
            raise EngineUnavailable("this kernel has had enough", remedy="ask another one")
        if admission.epoch == BROKEN_EPOCH:
            raise RuntimeError("a bug in the kernel part")
        _let_happen(admission.opener, admission.epoch)
        self._put(session, {**admission._asdict(), "release": self.name, "seen": [admission.opener]})

    def counters(self, session: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        epoch = self._known(session)["epoch"]
        count = 20_000 if epoch == LARGE_EPOCH else 1
        reads = [
            {"program_key": key, "source": "clock_gettime", "outcome": "fixed", "count": epoch} for key in range(count)
        ]
        return reads, []

    def processes(self, session: int) -> list[int]:
        known = self._known(session)
        seen = {pid for pid in known["seen"] if os.path.exists(f"/proc/{pid}")}
        more = True
        while more:
            found = {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) in seen}
            more = bool(found - seen - {known["supervisor"]})
            seen |= found - {known["supervisor"]}
        self._put(session, {**known, "seen": sorted(seen)})
        return sorted(seen)

    def held_by(self, pid: int) -> int | None:
        return next((session for session in self.sessions() if pid in self.processes(session)), None)

    def close(self, session: int) -> None:
        """Its programs stay in it, and in the way."""
        if session in self.sessions():
            self._pin(session).rename(self._pins / f"{session}.closed")

    def closed(self) -> list[int]:
        found = []
        for path in self._pins.glob("*.closed"):
            if all(proc.ended(pid) for pid in json.loads(path.read_text())["seen"]):
                path.unlink()
            else:
                found.append(int(path.stem))
        return found

    def drop(self, session: int) -> None:
        self._pin(session).unlink()

    def sessions(self) -> list[int]:
        return [session for session in self._pinned() if self._known(session)["release"] == self.name]

    def stands(self, name: str) -> bool:
        return any(self._known(session)["release"] == name for session in self._pinned())

    def _pinned(self) -> list[int]:
        return [int(path.name) for path in self._pins.iterdir() if path.name.isdigit()]

    def settle(self) -> None:
        pass

    def unload(self) -> None:
        (self._pins / "unloaded").touch()

    def _pin(self, session: int) -> Path:
        return self._pins / str(session)

    def _put(self, session: int, known: dict[str, Any]) -> None:
        """Whole or not at all: the daemon is killed at any moment."""
        new = self._pin(session).with_suffix(".new")
        new.write_text(json.dumps(known))
        new.rename(self._pin(session))

    def _known(self, session: int) -> dict[str, Any]:
        try:
            return dict(json.loads(self._pin(session).read_text()))
        except FileNotFoundError:
            raise KeyError(session) from None


def _let_happen(opener: int, epoch: int) -> None:
    """Return once it has."""
    before = proc.program(opener)
    if epoch == KILLED_EPOCH:
        os.kill(opener, signal.SIGKILL)
        while not proc.ended(opener):
            time.sleep(0.01)
    elif epoch == EXECUTES_EPOCH:
        os.kill(opener, signal.SIGUSR1)
        while proc.program(opener) == before:
            time.sleep(0.01)


def _parent(pid: int) -> int:
    try:
        return int(proc.status(pid, "PPid") or 0)
    except OSError:
        return 0


if __name__ == "__main__":
    entrance.run(configuration.load(Path(sys.argv[1])), FakeKernel.load, log.to_stderr)
