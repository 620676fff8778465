# SPDX-License-Identifier: MIT
"""A policy's rules as seccomp filters, and the way back from a filter's data to the rule.

For the tracer three kinds of filter: what every program of a session inherits; what a program's own rule or form adds
to that (``Extra``); and the reads, for programs that have opened a random device. Most of a build's programs need no
such stop, and a build makes tens of thousands of these calls.
For the supervisor one: what the eBPF engine's programs do not answer in the kernel.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Sequence
from enum import Enum

from detbuild.linux.dynamic_linker import Linker
from detbuild.linux.seccomp import (
    ARCH,
    NR,
    POINTER,
    RET_ALLOW,
    RET_ERRNO,
    RET_TRACE,
    RET_USER_NOTIF,
    Assembler,
    argument,
)
from detbuild.linux.x86_64 import ABIS, NATIVE, X32_BIT, Abi
from detbuild.linux.x86_64_calls import X32
from detbuild.policy import ALL_CLOCKS, WALL_CLOCKS, Rule, Treatment

_CLOCK_READS = ("clock_gettime", "clock_gettime64")
_LINKERS_CALL = "openat"
_READING = "reading"
FILE_KINDS = frozenset({"file times", "write times"})
DEVICE_KIND = "devices"

# What BPF does by itself: it follows every fork.
_OF_BPF = frozenset({"sleep", "file times", "untraced"})
_DEVICE_READS = frozenset({"read", "readv", "pread64", "preadv", "preadv2"})  # and it rewrites what they have read
# BPF rewrites results in memory as a call returns. These return the time in a register, or hold more than a time.
_ANSWERED = frozenset({"time", "adjtimex", "clock_adjtime", "clock_adjtime64"})
EXECUTIONS = tuple(
    Rule(call, Treatment.FIXED, "the program's rule is decided before it runs", kind="execution")
    for call in ("execve", "execveat")
)

_ABI_SHIFT = 12  # the data is 16 bits: the table's index above, the rule's below

_FUTEX_CLOCK_REALTIME = 256
_FUTEX_LOCK_PI = 6
_FUTEX_OPERATION = 0x7F
_ABSOLUTE = 1  # TIMER_ABSTIME and TFD_TIMER_ABSTIME
_CLONE_UNTRACED = 0x00800000
_LOWER = 0xFFFFFFFF
TIOCGWINSZ, TIOCSPGRP = 0x5413, 0x5410  # asm-generic/ioctls.h
SIOCGIFHWADDR = 0x8927  # linux/sockios.h
FIRST_TOLD = 1 << 22  # PID_MAX_LIMIT (linux/threads.h): the first process number that no kernel gives
_SECOND = ("getpriority", "setpriority", "ioprio_get", "ioprio_set")
_NUMBERS = dict.fromkeys(_SECOND, (1,)) | {"setpgid": (0, 1), "tgkill": (0, 1)}
NOT_READING = os.O_WRONLY | os.O_CREAT | os.O_DIRECTORY | os.O_PATH  # flags of an open for something else


class Extra(Enum):
    """What some programs stop at besides: their file calls, the reads of every clock, their dynamic linker's opens, and
    their opens with O_NOCTTY alone.
    """

    FILES = "file times"
    CLOCKS = "clocks"
    LINKER = "outside files"
    HEADERS = "outside files by O_NOCTTY"


_EXTRAS: dict[Extra, Callable[[Rule], bool]] = {
    Extra.FILES: lambda rule: rule.kind in FILE_KINDS,
    Extra.CLOCKS: lambda rule: rule.call in _CLOCK_READS,
    Extra.LINKER: lambda rule: rule.call == _LINKERS_CALL,
    Extra.HEADERS: lambda rule: rule.when == _READING,
}


def everybody(rules: Sequence[Rule], linker: Linker | None = None, abis: Sequence[Abi] = ABIS) -> bytes:
    """struct sock_filter[] for all programs.

    What the code of ``linker`` opens does not stop, libraries and their cache, nor do headers, most of what a build in
    C opens. A program that has something else in the linker's place wants Extra.LINKER, one that opens something else
    in the headers' way Extra.HEADERS.
    """
    rules = [rule._replace(when="reading no header") if rule.when == _READING else rule for rule in rules]
    return _compile(rules, lambda rule: rule.kind not in FILE_KINDS and rule.kind != DEVICE_KIND, abis, linker=linker)


def extra(rules: Sequence[Rule], wanted: Collection[Extra], abis: Sequence[Abi] = ABIS) -> bytes:
    """struct sock_filter[] of what programs stop at besides what everybody does."""
    own = {n: _narrowed(rule, wanted) for n, rule in enumerate(rules) if any(_EXTRAS[each](rule) for each in wanted)}
    return _compile([own.get(n, rule) for n, rule in enumerate(rules)], lambda rule: rule in own.values(), abis)


def _narrowed(rule: Rule, wanted: Collection[Extra]) -> Rule:
    if rule.call in _CLOCK_READS and Extra.CLOCKS in wanted:
        return rule._replace(clocks=ALL_CLOCKS)
    if rule.when == _READING and not (rule.call == _LINKERS_CALL and Extra.LINKER in wanted):
        return rule._replace(when="header")
    return rule


def devices(rules: Sequence[Rule], abis: Sequence[Abi] = ABIS) -> bytes:
    """struct sock_filter[] for programs that have opened a random device."""
    return _compile(rules, lambda rule: rule.kind == DEVICE_KIND, abis)


def whole(rules: Sequence[Rule], abis: Sequence[Abi] = ABIS) -> bytes:
    """struct sock_filter[] of all but the random devices' reads."""
    return _compile(rules, lambda rule: rule.kind != DEVICE_KIND, abis)


def noted(rules: Sequence[Rule], abis: Sequence[Abi] = ABIS) -> bytes:
    """As ``whole``, but calls wait for a listener's word instead of a tracer, and need none.

    The kernel takes this action before RET_TRACE, which answers ENOSYS without a tracer that asked for it.
    """
    return _compile(rules, lambda rule: rule.kind != DEVICE_KIND, abis, RET_USER_NOTIF)


def notified(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Of a policy's rules those that the supervisor acts on, some under a narrower condition, and the executions."""
    return (*filter(None, map(_notified, rules)), *EXECUTIONS)


def _notified(rule: Rule) -> Rule | None:
    if rule.kind == "clock":
        return rule if rule.call in _ANSWERED else None  # the others are counted by BPF too
    if rule.treatment is not Treatment.FIXED:
        return rule
    if rule.kind == "deadline":
        if rule.call.startswith("clock_nanosleep"):
            return rule._replace(when="absolute wall clock", clocks=WALL_CLOCKS)
        return rule
    if rule.kind == "write times":
        return rule._replace(when="times")
    return None if rule.kind in _OF_BPF or rule.call in _DEVICE_READS else rule


def supervised(rules: Sequence[Rule], abis: Sequence[Abi] = ABIS) -> bytes:
    """struct sock_filter[] for all programs of a session that a supervisor serves."""
    return _compile(notified(rules), lambda _rule: True, abis, RET_USER_NOTIF)


def numbered(rules: Sequence[Rule], abis: Sequence[Abi] = ABIS) -> dict[tuple[int, int], tuple[Abi, Rule]]:
    """What a notification is about, by its architecture and its number without X32_BIT."""
    return {
        (abi.audit, number): (abi, rule)
        for abi in abis
        for rule in notified(rules)
        if _stops(rule, abi)
        for number in _numbers(rule, abi)
    }


def decode(data: int, rules: Sequence[Rule]) -> tuple[Abi, Rule]:
    """The table and the rule of a stop, from PTRACE_GETEVENTMSG."""
    return ABIS[data >> _ABI_SHIFT], rules[data & ((1 << _ABI_SHIFT) - 1)]


def _compile(
    rules: Sequence[Rule],
    wanted: Callable[[Rule], bool],
    abis: Sequence[Abi],
    act: int = RET_TRACE,
    linker: Linker | None = None,
) -> bytes:
    code = Assembler()
    code.load(ARCH)
    for abi in abis:
        code.jump_unequal(abi.audit, f"not {abi.name}")
        code.goto(abi.name)
        code.label(f"not {abi.name}")
    code.ret(RET_ALLOW)
    for abi in abis:
        code.label(abi.name)
        code.load(NR)
        if abi is NATIVE:
            code.mask(~X32_BIT & 0xFFFFFFFF)
        stops = [(n, rule) for n, rule in enumerate(rules) if _stops(rule, abi) and wanted(rule)]
        for _, rule in stops:
            for number in _numbers(rule, abi):
                code.jump_equal(number, f"{abi.name} {rule.call}")
        code.ret(RET_ALLOW)
        for n, rule in stops:
            code.label(f"{abi.name} {rule.call}")
            stop = f"{abi.name} {rule.call} stop"
            if linker and abi is NATIVE and rule.call == _LINKERS_CALL:
                _pass(code, linker, f"{stop} elsewhere")
            if rule.when:
                _CONDITIONS[rule.when](code, rule, stop)
                code.ret(RET_ALLOW)
            code.label(stop)
            code.ret(_action(rule, act, ABIS.index(abi) << _ABI_SHIFT | n))
    return code.assemble()


def _pass(code: Assembler, linker: Linker, elsewhere: str) -> None:
    """Allow a call that the linker's code makes."""
    code.load(POINTER + 4)
    code.jump_unequal(linker.start >> 32, elsewhere)
    code.load(POINTER)
    code.jump_below(linker.start & _LOWER, elsewhere)
    code.jump_from(linker.end & _LOWER, elsewhere)
    code.ret(RET_ALLOW)
    code.label(elsewhere)


def _stops(rule: Rule, abi: Abi) -> bool:
    return rule.treatment is not Treatment.PASSED and rule.call in abi.numbers


def _numbers(rule: Rule, abi: Abi) -> tuple[int, ...]:
    """x32 has numbers of its own for the executions alone, of all the calls that stop."""
    own = (X32[rule.call],) if abi is NATIVE and rule in EXECUTIONS else ()
    return (abi.numbers[rule.call], *own)


def _action(rule: Rule, act: int, data: int) -> int:
    return RET_ERRNO | errno.ENOSYS if rule.treatment is Treatment.REFUSED else act | data


def _wall_clock(code: Assembler, rule: Rule, stop: str) -> None:
    """The clock is the last argument of the futex calls that take one, the first of all others."""
    code.load(argument({"futex_waitv": 4, "futex_wait": 5}.get(rule.call, 0)))
    for clock in rule.clocks:
        code.jump_equal(clock, stop)


def _wall_deadline(code: Assembler, rule: Rule, stop: str) -> None:
    """futex(2) with a timeout, and either FUTEX_CLOCK_REALTIME or FUTEX_LOCK_PI, which knows no other clock."""
    timed, no = f"{stop} timed", f"{stop} no"
    code.load(argument(3))
    code.jump_unequal(0, timed)
    code.load(argument(3) + 4)
    code.jump_equal(0, no)
    code.label(timed)
    code.load(argument(1))
    code.jump_set(_FUTEX_CLOCK_REALTIME, stop)
    code.mask(_FUTEX_OPERATION)
    code.jump_equal(_FUTEX_LOCK_PI, stop)
    code.label(no)


def _absolute(code: Assembler, rule: Rule, stop: str) -> None:
    code.load(argument(1))
    code.jump_set(_ABSOLUTE, stop)


def _untraced(code: Assembler, rule: Rule, stop: str) -> None:
    code.load(argument(0))
    code.jump_set(_CLONE_UNTRACED, stop)


def _flags(code: Assembler, rule: Rule) -> None:
    """open(2) has its flags in its second argument, openat(2) in its third."""
    code.load(argument(1 if rule.call == "open" else 2))


def _reading(code: Assembler, rule: Rule, stop: str) -> None:
    no = f"{stop} no"
    _flags(code, rule)
    code.jump_set(NOT_READING, no)
    code.goto(stop)
    code.label(no)


def _header(code: Assembler, rule: Rule, stop: str) -> None:
    """As gcc opens one (libcpp/files.cc, open_file)."""
    _flags(code, rule)
    code.jump_equal(os.O_NOCTTY, stop)


def _reading_no_header(code: Assembler, rule: Rule, stop: str) -> None:
    header = f"{stop} header"
    _header(code, rule, header)
    _reading(code, rule, stop)
    code.label(header)


def _group(code: Assembler, rule: Rule, stop: str) -> None:
    code.load(argument(1))
    code.jump_equal(TIOCSPGRP, stop)


def _window_or_address(code: Assembler, rule: Rule, stop: str) -> None:
    code.load(argument(1))
    code.jump_equal(TIOCGWINSZ, stop)
    code.jump_equal(SIOCGIFHWADDR, stop)


def _window_address_or_group(code: Assembler, rule: Rule, stop: str) -> None:
    _window_or_address(code, rule, stop)
    code.jump_equal(TIOCSPGRP, stop)


def numbers(call: str) -> tuple[int, ...]:
    """Which arguments of a call are process numbers."""
    return _NUMBERS.get(call, (0,))


def _told(code: Assembler, rule: Rule, stop: str) -> None:
    """A negative number is a group's."""
    for index in numbers(rule.call):
        no = f"{stop} not {index}"
        code.load(argument(index))
        code.jump_below(FIRST_TOLD, no)
        code.jump_below((1 << 32) - FIRST_TOLD + 1, stop)
        code.label(no)


def _always(code: Assembler, rule: Rule, stop: str) -> None:
    """Whoever has the filter meets the condition."""
    code.goto(stop)


def _no_descriptors(code: Assembler, rule: Rule, stop: str) -> None:
    """select(2) counts descriptors in its first argument, poll(2) in its second."""
    code.load(argument(1 if "poll" in rule.call else 0))
    code.jump_equal(0, stop)


def _timeout(code: Assembler, rule: Rule, stop: str) -> None:
    """The fifth argument of mq_timedsend(2) and mq_timedreceive(2) is not NULL."""
    _pointer(code, 4, stop)


def _times(code: Assembler, rule: Rule, stop: str) -> None:
    """utime(2) and its kin with times of the caller's own: without, the kernel takes the real now."""
    _pointer(code, 1 if rule.call in ("utime", "utimes") else 2, stop)


def _pointer(code: Assembler, index: int, stop: str) -> None:
    code.load(argument(index))
    code.jump_unequal(0, stop)
    code.load(argument(index) + 4)
    code.jump_unequal(0, stop)


def _absolute_wall_clock(code: Assembler, rule: Rule, stop: str) -> None:
    absolute, no = f"{stop} absolute", f"{stop} no"
    _absolute(code, rule, absolute)
    code.goto(no)
    code.label(absolute)
    _wall_clock(code, rule, stop)
    code.label(no)


_CONDITIONS: dict[str, Callable[[Assembler, Rule, str], None]] = {
    "wall clock": _wall_clock,
    "wall deadline": _wall_deadline,
    "absolute": _absolute,
    "untraced": _untraced,
    "no descriptors": _no_descriptors,
    "timeout": _timeout,
    _READING: _reading,
    "header": _header,
    "reading no header": _reading_no_header,
    "random device": _always,
    "group": _group,
    "window or address": _window_or_address,
    "window, address or group": _window_address_or_group,
    "told": _told,
    "times": _times,
    "absolute wall clock": _absolute_wall_clock,
}
