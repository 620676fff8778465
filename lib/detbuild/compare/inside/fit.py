# SPDX-License-Identifier: MIT
"""FIT images: device trees that hold a kernel, its device trees and an initramfs, for U-Boot.

The format is that of doc/usage/fit/source_file_format.rst there. The images are inside the tree, or behind it
(mkimage -E).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from detbuild.compare import devicetree
from detbuild.compare.inside.member import Damaged, Member, size_of, slice_of

RANK = 24
_IMAGES = "//images/"
_NODE = b"\0\0\0\1images\0"
_PROPERTIES = 10_000


def opens(head: bytes, path: Path) -> bool:
    if not head.startswith(devicetree.MAGIC):
        return False
    try:
        found = devicetree.properties(lambda offset, size: head[offset : offset + size])
        return any(node.startswith(_IMAGES) and name == "type" for node, name, _offset, _size in found)
    except ValueError:
        return _NODE in head  # the names of properties are at the end, behind images that may be large


class Reader:
    kind = "FIT image"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[tuple[str, str, int, int]] = []
        try:
            for row in devicetree.properties(self._read):
                self._rows.append(row)
                if len(self._rows) > _PROPERTIES:
                    raise Damaged(f"it has more than {_PROPERTIES} properties")
        except ValueError as error:
            raise Damaged(str(error)) from error

    def header(self) -> dict[str, str]:
        fields = {}
        for node, name, offset, size in self._rows:
            if name == "data" or _is_signature(node, name):
                continue
            value = self._read(offset, size)
            label = f"{node.strip('/')} {name}".strip()
            if name == "value" and node.rsplit("/", 1)[-1].startswith("hash"):
                fields[f"{node.strip('/')} checksum"] = value.hex()
            else:
                fields[label] = str(int.from_bytes(value, "big")) if name == "timestamp" else devicetree.spoken(value)
        return fields

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        outside: dict[str, dict[str, int]] = {}
        for node, name, offset, size in self._rows:
            if _is_signature(node, name):
                yield Member(f"{node.strip('/')} signature", size=size), slice_of(self._path, offset, size)
            elif node.startswith(_IMAGES) and name == "data":
                yield Member(node.removeprefix(_IMAGES), size=size), slice_of(self._path, offset, size)
            elif node.startswith(_IMAGES) and name in ("data-position", "data-offset", "data-size"):
                outside.setdefault(node, {})[name] = int.from_bytes(self._read(offset, size), "big")
        # Offsets count from the end of the tree, at a whole word.
        end = (int.from_bytes(self._read(4, 4), "big") + 3) & ~3
        for node, fields in outside.items():
            start, size = fields.get("data-position", end + fields.get("data-offset", 0)), fields.get("data-size", 0)
            if start + size > size_of(self._path):
                raise Damaged(f"an image ends at {start + size} of {size_of(self._path)} bytes")
            yield Member(node.removeprefix(_IMAGES), size=size), slice_of(self._path, start, size)

    def _read(self, offset: int, size: int) -> bytes:
        return b"".join(slice_of(self._path, offset, size))


def _is_signature(node: str, name: str) -> bool:
    return name == "value" and node.rsplit("/", 1)[-1].startswith("signature")
