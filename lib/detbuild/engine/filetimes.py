# SPDX-License-Identifier: MIT
"""File times: later than the epoch is shown as the epoch, and what was shown is never written back to disk."""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Sequence

from detbuild.engine.tracee import Finish, Thread, lend, values
from detbuild.linux import memory
from detbuild.linux.ptrace import Registers
from detbuild.linux.x86_64 import NATIVE, Abi

SECOND = 1_000_000_000
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

# call: (the argument that points to the result, the times' format, their offsets), from the kernel's
# arch/x86/include/uapi/asm/stat.h and include/uapi/linux/stat.h. Each time is seconds, then nanoseconds.
_Layout = tuple[int, str, tuple[int, ...]]
_STATX: _Layout = (4, "=qI", (64, 80, 96, 112))
_NATIVE: dict[str, _Layout] = {
    "stat": (1, "=qq", (72, 88, 104)),
    "lstat": (1, "=qq", (72, 88, 104)),
    "fstat": (1, "=qq", (72, 88, 104)),
    "newfstatat": (2, "=qq", (72, 88, 104)),
    "statx": _STATX,
}
_I386: dict[str, _Layout] = {
    "oldstat": (1, "=I", (20, 24, 28)),
    "oldlstat": (1, "=I", (20, 24, 28)),
    "oldfstat": (1, "=I", (20, 24, 28)),
    "stat": (1, "=II", (32, 40, 48)),
    "lstat": (1, "=II", (32, 40, 48)),
    "fstat": (1, "=II", (32, 40, 48)),
    "stat64": (1, "=II", (64, 72, 80)),
    "lstat64": (1, "=II", (64, 72, 80)),
    "fstat64": (1, "=II", (64, 72, 80)),
    "fstatat64": (2, "=II", (64, 72, 80)),
    "statx": _STATX,
}


def show(abi: Abi, call: str, epoch: int) -> Finish:
    """At the end of a stat call: put the epoch, in seconds, over every later time of its result."""
    index, layout, offsets = (_NATIVE if abi is NATIVE else _I386)[call]

    def finish(thread: Thread, registers: Registers) -> None:
        if registers.rax:
            return
        address, size = values(abi, registers)[index] + offsets[0], offsets[-1] + struct.calcsize(layout) - offsets[0]
        data = bytearray(_read(thread.tid, address, size))
        true = bytes(data)
        for offset in offsets:
            when = struct.unpack_from(layout, data, offset - offsets[0])
            if when[0] > epoch or (when[0] == epoch and any(when[1:])):
                struct.pack_into(layout, data, offset - offsets[0], epoch, *[0] * (len(when) - 1))
        if data != true:
            memory.write(thread.tid, address, bytes(data))

    return finish


def _read(tid: int, address: int, size: int) -> bytes:
    data = memory.read(tid, address, size)
    if len(data) < size:
        raise OSError(errno.EFAULT, "the times end before their page does")
    return data


# call: (the argument that points to two times, their format, nanoseconds in the second field's unit).
_UTIMENSAT = (2, "=qqqq", 1)
_TIMES: dict[tuple[str, int], tuple[int, str, int]] = {
    ("utime", 8): (1, "=qq", 0),
    ("utime", 4): (1, "=ii", 0),
    ("utimes", 8): (1, "=qqqq", 1000),
    ("utimes", 4): (1, "=iiii", 1000),
    ("futimesat", 8): (2, "=qqqq", 1000),
    ("futimesat", 4): (2, "=iiii", 1000),
    ("utimensat", 8): _UTIMENSAT,
    ("utimensat", 4): (2, "=iiii", 1),
    ("utimensat_time64", 4): _UTIMENSAT,
}


def keep(thread: Thread, abi: Abi, call: str, registers: Registers, epoch: int) -> Finish | None:
    """Explicit times between the epoch and the thread's own now were shown, not meant: they become the real now."""
    meant = replaced(thread, abi, call, values(abi, registers), epoch)
    if meant is None:
        return None
    lend(thread, abi, registers, _TIMES[call, abi.word][0], meant)
    return lambda _thread, _registers: None


def replaced(thread: Thread, abi: Abi, call: str, arguments: Sequence[int], epoch: int) -> bytes | None:
    """What ``keep`` gives to the kernel instead of the caller's times; None where they stay. Raises OSError."""
    index, layout, unit = _TIMES[call, abi.word]
    pointer = arguments[index]
    if not pointer:
        return None
    fields = struct.unpack(layout, _read(thread.tid, pointer, struct.calcsize(layout)))
    if abi.word == 4 and layout == "=qqqq":
        # A 32-bit program's nanoseconds are half of their field; the kernel ignores the other half.
        fields = tuple(field & 0xFFFFFFFF if at % 2 else field for at, field in enumerate(fields))
    last = (1 << 8 * struct.calcsize(layout[:2]) - 1) - 1
    written = _real(fields, unit, epoch, thread.clock.now(), last)
    return None if written is None else struct.pack(layout, *written)


def _real(fields: tuple[int, ...], unit: int, epoch: int, latest: int, last: int) -> list[int] | None:
    """The fields with shown times replaced, None where there are none. ``last`` is the last second that fits."""
    step = 2 if unit else 1
    result, changed = list(fields), False
    real = time.time_ns()
    for at in range(0, len(fields), step):
        fraction = fields[at + 1] if unit else 0
        if unit == 1 and fraction in (UTIME_NOW, UTIME_OMIT):
            continue
        if epoch * SECOND <= fields[at] * SECOND + fraction * unit <= latest:
            changed = True
            if unit == 1:
                result[at + 1] = UTIME_NOW
            else:
                result[at : at + step] = [min(real // SECOND, last), *([real % SECOND // unit] if unit else [])]
    return result if changed else None
