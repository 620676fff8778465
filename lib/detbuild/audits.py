# SPDX-License-Identifier: MIT
"""The records of a build's tasks: where they are collected, and how they are found again.

The class leaves each one beside its task's log, as ``WORKDIR/temp/detbuild.do_TASK.json``, and collects them as
``DEPLOY_DIR/detbuild-audit/PN.do_TASK.json``; those of a multiconfig in ``mc/NAME`` below.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from detbuild.audit import Audit
from detbuild.errors import DetbuildError

DIRECTORY = "detbuild-audit"
LIMIT = 16 << 20  # bytes of one record

_COLLECTED = re.compile(r"(.+)\.(do_\w+)\.json")
_BESIDE_LOG = re.compile(r"detbuild\.(do_\w+)\.json")
_DEPTHS = ("", "temp/", "*/temp/", "*/*/temp/", "*/*/*/temp/")  # from a task's logs up to TMPDIR/work
_PLACES = (DIRECTORY, f"deploy/{DIRECTORY}", f"tmp*/deploy/{DIRECTORY}")  # from DEPLOY_DIR up to a build directory


class Place(NamedTuple):
    """Where a record is, and of what: ``recipe`` is a PN, both are "" for a record that no task left."""

    path: Path
    recipe: str = ""
    task: str = ""
    multiconfig: str = ""

    @property
    def target(self) -> str:
        """The recipe as BitBake's command line names it."""
        return f"mc:{self.multiconfig}:{self.recipe}" if self.multiconfig else self.recipe


def place(directory: Path, recipe: str, task: str, multiconfig: str = "") -> Place:
    """Where a task's record is collected. BitBake calls its own configuration "" or "default"."""
    named = "" if multiconfig == "default" else multiconfig
    below = directory / "mc" / named if named else directory
    return Place(below / f"{recipe}.{task}.json", recipe, task, named)


def keep(where: Place, audit: Audit) -> None:
    """Put a record in its place, whole or not at all. Raises OSError."""
    where.path.parent.mkdir(parents=True, exist_ok=True)
    temporary = where.path.with_name(f".{where.path.name}.{os.getpid()}")
    try:
        temporary.write_text(audit.to_json())
        temporary.replace(where.path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def load(path: Path) -> Audit:
    """A record from its file. Raises DetbuildError for what is none, OSError for what cannot be read."""
    # Not blocking: the name may be a FIFO's, which nobody writes to.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise DetbuildError("this is not an audit: it is not a regular file")
        text = file.read(LIMIT + 1)
    if len(text) > LIMIT:
        raise DetbuildError(f"this is not an audit: it has more than {LIMIT >> 20} MiB")
    return Audit.from_json(text.decode(errors="replace"))


def collections(top: Path) -> list[Path]:
    """Where records are collected, given that directory, a DEPLOY_DIR, a TMPDIR or a build directory.

    A build directory has several where a multiconfig has a TMPDIR of its own.
    """
    if top.name == DIRECTORY and top.is_dir():
        return [top]
    found = [path for pattern in _PLACES for path in sorted(top.glob(pattern)) if path.is_dir()]
    # A link may lead to a directory that is found by its own name too.
    return list({path.resolve(): path for path in found}.values())


def find(top: Path) -> list[Place]:
    """The records of all collections, or else those beside the logs of a work directory, by recipe and task."""
    if found := collections(top):
        files = {path for collection in found for path in _collected(collection)}
    else:
        files = _collected(top) | _beside_logs(top)
    places = [where for where in map(name, files) if where.recipe]
    return sorted(places, key=lambda where: (where.target, where.task, where.path))


def paths(top: Path) -> list[Path]:
    """The files of the same records, in the same order."""
    return [where.path for where in find(top)]


def name(path: Path) -> Place:
    """Of what a file is the record, by its name and where it is."""
    above = path.absolute().parent
    beside = _BESIDE_LOG.fullmatch(path.name)
    if beside and above.name == "temp":  # elsewhere it is the record of a recipe called detbuild
        recipe = above.parts[-3:-2]
        return Place(path, recipe[0] if recipe else "", beside[1])
    found = _COLLECTED.fullmatch(path.name)
    if not found:
        return Place(path)
    return Place(path, found[1], found[2], above.name if above.parent.name == "mc" else "")


def _collected(top: Path) -> set[Path]:
    found = {*top.glob("*.do_*.json"), *top.glob("mc/*/*.do_*.json")}
    return {path for path in found if not path.name.startswith(".")}


def _beside_logs(top: Path) -> set[Path]:
    return {path for depth in _DEPTHS for path in top.glob(f"{depth}detbuild.do_*.json")}
