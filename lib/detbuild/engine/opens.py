# SPDX-License-Identifier: MIT
"""Where a program opens a file of the outside world: it is counted, and a fixed one is made of memory.

The program makes memfd_create(2) in place of its open, so nothing of its own is needed: no /proc, no rights, no room in
a directory. What it then reads is written through its own descriptor, and sealed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import posixpath
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detbuild import policy
from detbuild.audit import FIXED, LEAKED
from detbuild.engine.devices import Devices
from detbuild.engine.execution import LONGEST_PATH, signed, text
from detbuild.engine.filter import NOT_READING
from detbuild.engine.namespace import AT_FDCWD, Directory
from detbuild.engine.outside import Asker, Found, Outside, content, holds_device
from detbuild.engine.tracee import Pending, Thread, lend, values
from detbuild.linux import descriptors, memory, proc, ptrace
from detbuild.linux.ptrace import Registers
from detbuild.linux.x86_64 import X32_BIT, Abi
from detbuild.outside import DEVICES
from detbuild.policy import Rule, Treatment
from detbuild.program import Program

if TYPE_CHECKING:
    from detbuild.engine.tracer import Tracer

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Opens:
    """The outside files of one session. All methods are for the tracer's own thread.

    ``outer_filters`` is how many seccomp filters there were before the session's.
    """

    def __init__(self, tracer: Tracer, devices: Devices) -> None:
        self.outer_filters = 0
        self._tracer, self._devices = tracer, devices
        self._outside = Outside(policy.files(tracer.terms.policy))
        self._registers = Registers()

    def called(self, thread: Thread, abi: Abi, rule: Rule, program: Program) -> None:
        """At the start of a call. An open that fails is no read."""
        registers = self._registers
        ptrace.getregs(thread.tid, registers)
        try:
            number, name, flags = named(thread.tid, rule.call, values(abi, registers))
            found = self._outside.find(Directory(thread.tid, number), name) if name else None
            if not found or found.rule.treatment is Treatment.PASSED:
                return
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise
            return  # EFAULT is the caller's own
        if flags & NOT_READING:
            return
        really = thread.opens_really or thread.process.spared or found.rule.treatment is Treatment.REPORTED
        thread.opens_really = False
        if really or (found.rule.rule == "random" and program.random == "real"):
            self._count_at_end(thread, found, LEAKED)
        else:
            self._fix(thread, abi, found, flags)

    def _fix(self, thread: Thread, abi: Abi, found: Found, flags: int) -> None:
        if found.rule.path in DEVICES:
            self._count_at_end(thread, found, FIXED)
            return
        terms = self._tracer.terms
        made = None
        if not self.sandboxed(thread):
            with contextlib.suppress(OSError):
                made = content(found.rule.path, Asker(thread.tid, terms.epoch, terms.seed, thread.stream))
        if made is None:
            self._count_at_end(thread, found, LEAKED)
        else:
            self._make(thread, abi, found, made, flags)

    def _count_at_end(self, thread: Thread, found: Found, outcome: str) -> None:
        def finish(thread: Thread, registers: Registers) -> None:
            if _failed(registers):
                return
            result = outcome
            if outcome == FIXED:
                if not holds_device(thread.tid, registers.rax):
                    return  # a file of that name in a root of the program's own
                result = FIXED if self._devices.opened(thread) else LEAKED
            self._tracer.count(thread, found.source, result)

        thread.pending = Pending(finish)

    def sandboxed(self, thread: Thread) -> bool:
        """Whether a filter of the program's own may not know the call that we would have it make."""
        process = thread.process
        own = self.outer_filters + 1 + process.filters + process.devices
        return not thread.noted and proc.number(thread.tid, "Seccomp_filters") > own

    def _make(self, thread: Thread, abi: Abi, found: Found, made: bytes, flags: int) -> None:
        registers = self._registers
        before = Registers.from_buffer_copy(registers)
        try:
            lend(thread, abi, registers, 0, os.fsencode(posixpath.basename(found.source)) + b"\0")
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise
            self._count_at_end(thread, found, LEAKED)
            return
        cloexec = os.MFD_CLOEXEC if flags & os.O_CLOEXEC else 0
        setattr(registers, abi.arguments[1], cloexec | os.MFD_ALLOW_SEALING)
        registers.orig_rax = abi.numbers["memfd_create"] | before.orig_rax & X32_BIT

        def finish(thread: Thread, registers: Registers) -> None:
            try:
                if _failed(registers):
                    raise OSError("no memfd_create here")
                ours = descriptors.take_of_thread(thread.tid, registers.rax)
                try:
                    fill(ours, made)
                finally:
                    os.close(ours)
            except ProcessLookupError:
                raise
            except OSError:
                # The caller makes its own call after all.
                thread.opens_really = True
                registers.rip -= 2
                registers.rax, registers.orig_rax = before.orig_rax, (1 << 64) - 1
                ptrace.setregs(thread.tid, registers)
                return
            self._tracer.count(thread, found.source, FIXED)

        self._tracer.wait_for(thread, registers, before, finish)


def named(tid: int, call: str, given: Sequence[int]) -> tuple[int, bytes | None, int]:
    """The directory's descriptor, the name and the flags of an open call. Raises OSError."""
    number, at = (AT_FDCWD, given[0]) if call == "open" else (signed(given[0]), given[1])
    name = text(tid, at, LONGEST_PATH)
    return number, name, _flags(tid, call, given) if name else 0


def _flags(tid: int, call: str, given: Sequence[int]) -> int:
    """The flags of an open call. Raises OSError."""
    if call != "openat2":
        return given[1 if call == "open" else 2]
    data = memory.read(tid, given[2], 8)
    return int(struct.unpack("=Q", data.ljust(8, b"\0"))[0])


def _failed(registers: Registers) -> bool:
    return int(registers.rax) & 0xFFFFFFFF > 0xFFFFF000


def fill(ours: int, made: bytes) -> None:
    """Write a file of memory that its reader finds at its start, and seal it. Raises OSError."""
    os.pwrite(ours, made, 0)
    fcntl.fcntl(ours, fcntl.F_ADD_SEALS, _SEALS)
