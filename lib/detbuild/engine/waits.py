# SPDX-License-Identifier: MIT
"""Sleeps and waits until a wall-clock moment: they last as long as outside, and move the thread's clock.

A deadline counts from the fixed clock, the kernel waits by the real one. So the kernel is given a copy with the
deadline carried over; the caller's own memory may be shared, read-only, and passed again. A deadline that is waited
for again, as after every wake-up of a condition variable, keeps the real moment it was first given: for its thread
where it lies on that thread's stack, for its process where it lies elsewhere and may be shared. A thread whose clock
lags may compute a moment that another one computed long before, and means a later one.
"""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Callable

from detbuild.engine.tracee import Deadline, Finish, Thread, lend, values
from detbuild.linux import memory, proc
from detbuild.linux.ptrace import Registers
from detbuild.linux.x86_64 import Abi
from detbuild.policy import WALL_CLOCKS

SECOND = 1_000_000_000
MILLISECOND = 1_000_000

_ABSOLUTE = 1
_STEADY_CLOCKS = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
# What is left of a sleep, in nanoseconds, and to which multiple it is rounded up.
_STEPS = ((500 * MILLISECOND, 100 * MILLISECOND), (50 * MILLISECOND, 10 * MILLISECOND), (0, MILLISECOND))
_REMEMBERED = 256
_OWN_STACK = 1 << 16  # bytes above the stack pointer in which a caller's variables lie

_TIMED_OUT = -errno.ETIMEDOUT & 0xFFFFFFFF


def begin(thread: Thread, abi: Abi, call: str, registers: Registers) -> Finish | None:
    """At a wait's start: what to do at its end, None for nothing. May change the registers.

    Raises OSError where the caller's memory is out of reach (EFAULT is its own fault), or /proc does not tell a
    timer's clock.
    """
    name = _name(call)
    if name == "clock_nanosleep":
        clock, flags, pointer = values(abi, registers)[:3]
        if not flags & _ABSOLUTE:
            return _sleep(_timespec(thread.tid, abi, call, pointer))
        if clock & 0xFFFFFFFF not in WALL_CLOCKS:
            return _sleep_until(clock & 0xFFFFFFFF, _timespec(thread.tid, abi, call, pointer))
    if name in _DURATIONS:
        return _sleep(_DURATIONS[name](thread.tid, abi, call, values(abi, registers)))
    return _deadline(thread, abi, call, name, registers)


def concerns(tid: int, call: str, arguments: list[int]) -> bool:
    """Whether a call with a deadline, of those that the supervisor hears of, waits by a wall clock. Raises OSError."""
    index, clock_of = _PLACES[_name(call)]
    return bool(arguments[index]) and clock_of(tid, arguments) in WALL_CLOCKS


def passes(thread: Thread, abi: Abi, call: str, arguments: list[int]) -> bool:
    """Whether a wait need not be carried over: its moment is past on the real clock too, as the kernel will see.

    The thread's clock has reached the moment then. Raises OSError.
    """
    index, clock_of = _PLACES[_name(call)]
    if call.startswith("timer"):
        return False
    moment, pointer = _timespec(thread.tid, abi, call, arguments[index]), arguments[index]
    known = thread.process.deadlines.get((pointer, moment)) or thread.deadlines.get((0, moment))
    outside = _real_now(clock_of(thread.tid, arguments))
    if moment > outside or (known is not None and known > outside):
        return False
    if known is None:
        return thread.clock.now() >= moment
    thread.clock.reach(moment)
    return True


def _name(call: str) -> str:
    return call.removesuffix("_time64").removesuffix("64")


def _sleep(nanoseconds: int) -> Finish:
    def finish(thread: Thread, registers: Registers) -> None:
        if registers.rax == 0:
            thread.clock.advance(nanoseconds)

    return finish


def _sleep_until(clock: int, moment: int) -> Finish | None:
    """A sleep by a real clock's deadline, as Python's time.sleep makes one of its own relative sleep.

    What is left of it depends on how long the caller took to ask. Rounded up it repeats in every run, and the longer
    the sleep the more is forgiven.
    """
    if clock not in _STEADY_CLOCKS:
        return None  # CPU time, or no clock at all
    left = max(0, moment - time.clock_gettime_ns(clock))
    step = next(step for least, step in _STEPS if left >= least)
    return _sleep(-(-left // step) * step)


def _deadline(thread: Thread, abi: Abi, call: str, name: str, registers: Registers) -> Finish | None:
    index, clock_of = _PLACES[name]
    arguments = values(abi, registers)
    pointer = arguments[index]
    clock = clock_of(thread.tid, arguments)
    if not pointer or clock not in WALL_CLOCKS:
        return None
    is_timer = name.endswith("_settime")
    interval = _read(thread.tid, abi, call, pointer) if is_timer else b""
    seconds, nanoseconds = _fields(thread.tid, abi, call, pointer + len(interval))
    moment = seconds * SECOND + nanoseconds
    if seconds < 0 or not 0 <= nanoseconds < SECOND or (is_timer and not moment):
        return None  # the kernel refuses the time, or disarms the timer
    own = 0 <= pointer - registers.rsp < _OWN_STACK
    known = {} if is_timer else thread.deadlines if own else thread.process.deadlines
    real = _carry(thread, (0 if own else pointer, moment), clock, known)
    layout = _layout(abi, call)
    latest = (1 << 8 * struct.calcsize(layout) // 2 - 1) - 1
    copy = struct.pack(layout, min(real // SECOND, latest), real % SECOND)
    lend(thread, abi, registers, index, interval + copy)

    def finish(thread: Thread, registers: Registers) -> None:
        ended = registers.rax == 0 if name == "clock_nanosleep" else registers.rax & 0xFFFFFFFF == _TIMED_OUT
        if ended and not is_timer:
            thread.clock.reach(moment)

    return finish


def _carry(thread: Thread, deadline: Deadline, clock: int, known: dict[Deadline, int]) -> int:
    """The real moment of a fixed one, in nanoseconds, never 0: that would disarm a timer."""
    if deadline not in known:
        if len(known) >= _REMEMBERED:
            del known[next(iter(known))]
        known[deadline] = max(1, deadline[1] - thread.clock.now() + _real_now(clock))
    return known[deadline]


def _real_now(clock: int) -> int:
    # The other wall clocks are CLOCK_REALTIME's, and a machine without an alarm refuses CLOCK_REALTIME_ALARM.
    return time.clock_gettime_ns(clock if clock == time.CLOCK_TAI else time.CLOCK_REALTIME)


def _layout(abi: Abi, call: str) -> str:
    wide = abi.word == 8 or call.endswith("64") or call in ("futex_waitv", "futex_wait")
    return "=qq" if wide else "=ii"


def _read(tid: int, abi: Abi, call: str, pointer: int) -> bytes:
    size = struct.calcsize(_layout(abi, call))
    data = memory.read(tid, pointer, size)
    if len(data) < size:
        raise OSError(errno.EFAULT, "the time ends before its page does")
    return data


def _fields(tid: int, abi: Abi, call: str, pointer: int) -> tuple[int, int]:
    seconds, fraction = struct.unpack(_layout(abi, call), _read(tid, abi, call, pointer))
    # A 32-bit program's nanoseconds are half of a 64-bit field; the kernel ignores the other half.
    return seconds, fraction & 0xFFFFFFFF if abi.word == 4 else fraction


def _timespec(tid: int, abi: Abi, call: str, pointer: int) -> int:
    seconds, nanoseconds = _fields(tid, abi, call, pointer)
    return seconds * SECOND + nanoseconds


def _from_timespec(index: int) -> Callable[[int, Abi, str, list[int]], int]:
    def duration(tid: int, abi: Abi, call: str, arguments: list[int]) -> int:
        return _timespec(tid, abi, call, arguments[index]) if arguments[index] else 0

    return duration


def _from_timeval(tid: int, abi: Abi, call: str, arguments: list[int]) -> int:
    if not arguments[4]:
        return 0
    seconds, microseconds = _fields(tid, abi, call, arguments[4])
    return seconds * SECOND + microseconds * 1000


def _from_milliseconds(tid: int, abi: Abi, call: str, arguments: list[int]) -> int:
    milliseconds = arguments[2] & 0xFFFFFFFF
    return milliseconds * MILLISECOND if milliseconds < 1 << 31 else 0


_DURATIONS: dict[str, Callable[[int, Abi, str, list[int]], int]] = {
    "nanosleep": _from_timespec(0),
    "pselect6": _from_timespec(4),
    "ppoll": _from_timespec(2),
    "select": _from_timeval,
    "_newselect": _from_timeval,
    "poll": _from_milliseconds,
}


def _argument(index: int) -> Callable[[int, list[int]], int]:
    return lambda _tid, arguments: arguments[index] & 0xFFFFFFFF


def _realtime(_tid: int, _arguments: list[int]) -> int:
    return time.CLOCK_REALTIME


def _timerfd_clock(tid: int, arguments: list[int]) -> int:
    """The clock of a timerfd (proc(5), fdinfo), or -1 for a descriptor that is none."""
    try:
        text = proc.read(tid, f"fdinfo/{arguments[0] & 0xFFFFFFFF}").decode()
    except FileNotFoundError:
        return -1
    return int(text.partition("\nclockid:")[2].partition("\n")[0] or -1)


def _timer_clock(tid: int, arguments: list[int]) -> int:
    """The clock of a POSIX timer (proc(5), timers), or -1 for one that does not exist."""
    text = proc.read(tid, "timers").decode()
    rest = ("\n" + text).partition(f"\nID: {arguments[0] & 0xFFFFFFFF}\n")[2]
    return int(rest.partition("ClockID: ")[2].partition("\n")[0] or -1)


# call: (the argument that points to the deadline, whose clock it is on).
_PLACES: dict[str, tuple[int, Callable[[int, list[int]], int]]] = {
    "clock_nanosleep": (2, _argument(0)),
    "futex": (3, _realtime),
    "futex_waitv": (3, _argument(4)),
    "futex_wait": (4, _argument(5)),
    "mq_timedsend": (4, _realtime),
    "mq_timedreceive": (4, _realtime),
    "timer_settime": (2, _timer_clock),
    "timerfd_settime": (2, _timerfd_clock),
}
