# SPDX-License-Identifier: MIT
"""The machine that a session's programs see: one host, one kernel, and no load.

The host's name is one that every machine knows, so that it can be looked up. The release is that of a long-term kernel
that no libc and no build takes for too old. The machine (x86_64, or i686 after setarch) is the real one, and so is the
memory's size. The number of CPUs is one that lets builds run in parallel on any machine.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable, Sequence

from detbuild.linux import memory, proc
from detbuild.linux.libc import libc, oserror
from detbuild.linux.x86_64 import Abi

NODE, RELEASE, VERSION, DOMAIN = "localhost", "6.12.0", "#1 SMP PREEMPT_DYNAMIC", "(none)"
UPTIME = 86_400  # seconds
PROCESSES = 100
CPUS = 4

_CPU_MASK = 8  # bytes that the kernel writes for up to 64 CPUs

_PER_LINUX32 = 8

# struct sysinfo (linux/sysinfo.h): uptime, three loads, total, free, shared and buffered memory, total and free swap,
# processes, total and free high memory, the unit of memory in bytes.
_SYSINFO = struct.Struct("=q3Q6QH6x2QI4x")
_SYSINFO_32 = struct.Struct("=i3I6IH2x2II8x")


def uname(pid: int, _abi: Abi, call: str, arguments: Sequence[int]) -> int:
    """uname(2), and the two elder calls with fewer and shorter fields: the call's result. Raises OSError."""
    persona = int(proc.read(pid, "personality"), 16)
    machine = "i686" if persona & 0xFF == _PER_LINUX32 else "x86_64"
    fields = [text.encode() for text in ("Linux", NODE, RELEASE, VERSION, machine, DOMAIN)]
    length = 9 if call == "oldolduname" else 65
    if call != "uname":
        fields.pop()
    memory.write(pid, arguments[0], b"".join(field[: length - 1].ljust(length, b"\0") for field in fields))
    return 0


def sysinfo(pid: int, abi: Abi, _call: str, arguments: Sequence[int]) -> int:
    """sysinfo(2) with the real memory: the call's result. Raises OSError."""
    buffer = ctypes.create_string_buffer(_SYSINFO.size)
    if libc.sysinfo(buffer) < 0:
        raise oserror("sysinfo")
    _, _, _, _, *sizes, _, high, free_high, unit = _SYSINFO.unpack(buffer.raw)
    amounts = [*sizes, high, free_high]
    if abi.word == 4:
        while any(amount >> 32 for amount in amounts):
            amounts, unit = [amount >> 1 for amount in amounts], unit << 1
    layout = _SYSINFO if abi.word == 8 else _SYSINFO_32
    memory.write(pid, arguments[0], layout.pack(UPTIME, 0, 0, 0, *amounts[:6], PROCESSES, *amounts[6:], unit))
    return 0


def sched_getaffinity(pid: int, _abi: Abi, _call: str, arguments: Sequence[int]) -> int | None:
    """sched_getaffinity(2) of the caller's own process: the call's result, None for another one. Raises OSError."""
    asked, size, address = arguments[0] & 0xFFFFFFFF, arguments[1] & 0xFFFFFFFF, arguments[2]
    if asked not in (0, pid) and proc.number(asked, "Tgid") != proc.number(pid, "Tgid"):
        return None
    if size < _CPU_MASK or size % 4:
        return -errno.EINVAL
    memory.write(pid, address, ((1 << CPUS) - 1).to_bytes(_CPU_MASK, "little"))
    return _CPU_MASK


def sched_setaffinity(pid: int, _abi: Abi, _call: str, arguments: Sequence[int]) -> int:
    """sched_setaffinity(2): done, as far as the caller can tell. The CPUs that it knows of may not be there."""
    size = min(arguments[1] & 0xFFFFFFFF, _CPU_MASK)
    mask = memory.read(pid, arguments[2], size) if size else b""
    return 0 if any(mask) else -errno.EINVAL


IDENTITIES: dict[str, Callable[[int, Abi, str, Sequence[int]], int | None]] = {
    "uname": uname,
    "olduname": uname,
    "oldolduname": uname,
    "sysinfo": sysinfo,
    "sched_getaffinity": sched_getaffinity,
    "sched_setaffinity": sched_setaffinity,
}
