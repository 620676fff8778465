"""The filter assembler, and its filters in real processes."""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
import sys

import pytest

from conftest import LIBRARY
from detbuild import policy
from detbuild.engine.filter import FILE_KINDS, Extra, decode, everybody, extra, noted, numbered, supervised, whole
from detbuild.linux import seccomp
from detbuild.linux.dynamic_linker import Linker
from detbuild.linux.seccomp import RET_USER_NOTIF
from detbuild.linux.x86_64 import ABIS, I386, NATIVE, X32_BIT, Abi
from detbuild.linux.x86_64_calls import X32


def interpret(program: bytes, number: int, arch: int, *arguments: int, pointer: int = 0) -> int:
    """What the kernel's interpreter would return for one call (only what the assembler emits)."""
    code = list(struct.iter_unpack("=HBBI", program))
    words = {seccomp.NR: number, seccomp.ARCH: arch}
    words |= {seccomp.POINTER: pointer & 0xFFFFFFFF, seccomp.POINTER + 4: pointer >> 32}
    for index, argument in enumerate((*arguments, *[0] * (6 - len(arguments)))):
        low = seccomp.argument(index)
        words |= {low: argument & 0xFFFFFFFF, low + 4: argument >> 32 & 0xFFFFFFFF}
    at = accumulator = 0
    while True:
        operation, if_true, if_false, value = code[at]
        at += 1
        if operation == 0x20:
            accumulator = words[value]
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x15:
            at += if_true if accumulator == value else if_false
        elif operation == 0x35:
            at += if_true if accumulator >= value else if_false
        elif operation == 0x45:
            at += if_true if accumulator & value else if_false
        elif operation == 0x05:
            at += value
        elif operation == 0x06:
            return int(value)
        else:
            raise AssertionError(operation)


@pytest.mark.parametrize("between", [0, 1, 253, 254, 255, 256, 257, 600])
def test_a_jump_goes_any_distance(between: int) -> None:
    code = seccomp.Assembler()
    code.load(seccomp.NR)
    code.jump_equal(1, "far")
    code.jump_below(5, "far")
    code.jump_unequal(7, "farther")
    for _ in range(between):
        code.ret(2)
    code.label("far")
    code.ret(3)
    code.label("farther")
    code.ret(4)
    program = code.assemble()
    assert [interpret(program, number, 0) for number in (1, 4, 7, 5)] == [3, 3, 2 if between else 3, 4]
    # Two more instructions where an instruction cannot say it: what reaches just far enough has none.
    assert len(program) // 8 - between - 6 == sum(between + steps > 255 for steps in (2, 1, 1))


def test_a_jump_backwards_is_refused() -> None:
    code = seccomp.Assembler()
    code.label("back")
    code.load(seccomp.NR)
    code.jump_equal(1, "back")
    with pytest.raises(ValueError, match="back"):
        code.assemble()


RULES = policy.rules("time")
PROGRAM, FILES = everybody(RULES), extra(RULES, {Extra.FILES})
HOLDS: dict[str, tuple[int, ...]] = {
    "": (),
    "wall deadline": (0, 256, 0, 1 << 40),
    "absolute": (0, 1),
    "no descriptors": (0, 0),
    "untraced": (0x00800000,),
    "timeout": (0, 0, 0, 0, 1),
}


def arguments(rule: policy.Rule) -> list[tuple[int, ...]]:
    """Arguments for which a rule's condition holds."""
    if rule.when != "wall clock":
        return [HOLDS[rule.when]]
    before = (0,) * {"futex_waitv": 4, "futex_wait": 5}.get(rule.call, 0)
    return [(*before, clock) for clock in rule.clocks]


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        pytest.param(table, rule, id=f"{table.name} {rule.call}")
        for table in ABIS
        for rule in RULES
        if rule.call in table.numbers
    ],
)
def test_a_stop_tells_its_table_and_rule(table: Abi, rule: policy.Rule) -> None:
    wanted, other = (FILES, PROGRAM) if rule.kind in FILE_KINDS else (PROGRAM, FILES)
    for holding in arguments(rule):
        result = interpret(wanted, table.numbers[rule.call], table.audit, *holding)
        if rule.treatment is policy.Treatment.REFUSED:
            assert result == seccomp.RET_ERRNO | 38
        else:
            assert result & 0xFFFF0000 == seccomp.RET_TRACE
            assert decode(result & 0xFFFF, RULES) == (table, rule)
        assert interpret(other, table.numbers[rule.call], table.audit, *holding) == seccomp.RET_ALLOW


SUPERVISED = supervised(RULES)
HOLDS |= {"absolute wall clock": (0, 1), "times": (0, 1 << 40, 1 << 40)}


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        pytest.param(table, rule, id=f"{table.name} {rule.call}")
        for table in ABIS
        for rule in RULES
        if rule.call in table.numbers
    ],
)
def test_a_supervisor_is_notified_of_what_bpf_does_not_fix(table: Abi, rule: policy.Rule) -> None:
    number = table.numbers[rule.call]
    heard = {(found.call, found.when) for _, found in numbered(RULES).values()}
    narrower = next((when for call, when in heard if call == rule.call), "")
    for holding in [HOLDS[narrower]] if narrower in HOLDS else arguments(rule):
        result = interpret(SUPERVISED, number, table.audit, *holding)
        if rule.treatment is policy.Treatment.REFUSED:
            assert result == seccomp.RET_ERRNO | 38
        elif (table.audit, number) in numbered(RULES):
            assert result & 0xFFFF0000 == RET_USER_NOTIF
            assert numbered(RULES)[table.audit, number][0] is table
        else:
            assert rule.kind in ("clock", "sleep", "file times", "untraced")
            assert result == seccomp.RET_ALLOW


def test_bpf_alone_fixes_the_clocks_that_return_in_memory_sleeps_file_times_and_forks() -> None:
    heard = {rule.call for _, rule in numbered(RULES).values()}
    assert {rule.call for rule in RULES if rule.kind == "clock"} - heard == {
        "gettimeofday",
        "clock_gettime",
        "clock_gettime64",
    }
    assert heard >= {rule.call for rule in RULES if rule.kind in ("deadline", "write times")}
    assert heard >= {rule.call for rule in RULES if rule.treatment is policy.Treatment.REPORTED}
    assert heard >= {"execve", "execveat"}


@pytest.mark.parametrize(
    ("call", "passing"),
    [
        ("clock_nanosleep", (0, 0)),  # relative
        ("clock_nanosleep", (1, 1)),  # on the monotonic clock
        ("utime", (1, 0)),
        ("utimes", (1, 0)),
        ("futimesat", (1, 1, 0)),
        ("utimensat", (1, 1, 0, 1)),
        ("clock_adjtime", (1,)),
        ("futex", (0, 0, 0, 1)),
        ("timerfd_settime", (3, 0)),
        ("getpid", ()),
        ("open", (1, 1)),
    ],
)
def test_a_supervisor_is_not_notified_of_a_call_that_needs_nothing(call: str, passing: tuple[int, ...]) -> None:
    for table in ABIS:
        assert interpret(SUPERVISED, table.numbers.get(call, 20), table.audit, *passing) == seccomp.RET_ALLOW


def test_a_supervisor_is_notified_of_executions_by_any_number() -> None:
    for table in ABIS:
        for call in ("execve", "execveat"):
            assert interpret(SUPERVISED, table.numbers[call], table.audit) & 0xFFFF0000 == RET_USER_NOTIF
            assert numbered(RULES)[table.audit, table.numbers[call]][1].call == call
    for call in ("execve", "execveat"):
        assert interpret(SUPERVISED, X32[call] | X32_BIT, NATIVE.audit) & 0xFFFF0000 == RET_USER_NOTIF
        assert numbered(RULES)[NATIVE.audit, X32[call]][1].call == call


@pytest.mark.parametrize(
    ("call", "passing"),
    [
        ("futex", (0, 256, 0, 0)),  # no timeout
        ("futex", (0, 0, 0, 1)),  # FUTEX_WAIT: its timeout is relative
        ("futex", (0, 9, 0, 1)),  # FUTEX_WAIT_BITSET on the monotonic clock
        ("futex", (0, 6, 0, 0)),  # FUTEX_LOCK_PI without a timeout
        ("timerfd_settime", (3, 0)),  # relative
        ("poll", (1, 1)),
        ("select", (1,)),
        ("clone", (0x11,)),
        ("mq_timedsend", (0, 0, 0, 0, 0)),
    ],
)
def test_a_call_whose_condition_does_not_hold_passes(call: str, passing: tuple[int, ...]) -> None:
    assert interpret(PROGRAM, NATIVE.numbers[call], NATIVE.audit, *passing) == seccomp.RET_ALLOW


def test_locking_with_priority_inheritance_and_a_timeout_stops() -> None:
    result = interpret(PROGRAM, NATIVE.numbers["futex"], NATIVE.audit, 0, 6 | 128, 0, 1)
    assert result & 0xFFFF0000 == seccomp.RET_TRACE


@pytest.mark.parametrize("clock", [1, 2, 3, 4, 6, 7, 9, 12, -7, 1 << 31])
def test_other_clocks_pass_without_a_stop(clock: int) -> None:
    for table in ABIS:
        assert interpret(PROGRAM, table.numbers["clock_gettime"], table.audit, clock) == seccomp.RET_ALLOW


def test_the_x32_table_is_the_64_bit_one() -> None:
    result = interpret(PROGRAM, NATIVE.numbers["time"] | X32_BIT, NATIVE.audit)
    assert result == interpret(PROGRAM, NATIVE.numbers["time"], NATIVE.audit)
    assert result & 0xFFFF0000 == seccomp.RET_TRACE


def test_everything_else_passes() -> None:
    known = {table.audit: set(table.numbers.values()) for table in ABIS}
    for table in ABIS:
        for number in set(range(500)) - known[table.audit]:
            assert interpret(PROGRAM, number, table.audit) == seccomp.RET_ALLOW
    assert interpret(PROGRAM, NATIVE.numbers["time"], 0x1234) == seccomp.RET_ALLOW
    assert interpret(PROGRAM, NATIVE.numbers["time"], I386.audit) != interpret(
        PROGRAM, NATIVE.numbers["time"], NATIVE.audit
    )


def test_an_installed_filter_holds_every_thread() -> None:
    script = f"""
import ctypes, sys, threading; sys.path.insert(0, {str(LIBRARY)!r})
from detbuild.linux import seccomp
from detbuild.linux.dynamic_linker import Linker
go, seen = threading.Event(), []
libc = ctypes.CDLL(None, use_errno=True)
def work():
    go.wait()
    seen.append(libc.syscall(ctypes.c_long(110)))
thread = threading.Thread(target=work)
thread.start()
code = seccomp.Assembler()
code.load(seccomp.NR)
code.jump_equal(110, "getppid")
code.ret(seccomp.RET_ALLOW)
code.label("getppid")
code.ret(seccomp.RET_ERRNO | 95)
seccomp.install(code.assemble())
go.set()
thread.join()
print(seen, libc.syscall(ctypes.c_long(110)))
"""
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout == b"[-1] -1\n"


def test_root_needs_no_no_new_privs() -> None:
    if os.geteuid():
        pytest.skip("an ordinary user needs no_new_privs")
    script = f"""
import sys; sys.path.insert(0, {str(LIBRARY)!r})
from detbuild.linux import seccomp, proc
code = seccomp.Assembler()
code.ret(seccomp.RET_ALLOW)
seccomp.install(code.assemble())
print(proc.status("self", "NoNewPrivs"), proc.status("self", "Seccomp"))
"""
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout == b"0 2\n"


def test_a_refused_filter_is_an_error() -> None:
    with pytest.raises(OSError, match="SECCOMP_SET_MODE_FILTER"):
        seccomp.install(struct.pack("=HBBI", 0xFFFF, 0, 0, 0))


@pytest.mark.parametrize("flags", [0, seccomp.argument(0), 1, 256, 0x00800000, 1 << 40])
def test_a_filter_is_evaluated_as_the_kernel_does(flags: int) -> None:
    rules = policy.rules("time")
    for abi in ABIS:
        for number in abi.numbers.values():
            arguments = [flags] * 6
            traced = interpret(whole(rules), number, abi.audit, *arguments)
            assert seccomp.evaluate(whole(rules), number, abi.audit, arguments) == traced
            if traced & 0xFFFF0000 == seccomp.RET_TRACE:
                traced ^= seccomp.RET_TRACE ^ seccomp.RET_USER_NOTIF
            assert interpret(noted(rules), number, abi.audit, *arguments) == traced


LINKER = Linker(0x7FFF_F7FC_6000, 0x7FFF_F7FC_7000, 0x7FFF_F7FE_D000)


@pytest.mark.parametrize(
    ("pointer", "stops"),
    [
        (LINKER.base, True),
        (LINKER.start - 1, True),
        (LINKER.start, False),
        (LINKER.end - 1, False),
        (LINKER.end, True),
        (LINKER.start & 0xFFFFFFFF, True),
        (0x5555_5555_5000, True),
    ],
)
def test_what_the_dynamic_linker_opens_does_not_stop(pointer: int, stops: bool) -> None:
    rules, held, own = policy.rules("strict"), seccomp.RET_TRACE, extra(policy.rules("strict"), {Extra.LINKER})
    program = everybody(rules, LINKER)
    for abi in ABIS:
        for call, kept in (("openat", stops or abi is not NATIVE), ("open", True), ("openat2", True)):
            given = abi.numbers[call], abi.audit
            result = interpret(program, *given, pointer=pointer)
            assert (result & 0xFFFF0000 == held) == kept
            assert seccomp.evaluate(program, *given, [0] * 6, pointer) == result
        # The filter of a program that has something else there.
        stop = interpret(own, abi.numbers["openat"], abi.audit, pointer=pointer)
        assert stop & 0xFFFF0000 == held
        assert decode(stop & 0xFFFF, rules)[1].call == "openat"
        assert interpret(own, abi.numbers["open"], abi.audit, pointer=pointer) == seccomp.RET_ALLOW


def test_every_combination_of_extras_stops_at_what_each_stops_at() -> None:
    rules = policy.rules("strict")
    calls = {Extra.FILES: ("newfstatat", ()), Extra.CLOCKS: ("clock_gettime", (1,)), Extra.LINKER: ("openat", ())}
    for size in range(1, 4):
        for wanted in itertools.combinations(Extra, size):
            program = extra(rules, wanted)
            for each, (call, arguments) in calls.items():
                result = interpret(program, NATIVE.numbers[call], NATIVE.audit, *arguments)
                assert (result & 0xFFFF0000 == seccomp.RET_TRACE) == (each in wanted)
