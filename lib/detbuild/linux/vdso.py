# SPDX-License-Identifier: MIT
"""The vDSO, where programs read the clock without a system call: hidden from a new program, or disarmed in this one."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from detbuild.linux import memory, x86_64

AT_IGNORE = 1
AT_BASE = 7
AT_ENTRY = 9
AT_RANDOM = 25
AT_SYSINFO_EHDR = 33

_FIRST_READ = 1 << 12
_LAST_AND_FIRST = struct.pack("=QQ", 0, AT_SYSINFO_EHDR)
_IGNORED = struct.pack("=Q", AT_IGNORE)
_LONGEST_STACK = 1 << 23  # a quarter of the stack limit at the most; 8 MiB covers the usual limits

# What the kernel exports for x86-64 (arch/x86/entry/vdso/vdso.lds.S) and the call that each stands for.
_ENTRIES = {
    b"__vdso_clock_gettime": x86_64.NATIVE.numbers["clock_gettime"],
    b"__vdso_gettimeofday": x86_64.NATIVE.numbers["gettimeofday"],
    b"__vdso_time": x86_64.NATIVE.numbers["time"],
}


class Given(NamedTuple):
    """What else the kernel tells a new program in its auxiliary vector; 0 for what it does not.

    ``random`` is the address of 16 random bytes (AT_RANDOM), ``base`` that of the dynamic linker (AT_BASE), ``entry``
    that of the program's own first instruction (AT_ENTRY).
    """

    random: int
    base: int
    entry: int


def hide(pid: int, stack: int, abi: x86_64.Abi) -> Given:
    """Take the vDSO out of a just executed program's auxiliary vector, before its first instruction.

    ``stack`` is its stack pointer: argc, argv, NULL, envp, NULL, then the vector's pairs of words. Raises OSError where
    the memory cannot be read or written, ValueError where it holds no vector.
    """
    size = _FIRST_READ
    while True:
        data = memory.read(pid, stack, size)
        if len(data) < abi.word:
            raise ValueError("no stack")
        if abi.word == 8 and (start := _vector(data)) and (random := _value(data, start, AT_RANDOM)):
            memory.write(pid, stack + start, _IGNORED)
            return Given(random, _value(data, start, AT_BASE), _value(data, start, AT_ENTRY))
        words = memoryview(data[: len(data) // abi.word * abi.word]).cast("Q" if abi.word == 8 else "I").tolist()
        try:
            envp_end = words.index(0, words[0] + 2)
            keys = words[envp_end + 1 :: 2]
            last = keys.index(0)
        except ValueError:
            if size > len(data) or size >= _LONGEST_STACK:
                raise ValueError("no end of the auxiliary vector on the stack") from None
            size *= 4
            continue
        break
    if AT_SYSINFO_EHDR in keys[:last]:
        entry = stack + abi.word * (envp_end + 1 + 2 * keys.index(AT_SYSINFO_EHDR))
        memory.write(pid, entry, struct.pack("=" + abi.long.upper(), AT_IGNORE))
    found = dict(zip(keys[:last], words[envp_end + 2 :: 2], strict=False))
    return Given(found.get(AT_RANDOM, 0), found.get(AT_BASE, 0), found.get(AT_ENTRY, 0))


def _vector(data: bytes) -> int:
    """Where the auxiliary vector starts, if its first pair is the vDSO's, as the kernel writes it; 0 if not.

    What is searched is the NULL behind envp and that pair's key: no pointer before it is as small as the key. Every
    program's start waits for this, and to look at each word takes several times as long.
    """
    at = _find(data, _LAST_AND_FIRST, 16, 8)  # argc and the NULL behind argv stand before
    return at + 8 if at > 0 else 0


def _value(data: bytes, start: int, key: int) -> int:
    """The value of a key in the vector at ``start``; 0 where ``data`` does not hold it."""
    at = _find(data, key.to_bytes(8, "little"), start, 16)
    return int.from_bytes(data[at + 8 : at + 16], "little") if at > 0 else 0


def _find(data: bytes, what: bytes, start: int, step: int) -> int:
    """Where ``what`` stands, a multiple of ``step`` behind ``start``; -1 for nowhere."""
    at = data.find(what, start)
    while at > 0 and (at - start) % step:
        at = data.find(what, at + 1)
    return at


def disarm() -> None:
    """Make this process's own vDSO functions plain system calls, for it and for children that never exec.

    The code is overwritten rather than hidden: libc found the functions long ago. Raises OSError where the
    kernel refuses the write and ValueError where the vDSO exports no clock_gettime.
    """
    start, end = _mapping()
    if not start:
        return
    with open("/proc/self/mem", "r+b", buffering=0) as own:
        image = os.pread(own.fileno(), end - start, start)
        symbols = _symbols(image)
        if b"__vdso_clock_gettime" not in symbols:
            raise ValueError("the vDSO exports no __vdso_clock_gettime")
        for name, number in _ENTRIES.items():
            if name in symbols:
                os.pwrite(own.fileno(), x86_64.system_call(number), start + symbols[name])


def _mapping() -> tuple[int, int]:
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            if line.endswith(b"[vdso]\n"):
                start, _, end = line.split(None, 1)[0].partition(b"-")
                return int(start, 16), int(end, 16)
    return 0, 0


def _symbols(image: bytes) -> dict[bytes, int]:
    """Name -> offset of the dynamic symbols of an ELF64 image as the loader maps it (elf(5))."""
    program_headers, entry_size, count = (
        *struct.unpack_from("<Q", image, 32),
        *struct.unpack_from("<HH", image, 54),
    )
    base, dynamic = 0, 0
    for i in range(count):
        kind, _, _, address = struct.unpack_from("<IIQQ", image, program_headers + i * entry_size)
        if kind == 1 and not base:  # PT_LOAD
            base = address
        elif kind == 2:  # PT_DYNAMIC
            dynamic = address
    tags: dict[int, int] = {}
    offset = dynamic - base
    while (pair := struct.unpack_from("<QQ", image, offset))[0]:
        tags[pair[0]] = pair[1]
        offset += 16
    strings, table = tags[5] - base, tags[6] - base  # DT_STRTAB, DT_SYMTAB
    symbols = {}
    # The string table follows the symbol table in every vDSO; there is no count of symbols without a hash table.
    for at in range(table, strings if strings > table else len(image) - 24, 24):
        name, info, _, _, value, _ = struct.unpack_from("<IBBHQQ", image, at)
        if info & 15 == 2:  # STT_FUNC
            symbols[image[strings + name : image.index(b"\0", strings + name)]] = value - base
    return symbols
