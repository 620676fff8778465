# SPDX-License-Identifier: MIT
"""Device trees as text: flattened ones (the Devicetree Specification, chapter 5), one line a property."""

from __future__ import annotations

from collections.abc import Callable, Iterator

MAGIC = b"\xd0\x0d\xfe\xed"
_BEGIN, _END, _PROPERTY, _NOP, _LAST = 1, 2, 3, 4, 9
_LINES = 200_000
_DEPTH = 64
_NAME = 256  # bytes that a name is looked for in; the specification allows 31

Read = Callable[[int, int], bytes]
"""Gives the bytes at an offset, fewer where the file ends."""


def lines(data: bytes) -> list[str] | None:
    """The tree's properties in their order; None where the data is no device tree, or a damaged one."""
    if not data.startswith(MAGIC) or len(data) < 40:
        return None
    found = [f"total size {int.from_bytes(data[4:8], 'big')}"]
    try:
        for node, name, offset, size in properties(lambda start, count: data[start : start + count]):
            found.append(f"{node}/ {name} = {spoken(data[offset : offset + size])}")
            if len(found) >= _LINES:
                break
    except ValueError:
        return None
    return found


def properties(read: Read) -> Iterator[tuple[str, str, int, int]]:
    """(node, name, offset of the value, its size) of each property in their order; the root's node is "/".

    Values are not read. Raises ValueError where the tree is damaged.
    """
    position, strings = _number(read, 8), _number(read, 12)
    path = [""]
    while True:
        token, position = _number(read, position), position + 4
        if token == _BEGIN and len(path) < _DEPTH:
            name = _name(read, position)
            path.append(name.decode("utf-8", "replace"))
            position = (position + len(name) + 4) & ~3
        elif token == _END and path:
            path.pop()
        elif token == _PROPERTY:
            size, label = _number(read, position), _number(read, position + 4)
            yield "/".join(path), _name(read, strings + label).decode("utf-8", "replace"), position + 8, size
            position = (position + 8 + size + 3) & ~3
        elif token == _LAST:
            return
        elif token != _NOP:
            raise ValueError(f"the device tree is damaged at offset {position - 4}")


def _number(read: Read, offset: int) -> int:
    word = read(offset, 4)
    if len(word) < 4:
        raise ValueError(f"the device tree ends before offset {offset + 4}")
    return int.from_bytes(word, "big")


def _name(read: Read, offset: int) -> bytes:
    name, end, _rest = read(offset, _NAME).partition(b"\0")
    if not end:
        raise ValueError(f"a name in the device tree does not end at offset {offset}")
    return name


def spoken(value: bytes) -> str:
    """A property's value as dtc(1) writes it, as far as its bytes tell of what type it is."""
    text = value.rstrip(b"\0").split(b"\0")
    if value.endswith(b"\0") and all(part and part.isascii() and part.decode("ascii").isprintable() for part in text):
        return ", ".join(f'"{part.decode("ascii")}"' for part in text)
    if len(value) > 64:
        return f"{len(value)} bytes, {value[:16].hex(' ')} ..."
    return "<" + " ".join(f"0x{value[n : n + 4].hex()}" for n in range(0, len(value), 4)) + ">"
