# SPDX-License-Identifier: MIT
"""bpf(2): maps, programs, links and their pins (linux/bpf.h), as far as an engine needs them."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from detbuild.linux.libc import libc, oserror

KPROBE, RAW_TRACEPOINT, TRACING = 2, 17, 26
TRACE_FENTRY, TRACE_FEXIT, PERF_EVENT = 24, 25, 41

_SYSCALL = 321  # x86-64
_LOOKUP, _UPDATE, _DELETE, _NEXT, _LOAD, _PIN, _GET, _INFO = 1, 2, 3, 4, 5, 6, 7, 15
_OPEN_TRACEPOINT, _BATCH, _LINK = 17, 24, 28
_RECURSION_MISSES = 208  # its offset in struct bpf_prog_info, since 5.12
_ROWS = 4096
_LOG = 1 << 16
# BPF_LD | BPF_IMM | BPF_DW takes two instructions: opcode, registers, offset and half the constant each (linux/bpf.h).
_WIDE = struct.Struct("=BBhIBBhI")
_LOAD_CONSTANT, _VARIABLE = 0x18, 3  # BPF_PSEUDO_BTF_ID
_REGISTERS = 10  # that can be written
_STATISTICS = 4  # BPF_LOG_STATS, since 5.2: what was wrong, without each step that the verifier took
_LARGEST_KEY = 4096  # bytes; no map of ours, or of another release, comes near

Key = TypeVar("Key")
Value = TypeVar("Value")


def _bpf(name: str, command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(
        ctypes.c_long(_SYSCALL), ctypes.c_long(command), ctypes.byref(buffer), ctypes.c_long(len(attributes))
    )
    if result < 0:
        raise oserror(f"bpf({name})")
    return int(result)


def _text(text: str) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(os.fsencode(text))


def pin(fd: int, path: str) -> None:
    """Keep a map, a program or a link alive by a name in a BPF file system. Raises OSError."""
    name = _text(path)
    _bpf("BPF_OBJ_PIN", _PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))


def get(path: str) -> int:
    """A descriptor of what is pinned. Raises OSError."""
    name = _text(path)
    return _bpf("BPF_OBJ_GET", _GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))


def load(name: str, kind: int, instructions: bytes, license_: bytes, *, attach: int = 0, function: int = 0) -> int:
    """Load a program; ``function`` is the type id of what a TRACING one is attached to. Raises OSError.

    Where the verifier refused, the end of what it said is the error's text.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(license_)

    def attempt(log: Any) -> int:
        attributes = struct.pack(
            "=IIQQIIQII16sIIIIQIIQII",
            kind,
            len(instructions) // 8,
            ctypes.addressof(code),
            ctypes.addressof(licence),
            _STATISTICS if log else 0,
            len(log) if log else 0,
            ctypes.addressof(log) if log else 0,
            0,
            0,
            name[:15].encode(),
            0,
            attach,
            *(0, 0, 0, 0, 0, 0, 0),
            function,
        )
        return _bpf("BPF_PROG_LOAD", _LOAD, attributes)

    try:
        return attempt(None)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES, errno.E2BIG):
            raise
        log = ctypes.create_string_buffer(_LOG)
        try:
            return attempt(log)
        except OSError:
            said = " / ".join(log.value.decode(errors="replace").splitlines()[-4:])
            raise OSError(error.errno, f"the kernel refused the program {name}: {said}") from error


def refer(instructions: bytes, constant: int, variable: int) -> bytes:
    """The same program, where a 64-bit constant is the address of a kernel's variable, by its number in the BTF."""
    low, high = constant & 0xFFFFFFFF, constant >> 32
    for register in range(_REGISTERS):
        loads = _WIDE.pack(_LOAD_CONSTANT, register, 0, low, 0, 0, 0, high)
        refers = _WIDE.pack(_LOAD_CONSTANT, register | _VARIABLE << 4, 0, variable, 0, 0, 0, 0)
        instructions = instructions.replace(loads, refers)
    return instructions


def open_tracepoint(program: int, name: str = "") -> int:
    """Attach a raw tracepoint's program by its event's name, or a TRACING one, which knows its place. The link."""
    event = _text(name)
    address = ctypes.addressof(event) if name else 0
    return _bpf("BPF_RAW_TRACEPOINT_OPEN", _OPEN_TRACEPOINT, struct.pack("=QII", address, program, 0))


def link_perf(program: int, event: int) -> int:
    """Attach a KPROBE program to a perf event; the link keeps the event. Since Linux 5.15."""
    return _bpf("BPF_LINK_CREATE", _LINK, struct.pack("=IIIIQQ", program, event, PERF_EVENT, 0, 0, 0))


def recursion_misses(program: int) -> int:
    """How often the kernel has skipped a program because it was running already."""
    info = ctypes.create_string_buffer(256)
    _bpf("BPF_OBJ_GET_INFO_BY_FD", _INFO, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)))
    return int(struct.unpack_from("=Q", info.raw, _RECURSION_MISSES)[0])


def empty(fd: int) -> bool:
    """Whether a map has no row, whatever its rows look like. Raises OSError."""
    following = ctypes.create_string_buffer(_LARGEST_KEY)
    try:
        _bpf("BPF_MAP_GET_NEXT_KEY", _NEXT, struct.pack("=I4xQQ", fd, 0, ctypes.addressof(following)))
    except FileNotFoundError:
        return True
    return False


def _copy(kind: Any, rows: Any, number: int) -> Any:
    return kind.from_buffer_copy(rows, number * ctypes.sizeof(kind))


class Map(Generic[Key, Value]):
    """A hash map by its descriptor; keys and values are ctypes."""

    def __init__(self, fd: int, key: type[Key], value: type[Value]) -> None:
        self.fd, self._key, self._value = fd, key, value

    def get(self, key: Any) -> Value | None:
        """The value, None where there is none."""
        value: Any = self._value()
        return value if self._element("LOOKUP", _LOOKUP, key, value) else None

    def put(self, key: Any, value: Any) -> None:
        """Raises OSError; E2BIG where the map is full."""
        self._element("UPDATE", _UPDATE, key, value)

    def delete(self, key: Any) -> bool:
        """Whether it was there."""
        return self._element("DELETE", _DELETE, key, None)

    def _element(self, name: str, command: int, key: Any, value: Any) -> bool:
        address = 0 if value is None else ctypes.addressof(value)
        attributes = struct.pack("=I4xQQQ", self.fd, ctypes.addressof(key), address, 0)
        try:
            _bpf(f"BPF_MAP_{name}_ELEM", command, attributes)
        except FileNotFoundError:
            return False
        return True

    def items(self) -> Iterator[tuple[Key, Value]]:
        """All rows, while others may come and go. Since Linux 5.6."""
        for keys, values, count in self._batches():
            for row in range(count):
                yield _copy(self._key, keys, row), _copy(self._value, values, row)

    def where(self, field: str, *numbers: int) -> Iterator[tuple[Key, Value]]:
        """The rows with one of ``numbers`` in a 32-bit field of key or value: no object is made for the others."""
        wanted = frozenset(numbers)
        for keys, values, count in self._batches():
            column = self._column(field, keys, values, count)
            for row in [row for row, found in enumerate(column) if found in wanted]:
                yield _copy(self._key, keys, row), _copy(self._value, values, row)

    def _column(self, field: str, keys: Any, values: Any, count: int) -> list[int]:
        kind, rows = (self._key, keys) if hasattr(self._key, field) else (self._value, values)
        step = ctypes.sizeof(kind) // 4  # type: ignore[arg-type]
        return memoryview(rows).cast("B").cast("I")[getattr(kind, field).offset // 4 : count * step : step].tolist()

    def _batches(self) -> Iterator[tuple[Any, Any, int]]:
        """Arrays of keys and values, filled again each time, and how many rows of them count."""
        at, following = ctypes.c_uint32(), ctypes.c_uint32()
        keys, values = ((kind * _ROWS)() for kind in (self._key, self._value))  # type: ignore[operator]
        first, more = True, True
        while more:
            attributes = struct.pack(
                "=QQQQIIQQ",
                0 if first else ctypes.addressof(at),
                ctypes.addressof(following),
                ctypes.addressof(keys),
                ctypes.addressof(values),
                _ROWS,
                self.fd,
                0,
                0,
            )
            # The number of rows comes back in the attributes themselves.
            buffer = ctypes.create_string_buffer(attributes, len(attributes))
            result = libc.syscall(
                ctypes.c_long(_SYSCALL), ctypes.c_long(_BATCH), ctypes.byref(buffer), ctypes.c_long(len(attributes))
            )
            if result < 0:
                if ctypes.get_errno() != errno.ENOENT:
                    raise oserror("bpf(BPF_MAP_LOOKUP_BATCH)")
                more = False
            (count,) = struct.unpack_from("=I", buffer.raw, 32)
            yield keys, values, count
            at.value, first = following.value, False
