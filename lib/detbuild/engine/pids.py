# SPDX-License-Identifier: MIT
"""Process numbers that a session tells its shells, each for its own: made of command lines, not by the scheduler.

The kernel gives no number as high. Where one is given back to it, by kill(2) for instance, it gets the real one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from detbuild.engine.base import Terms
from detbuild.engine.filter import FIRST_TOLD, numbers
from detbuild.engine.stream import Origin
from detbuild.engine.tracee import Finish, Thread, values
from detbuild.linux import memory, proc
from detbuild.linux.ptrace import Registers
from detbuild.linux.x86_64 import Abi

_RANGE = (1 << 31) - FIRST_TOLD  # pid_t has 31 bits
_NONE = 0, 0, Origin()
_REMEMBERED = 4096  # at the least, before those that have ended are forgotten


class Pids:
    """The numbers that one session has told. Processes go by their numbers in this process's pid namespace."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        # A process -> when it was started, its number, and the execution that asked for it.
        self._told: dict[int, tuple[int, int, Origin]] = {}
        self._processes: dict[int, int] = {}  # the number -> the process
        self._room = _REMEMBERED

    def asked(self, tid: int, pid: int, call: str, origin: Origin | None, *, tells: bool) -> int:
        """What getpid(2), getppid(2) or gettid(2) returns to a thread of a process; 0 where the kernel has to say.

        ``origin`` is the execution of its program, or of the one that forked it; ``tells`` whether that is to be told
        a number.
        """
        if call == "getppid":
            return self._of_parent(proc.number(pid, "PPid"), origin) if self._told else 0
        if call == "gettid" and tid != pid:
            return 0
        return self._known(pid) or (self._tell(pid, origin) if tells and origin else 0)

    def _of_parent(self, parent: int, origin: Origin | None) -> int:
        """A child that was made before its parent became a shell knows the parent by its real number."""
        number = self._known(parent)
        return number if number and origin and origin.stems_from(self._told[parent][2]) else 0

    def real(self, tid: int, value: int) -> int:
        """An argument as the kernel knows it, 32 bits: of a number that was told, or of a group's, the real one."""
        number = value & 0xFFFFFFFF
        group = number >> 31
        process = self._processes.get((1 << 32) - number if group else number, 0)
        # By the caller's namespace another process may have that number.
        if not self._known(process) or not _has_our_numbers(tid):
            return number
        return (1 << 32) - process if group else process

    def concerns(self, tid: int, call: str, given: Sequence[int]) -> bool:
        """Whether a call was given numbers that were told."""
        return any(self.real(tid, given[index]) != given[index] & 0xFFFFFFFF for index in numbers(call))

    def give_real(self, thread: Thread, abi: Abi, call: str, registers: Registers) -> Finish | None:
        """At the start of a call to which numbers are given: put the real ones into its registers."""
        given, changed = values(abi, registers), False
        for index in numbers(call):
            real = self.real(thread.tid, given[index])
            if real != given[index] & 0xFFFFFFFF:
                setattr(registers, abi.arguments[index], real)
                changed = True
        return (lambda _thread, _registers: None) if changed else None

    def give_group(self, tid: int, address: int) -> None:
        """At the start of ioctl(2) with TIOCSPGRP: put the real number where tcsetpgrp(3) has its own copy of it.

        Raises OSError.
        """
        given = int.from_bytes(memory.read(tid, address, 4), "little")
        real = self.real(tid, given)
        if real != given:
            memory.write(tid, address, real.to_bytes(4, "little"))

    def _known(self, pid: int) -> int:
        """The number that was told to a process, 0 for none."""
        started, number, _ = self._told.get(pid, _NONE)
        if number and started != _started(pid):
            self._forget(pid)  # the process that has the number now is another one
            return 0
        return number

    def _tell(self, pid: int, origin: Origin) -> int:
        import hashlib  # late: it loads OpenSSL, and most sessions tell nobody a number

        if not _has_our_numbers(pid) or _is_interactive(pid):
            return 0
        seed = self._terms.seed.encode("utf-8", "surrogateescape")
        data = b"%d:%d:%b%b" % (self._terms.epoch, len(seed), seed, origin.chain)
        number = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") % _RANGE
        while FIRST_TOLD + number in self._processes:
            number = (number + 1) % _RANGE
        if len(self._told) >= self._room:
            for other in list(self._told):
                self._known(other)
            self._room = max(_REMEMBERED, 2 * len(self._told))
        self._told[pid] = _started(pid), FIRST_TOLD + number, origin
        self._processes[FIRST_TOLD + number] = pid
        return FIRST_TOLD + number

    def _forget(self, pid: int) -> None:
        _, number, _ = self._told.pop(pid, _NONE)
        self._processes.pop(number, None)


def _started(pid: int) -> int:
    """0 for a process that is gone."""
    try:
        return proc.start_time(pid)
    except OSError:
        return 0


def _has_our_numbers(tid: int) -> bool:
    """Whether a thread lives in this process's pid namespace, and not in one below it."""
    try:
        return len(proc.status(tid, "NSpid").split()) == 1
    except OSError:
        return False


def _is_interactive(pid: int) -> bool:
    """Whether a shell has a terminal and talks by it: then it compares its number with those of real groups."""
    try:
        line = proc.read(pid, "stat")
        if line[line.rindex(b")") + 2 :].split()[4] == b"0":  # tty_nr (proc(5))
            return False
        for word in proc.command_line(pid)[1:]:
            if word[:1] not in ("-", "+"):
                return False  # a script
            if not word.startswith("--") and set(word) & {"c", "i"}:
                return "i" in word
        return stat.S_ISCHR(os.stat(f"/proc/{pid}/fd/0").st_mode)
    except (OSError, ValueError):
        return False
