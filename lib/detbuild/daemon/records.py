# SPDX-License-Identifier: MIT
"""What a restarted daemon must know of the sessions that it finds in the kernel: a file each, for root alone."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1


@dataclass
class Record:
    """One session. Processes are (pid, start time in clock ticks); ``token`` is a SHA-256, for nobody to use.

    ``gaps`` are what the session lost while no daemon ran, or to one that cannot read its ``programs``: the name of
    the set that holds it. A ``closed`` one is kept for its user's limit, as long as programs run in it.
    """

    number: int
    uid: int
    epoch: int
    spared: bool
    opener: tuple[int, int]
    supervisor: tuple[int, int]
    token: str
    gaps: list[str] = field(default_factory=list)
    programs: str = ""
    closed: bool = False

    def fits(self, token: str) -> bool:
        return hmac.compare_digest(self.token, digest(token))


def digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


class Records:
    """The files of one directory, which is made where it is not there. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)

    def write(self, record: Record) -> None:
        """On disk before it returns a result to anybody, whole or not at all."""
        temporary = self._path(record.number).with_suffix(".new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
            json.dump({"version": VERSION, **asdict(record)}, file)
        temporary.rename(self._path(record.number))

    def remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)

    def read(self) -> tuple[list[Record], list[str]]:
        """All records; and sentences on those that cannot be understood, which are removed."""
        found, complaints = [], []
        for path in sorted(self.directory.glob("*.json")):
            try:
                found.append(_record(json.loads(path.read_text())))
            except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
                complaints.append(f"the record {path} cannot be understood, and is removed: {error!r}")
                with contextlib.suppress(OSError):
                    path.unlink()
        return found, complaints

    def _path(self, number: int) -> Path:
        return self.directory / f"{number}.json"


def _record(data: dict[str, Any]) -> Record:
    if data.pop("version") != VERSION:
        raise ValueError("another version wrote it")
    opener, supervisor = ((int(data[name][0]), int(data[name][1])) for name in ("opener", "supervisor"))
    return Record(**{**data, "opener": opener, "supervisor": supervisor})
