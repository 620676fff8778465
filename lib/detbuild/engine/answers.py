# SPDX-License-Identifier: MIT
"""How each fixed call is answered: what is written to the caller's memory, and what the call returns.

An answer takes the caller's pid, its ABI, the call's arguments and the time in nanoseconds since 1970, and
returns the call's result. It raises OSError where the caller's memory cannot be written; EFAULT is then the
caller's own fault and is what the kernel would have returned.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Sequence

from detbuild.linux import memory
from detbuild.linux.x86_64 import Abi

Answer = Callable[[int, Abi, Sequence[int], int], int]

SECOND = 1_000_000_000
CLOCK_REALTIME = 0

# What adjtimex(2) says of a clock that nobody disciplines, as on a machine just booted (kernel/time/ntp.c).
_TIME_ERROR = 5
_STA_UNSYNC = 0x40
_MAXIMUM_ERROR = 16_000_000
_ADJ_OFFSET_SS_READ = 0xA001


def _time(pid: int, abi: Abi, arguments: Sequence[int], now: int) -> int:
    seconds = _fit(now // SECOND, abi.word)
    if arguments[0]:
        memory.write(pid, arguments[0], struct.pack("=" + abi.long, seconds))
    return seconds


def _gettimeofday(pid: int, abi: Abi, arguments: Sequence[int], now: int) -> int:
    timeval, timezone = arguments[:2]
    if timeval:
        seconds = _fit(now // SECOND, abi.word)
        memory.write(pid, timeval, struct.pack("=" + 2 * abi.long, seconds, now % SECOND // 1000))
    if timezone:
        memory.write(pid, timezone, bytes(8))
    return 0


def _clock_gettime(pid: int, abi: Abi, arguments: Sequence[int], now: int) -> int:
    seconds = _fit(now // SECOND, abi.word)
    memory.write(pid, arguments[1], struct.pack("=" + 2 * abi.long, seconds, now % SECOND))
    return 0


def _clock_gettime64(pid: int, _abi: Abi, arguments: Sequence[int], now: int) -> int:
    memory.write(pid, arguments[1], struct.pack("=qq", now // SECOND, now % SECOND))
    return 0


def _adjtimex(pid: int, abi: Abi, arguments: Sequence[int], now: int) -> int:
    return _timex(pid, arguments[0], now, wide=abi.word == 8)


def _clock_adjtime(pid: int, abi: Abi, arguments: Sequence[int], now: int) -> int:
    if arguments[0] != CLOCK_REALTIME:
        return -errno.EOPNOTSUPP  # as the kernel: no other clock is disciplined
    return _timex(pid, arguments[1], now, wide=abi.word == 8)


def _clock_adjtime64(pid: int, _abi: Abi, arguments: Sequence[int], now: int) -> int:
    if arguments[0] != CLOCK_REALTIME:
        return -errno.EOPNOTSUPP
    return _timex(pid, arguments[1], now, wide=True)


def _timex(pid: int, address: int, now: int, wide: bool) -> int:
    """Fill a struct timex (linux/timex.h): of 64-bit words, or of 32-bit ones without padding."""
    modes = memory.read(pid, address, 4)
    if len(modes) < 4:
        return -errno.EFAULT
    if struct.unpack("=I", modes)[0] not in (0, _ADJ_OFFSET_SS_READ):
        # A session has no clock to set.
        return -errno.EPERM
    seconds, micros = now // SECOND, now % SECOND // 1000
    layout, pad = ("=I4xqqqqi4xqqqqqqqqi4xqqqqqi44x", b"") if wide else ("=Iiiiiiiiiiiiiiiiiiiii", bytes(44))
    # modes offset freq maxerror esterror status constant precision tolerance sec usec tick, then pulses and tai
    values = (
        0,
        0,
        _MAXIMUM_ERROR,
        _MAXIMUM_ERROR,
        _STA_UNSYNC,
        2,
        1,
        32_768_000,
        _fit(seconds, 8 if wide else 4),
    )
    packed = struct.pack(layout, struct.unpack("=I", modes)[0], *values, micros, 10_000, *[0] * 9)
    memory.write(pid, address, packed + pad)
    return _TIME_ERROR


def _fit(seconds: int, word: int) -> int:
    """Seconds in a signed C long of ``word`` bytes, wrapped as the kernel's 32-bit calls wrap after 2038."""
    half = 1 << (8 * word - 1)
    return (seconds + half) % (2 * half) - half


ANSWERS: dict[str, Answer] = {
    "time": _time,
    "gettimeofday": _gettimeofday,
    "clock_gettime": _clock_gettime,
    "clock_gettime64": _clock_gettime64,
    "adjtimex": _adjtimex,
    "clock_adjtime": _clock_adjtime,
    "clock_adjtime64": _clock_adjtime64,
}
