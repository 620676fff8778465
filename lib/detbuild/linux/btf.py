# SPDX-License-Identifier: MIT
"""The running kernel's own description of its types (BTF): where a member of a struct lies, and which functions exist.

The format is the kernel's Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from functools import cached_property
from pathlib import Path

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_ARRAY, _STRUCT, _UNION, _FUNC, _VAR = 3, 4, 5, 12, 14
# Bytes behind each kind's common part: fixed ones, and those per element.
_EXTRA = {1: 4, _ARRAY: 12, _VAR: 4, 17: 4}
_ELEMENT = {_STRUCT: 12, _UNION: 12, 6: 8, 13: 8, 15: 12, 19: 12}


class Btf:
    """Types of one BTF blob. Raises ValueError for what is none."""

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEADER.size:
            raise ValueError("no BTF: too short")
        magic, version, _, length, types, types_size, strings, strings_size = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != 1:
            raise ValueError(f"no BTF of version 1: magic {magic:#x}, version {version}")
        self._types = memoryview(data)[length + types : length + types + types_size]
        self._strings = data[length + strings : length + strings + strings_size]

    @classmethod
    def of_kernel(cls) -> Btf:
        """Raises OSError where the kernel carries none."""
        return cls(VMLINUX.read_bytes())

    @cached_property
    def _index(self) -> tuple[list[int], dict[str, int], dict[tuple[int, int], int]]:
        """Each type's offset by its number, structs by name, and numbers by kind and their name's offset."""
        offsets, at = [0], 0
        structs: dict[str, int] = {}
        numbers: dict[tuple[int, int], int] = {}
        unpack, size = _TYPE.unpack_from, _TYPE.size
        while at < len(self._types):
            name, info, _ = unpack(self._types, at)
            kind = info >> 24 & 0x1F
            if kind in (_STRUCT, _UNION) and name:
                structs.setdefault(self._string(name), at)
            elif kind in (_FUNC, _VAR):
                numbers[kind, name] = len(offsets)
            offsets.append(at)
            at += size + _EXTRA.get(kind, 0) + _ELEMENT.get(kind, 0) * (info & 0xFFFF)
        return offsets, structs, numbers

    def function(self, name: str) -> int:
        """The type id of a function, 0 where the kernel describes none of that name."""
        return self._number(_FUNC, name)

    def variable(self, name: str) -> int:
        """The type id of a variable, 0 where the kernel describes none of that name: most are those of each CPU."""
        return self._number(_VAR, name)

    def _number(self, kind: int, name: str) -> int:
        wanted, at = b"\0" + name.encode() + b"\0", -1
        while (at := self._strings.find(wanted, at + 1)) >= 0:
            if number := self._index[2].get((kind, at + 1)):
                return number
        return 0

    def size(self, name: str) -> int:
        """Bytes of a struct. Raises KeyError where there is none."""
        return int(_TYPE.unpack_from(self._types, self._index[1][name])[2])

    def offset(self, name: str, member: str) -> int:
        """Where a member of a struct begins, in bytes; members of nameless inner structs count. Raises KeyError."""
        found = self._find(self._index[1][name], member)
        if found is None:
            raise KeyError(f"struct {name} has no {member}")
        return found // 8

    def _find(self, at: int, member: str) -> int | None:
        _, info, _ = _TYPE.unpack_from(self._types, at)
        for number in range(info & 0xFFFF):
            name, kind, bits = _MEMBER.unpack_from(self._types, at + _TYPE.size + number * _MEMBER.size)
            bits = bits & 0xFFFFFF if info >> 31 else bits
            if name and self._string(name) == member:
                return int(bits)
            inner = self._index[0][kind]
            if not name and _TYPE.unpack_from(self._types, inner)[1] >> 24 & 0x1F in (_STRUCT, _UNION):
                found = self._find(inner, member)
                if found is not None:
                    return int(bits) + found
        return None

    def _string(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()
