# SPDX-License-Identifier: MIT
"""Whose a read is: the program by name, its arguments, and those that started it; of a traced one /proc tells them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

from detbuild import command
from detbuild.audit import TASK, Read
from detbuild.engine.tracee import Process
from detbuild.linux import proc

LONGEST = 200  # characters of arguments on record
DEPTH = 8  # parents on record
CUT = "..."

# BitBake calls a task's script run.do_compile.PID. A name that is another one in every build would tell less.
_TASK_SCRIPT = re.compile(r"(run\.\w+)\.\d+")


def name(executable: str, line: Sequence[str]) -> str:
    """What the record calls a program; ``line`` are its arguments, its own name first."""
    title = command.title(executable, line)
    script = _TASK_SCRIPT.fullmatch(title)
    return script[1] if script else title


def arguments(line: Iterable[str]) -> str:
    """A command line without the program's name, as in a shell, and no longer than the record keeps it."""
    text = ""
    for word in itertools.islice(line, 1, None):
        text += (" " if text else "") + shlex.quote(word[: LONGEST + 1])
        if len(text) > LONGEST:
            return text[: LONGEST - len(CUT)] + CUT
    return text


def parents(names: Iterable[str]) -> tuple[str, ...]:
    """Those that started a program, the nearest first, and no more than the record keeps."""
    kept = tuple(itertools.islice(names, DEPTH + 1))
    return kept if len(kept) <= DEPTH else (*kept[:DEPTH], CUT)


def read(process: Process, source: str, outcome: str) -> Read:
    """What the record says of a read by a process that lives. /proc is asked at a program's first read only."""
    image, pid = _image(process)
    known = image.reads.get((source, outcome))
    if known is None:
        if image.lineage is None:
            line = _words(image, pid)
            image.lineage = _name(image, line), arguments(line), _parents(image)
        known = image.reads[source, outcome] = Read(image.executable, source, outcome, *image.lineage)
    return known


def is_first(process: Process, *sources: str) -> bool:
    """Whether the program that a process runs has read none of these sources yet."""
    image, _ = _image(process)
    return not any(source in sources for source, _outcome in image.reads)


def words(process: Process) -> list[str]:
    """A process's arguments, its program's name first, read once; none where they are not to be had any more."""
    return _words(*_image(process))


def _image(process: Process) -> tuple[Process, int]:
    """The process that executed the program which this one runs, and one that still does; 0 where none is known."""
    pid = process.pid
    while not process.executed and process.parent:
        process = process.parent
        pid = pid or process.pid
    return process, pid


def _words(image: Process, pid: int) -> list[str]:
    if image.words is None and pid:
        image.words = proc.command_line(pid)
    return image.words or []


def _name(image: Process, line: Sequence[str]) -> str:
    return TASK if image.spared else name(image.executable, line)


def _parents(image: Process) -> tuple[str, ...]:
    """Without the process that opened a session for its children: that is the task."""
    return parents(_above(image))


def _above(image: Process) -> Iterator[str]:
    while image.parent:
        image, pid = _image(image.parent)
        if image.spared:
            return
        yield _name(image, _words(image, pid))
