# SPDX-License-Identifier: MIT
"""Whose a read is: what /proc tells of a traced program's arguments, and of those that started it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from detbuild import command
from detbuild.audit import TASK, Read
from detbuild.engine.tracee import Process
from detbuild.linux import proc

LONGEST = 200  # characters of arguments on record
DEPTH = 8  # parents on record
CUT = "..."

# BitBake calls a task's script run.do_compile.PID. A name that is another one in every build would tell less.
_TASK_SCRIPT = re.compile(r"(run\.\w+)\.\d+")


def read(process: Process, source: str, outcome: str) -> Read:
    """What the record says of a read by a process that lives. /proc is asked at a program's first read only."""
    image, pid = _image(process)
    known = image.reads.get((source, outcome))
    if known is None:
        if image.lineage is None:
            line = _words(image, pid)
            image.lineage = _name(image, line), _arguments(line), _parents(image)
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
    if image.spared:
        return TASK
    name = command.title(image.executable, line)
    script = _TASK_SCRIPT.fullmatch(name)
    return script[1] if script else name


def _arguments(line: Sequence[str]) -> str:
    text = ""
    for word in line[1:]:
        text += (" " if text else "") + shlex.quote(word[: LONGEST + 1])
        if len(text) > LONGEST:
            return text[: LONGEST - len(CUT)] + CUT
    return text


def _parents(image: Process) -> tuple[str, ...]:
    """The nearest first, without the process that opened a session for its children: that is the task."""
    names: list[str] = []
    while image.parent:
        image, pid = _image(image.parent)
        if image.spared:
            break
        if len(names) == DEPTH:
            return (*names, CUT)
        names.append(_name(image, _words(image, pid)))
    return tuple(names)
