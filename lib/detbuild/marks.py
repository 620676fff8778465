# SPDX-License-Identifier: MIT
"""What the tasks of one build directory leave for each other and for BitBake's server, as small files.

An open session is a file in ``open/``, so that the server can say what happened to a task that was killed. A
degraded session is a file among the recipe's logs, which ``do_clean`` removes and rm_work keeps, and a link to it
in ``degraded/``: a dangling link means nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mark:
    """One task's session. ``file`` is BitBake's name of the recipe, ``build`` BUILDNAME."""

    recipe: str
    file: str
    task: str
    taskhash: str
    build: str
    why: tuple[str, ...] = ()
    engine: str = ""
    engine_pid: int = 0

    @property
    def tid(self) -> str:
        """As BitBake's run queue and BB_TASKDEPDATA name the task."""
        return f"{self.file}:{self.task}"

    def killed(self, exit_code: int) -> str:
        """What to say where the task ended with its session open."""
        return (
            f"{self.recipe}: {self.task} ended with exit code {exit_code} while its session was open, and the "
            f"session's engine ({self.engine}, process {self.engine_pid}) is gone too. One of them was killed, by a "
            "person or because the machine ran out of memory (see dmesg), and the other goes with it, so that nothing "
            "runs on unfixed. Build again, with fewer BB_NUMBER_THREADS if memory was short"
        )


class Marks:
    """The marks of a build directory. ``directory`` is made when first written to."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._open = Path(directory, "open")
        self._degraded = Path(directory, "degraded")
        self._reported = Path(directory, "reported")

    def open(self, mark: Mark) -> None:
        self._open.mkdir(parents=True, exist_ok=True)
        _write(self._open / _name(mark.tid), mark)

    def close(self, tid: str) -> Mark | None:
        """Forget an open session; what was known of it."""
        path = self._open / _name(tid)
        mark = _read(path)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return mark

    def begin(self) -> None:
        """At the start of a build: what still looks open belongs to a build that was killed."""
        self._reported.unlink(missing_ok=True)
        for path in _list(self._open):
            path.unlink()

    def degrade(self, mark: Mark, logs: str) -> None:
        """``logs`` is the recipe's directory of logs."""
        target = Path(logs, f"detbuild.{mark.task}.degraded")
        _write(target, mark)
        self._degraded.mkdir(parents=True, exist_ok=True)
        link = self._degraded / _name(mark.tid)
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        link.symlink_to(target)

    def clear(self, tid: str) -> None:
        """The task runs again: what was wrong with its last session no longer counts."""
        link = self._degraded / _name(tid)
        with contextlib.suppress(FileNotFoundError):
            Path(os.readlink(link)).unlink()
        with contextlib.suppress(FileNotFoundError):
            link.unlink()

    def degraded(self) -> Iterator[Mark]:
        for path in _list(self._degraded):
            mark = _read(path)
            if mark:
                yield mark

    def report(self) -> list[Mark]:
        """The degraded sessions, of earlier builds too, whose output is still in use.

        Once a build: one of several configurations completes once for each.
        """
        marks = sorted(self.degraded(), key=lambda mark: mark.tid)
        if not marks or self._reported.exists():
            return []
        self._reported.touch()
        return marks


def _name(tid: str) -> str:
    return hashlib.sha256(tid.encode()).hexdigest()[:24]


def _list(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if not path.suffix)
    except FileNotFoundError:
        return []


def _write(path: Path, mark: Mark) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.write_text(json.dumps({"format": "detbuild-mark", "version": 1, **asdict(mark)}) + "\n")
    temporary.replace(path)


def _read(path: Path) -> Mark | None:
    """None for what is not there, dangles, or was written by another version."""
    try:
        data = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    if (data.pop("format", ""), data.pop("version", 0)) != ("detbuild-mark", 1):
        return None
    return Mark(**{**data, "why": tuple(data["why"])})
