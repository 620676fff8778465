# SPDX-License-Identifier: MIT
"""What /proc says of processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple


def read(pid: int | str, name: str) -> bytes:
    """The whole of /proc/PID/NAME. Raises OSError."""
    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
        return file.readall()


def status(pid: int | str, key: str) -> str:
    """One field of /proc/PID/status, "" where it has none. Raises OSError for a process that is gone."""
    with open(f"/proc/{pid}/status", "rb") as lines:
        for line in lines:
            name, _, value = line.partition(b":")
            if name == key.encode():
                return os.fsdecode(value.strip())
    return ""


def number(pid: int | str, key: str) -> int:
    """A field of /proc/PID/status that is a number, 0 for a process that is gone."""
    try:
        return int(status(pid, key) or 0)
    except OSError:
        return 0


def start_time(pid: int | str) -> int:
    """When the process started, in clock ticks since boot: with the pid, its identity. Raises OSError."""
    stat = read(pid, "stat")
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def alive(pid: int, started: int) -> bool:
    """Whether that very process still runs (a zombie does not)."""
    try:
        return start_time(pid) == started and status(pid, "State")[:1] not in ("Z", "X")
    except (OSError, ValueError):
        return False


def ended(pid: int) -> bool:
    """Whether the process is gone, or a zombie."""
    try:
        return status(pid, "State")[:1] in ("Z", "X")
    except OSError:
        return True


def program(pid: int) -> str:
    """The path of the program that ``pid`` runs; where that cannot be read, its name, which anybody may read."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        with contextlib.suppress(OSError):
            return status(pid, "Name")
        return "?"


def command_line(pid: int) -> list[str]:
    """The arguments of ``pid``, its program's name first; none where they cannot be read."""
    try:
        return os.fsdecode(read(pid, "cmdline")).split("\0")[:-1]
    except OSError:
        return []


def raw_command_line(pid: int) -> bytes:
    """The arguments as the kernel has them, each before a null byte; none where they cannot be read."""
    try:
        return read(pid, "cmdline")
    except OSError:
        return b""


def threads(pid: int) -> list[int]:
    """The thread ids of a process. Raises OSError for one that is gone."""
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


class Mapping(NamedTuple):
    """A part of a process's memory; ``name`` is its file's path, where it has one."""

    start: int
    end: int
    executable: bool
    name: str


def mappings(pid: int) -> Iterator[Mapping]:
    """A process's memory, in the order of addresses. Raises OSError."""
    with open(f"/proc/{pid}/maps", "rb") as maps:
        for line in maps:
            fields = line.split(None, 5)
            start, _, end = fields[0].partition(b"-")
            name = os.fsdecode(fields[5].strip()) if len(fields) > 5 else ""
            yield Mapping(int(start, 16), int(end, 16), b"x" in fields[1], name)


def translate(caller: int, number: int, candidates: Iterable[int]) -> int:
    """A thread's id as ``caller`` gives it, as one of ours, which not only ``candidates`` have; 0 where nobody knows.

    In another pid namespace than ours it is found among the candidates only.
    """
    with contextlib.suppress(OSError):
        namespace = os.readlink(f"/proc/{caller}/ns/pid")
        if namespace == os.readlink("/proc/self/ns/pid"):
            return number
        for tid in candidates:
            with contextlib.suppress(OSError):
                # By the innermost namespace, which stands last (proc(5)).
                own = status(tid, "NSpid").split()[-1:]
                if own == [str(number)] and os.readlink(f"/proc/{tid}/ns/pid") == namespace:
                    return tid
    return 0
