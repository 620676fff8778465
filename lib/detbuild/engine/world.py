# SPDX-License-Identifier: MIT
"""The outside world beyond the clocks: which handler answers a thread's call, and which outcome the record gets."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Sequence

from detbuild.audit import FIXED, HEAP_KEY, LEAKED, PASSED
from detbuild.engine import refusals
from detbuild.engine.filter import TIOCGWINSZ, TIOCSPGRP
from detbuild.engine.identity import IDENTITIES
from detbuild.engine.order import getdents
from detbuild.engine.pids import Pids
from detbuild.engine.stream import Stream, getrandom
from detbuild.engine.tracee import Finish, Prepare, Thread, values
from detbuild.linux import descriptors, memory, personality
from detbuild.linux.ptrace import Registers
from detbuild.linux.x86_64 import Abi
from detbuild.policy import Policy, Rule
from detbuild.program import Program

KINDS = frozenset({"random", "order", "identity", "terminal"})

Count = Callable[[Thread, str, str], None]  # what a thread read, by which call, and the outcome

AT_RANDOM_SIZE = 16  # bytes
WINDOW = struct.pack("=4H", 24, 80, 0, 0)  # struct winsize: lines, columns, and pixels that nobody knows
_NONBLOCK = 1  # GRND_NONBLOCK


def outcome(rule: Rule, program: Program) -> str:
    """Whether a program that is not spared gets fixed values: one that makes keys gets real random numbers."""
    return LEAKED if rule.kind == "random" and program.random == "real" else FIXED


def reported(rule: Rule) -> str:
    """The outcome of a call that is reported. A process's own id is no leak: most programs that ask print none."""
    return PASSED if rule.kind == "process" else LEAKED


def source(abi: Abi, rule: Rule, arguments: Sequence[int], is_first: Callable[[], bool]) -> str:
    """What the record calls a read of the real world; ``is_first`` tells whether its program read no random number yet.

    glibc 2.34 and later makes one of its own in every program, before any other: tcache_key_initialize() in malloc.c.
    """
    key = rule.kind == "random" and arguments[1] == abi.word and arguments[2] & 0xFFFFFFFF == _NONBLOCK
    return HEAP_KEY if key and is_first() else rule.call


def answer(thread: Thread, abi: Abi, rule: Rule, arguments: Sequence[int]) -> int | None:
    """The call's result, or None where the kernel has to answer. Raises OSError: EFAULT is the caller's own fault."""
    if rule.kind == "order":
        return getdents(thread.tid, abi, rule.call, arguments, thread.process.listings)
    if rule.kind == "identity":
        return IDENTITIES[rule.call](thread.tid, abi, rule.call, arguments)
    if rule.kind == "terminal":
        return _size(thread.tid, arguments) if arguments[1] & 0xFFFFFFFF == TIOCGWINSZ else None
    return getrandom(thread.tid, abi, arguments, thread.stream) if thread.stream else None


def _size(tid: int, arguments: Sequence[int]) -> int | None:
    """ioctl(2) with TIOCGWINSZ, under a supervisor; it fails where the kernel's would."""
    try:
        ours = descriptors.take_of_thread(tid, arguments[0] & 0xFFFFFFFF)
    except OSError as error:
        return -errno.EBADF if error.errno == errno.EBADF else None
    try:
        fcntl.ioctl(ours, TIOCGWINSZ, bytes(len(WINDOW)))
    except OSError as error:
        return -(error.errno or errno.ENOTTY)
    finally:
        os.close(ours)
    memory.write(tid, arguments[2], WINDOW)
    return 0


def give_random(tid: int, address: int, stream: Stream) -> None:
    """Put fixed bytes at AT_RANDOM, of which libc makes stack protectors, and some programs more. Raises OSError."""
    memory.write(tid, address, stream.child().take(AT_RANDOM_SIZE))


def begin_layout(name: str) -> None:
    """Give what this process executes one address layout, where the policy of that name has the rule.

    Raises EngineUnavailable.
    """
    if Policy.parse(name).fixes("layout"):
        try:
            personality.keep_layout()
        except OSError as error:
            raise refusals.layout_refused(error) from error


def keep_terminal(pids: Pids, count: Count) -> Prepare:
    """For the start of ioctl(2): a group is given by its real number; at the end, a terminal has the usual size."""

    def begin(thread: Thread, abi: Abi, call: str, registers: Registers) -> Finish | None:
        _, request, address, *_ = values(abi, registers)
        if request & 0xFFFFFFFF == TIOCSPGRP:
            pids.give_group(thread.tid, address)
            return None
        fixed = request & 0xFFFFFFFF == TIOCGWINSZ and not thread.process.spared
        count(thread, call, FIXED if fixed else LEAKED)

        def finish(thread: Thread, registers: Registers) -> None:
            if registers.rax == 0:
                memory.write(thread.tid, address, WINDOW)

        return finish if fixed else None

    return begin


def keep_layout(_thread: Thread, abi: Abi, _call: str, registers: Registers) -> Finish | None:
    """At the start of personality(2): what is set has ADDR_NO_RANDOMIZE as well."""
    asked = values(abi, registers)[0] & 0xFFFFFFFF
    if keeps_layout(asked):
        return None
    setattr(registers, abi.arguments[0], asked | personality.ADDR_NO_RANDOMIZE)
    return lambda _thread, _registers: None


def keeps_layout(asked: int) -> bool:
    """Whether personality(2) with that argument sets nothing that would bring randomisation back."""
    return asked == personality.ASK or bool(asked & personality.ADDR_NO_RANDOMIZE)
