# SPDX-License-Identifier: MIT
"""Kernel images that unpack themselves: bzImage, ARM's zImage, and those that EFI starts on other machines.

Described in Linux: Documentation/arch/x86/boot.rst, arch/arm/boot/compressed/head.S and
drivers/firmware/efi/libstub/zboot-header.S. Image.gz needs nothing of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from detbuild.compare.inside import pe
from detbuild.compare.inside.member import HEAD, Damaged, Member, size_of, slice_of

RANK = 20
_ARM = b"\x18\x28\x6f\x01"
_SCANNED = 1 << 20  # bytes of a zImage that its payload begins within: the code before it has some ten KiB
# What scripts/extract-vmlinux in Linux looks for.
_PAYLOAD = re.compile(
    rb"\x1f\x8b\x08|\xfd7zXZ\0|BZh[1-9]1AY|\x5d\0\0\0|\x89LZO\0|\x02\x21\x4c\x18|\x28\xb5\x2f\xfd", re.DOTALL
)

Part = tuple[str, int, int]


def opens(head: bytes, path: Path) -> bool:
    return _is_x86(head) or _is_arm(head) or _is_zboot(head)


def _is_x86(head: bytes) -> bool:
    # Before version 2.08 of the protocol nothing says where the payload is; that was Linux 2.6.26.
    return head[0x1FE:0x200] == b"\x55\xaa" and head[0x202:0x206] == b"HdrS" and _number(head, 0x206, 2) >= 0x208


def _is_arm(head: bytes) -> bool:
    return head[0x24:0x28] == _ARM


def _is_zboot(head: bytes) -> bool:
    return head[:2] == b"MZ" and head[4:8] == b"zimg"


class Reader:
    """Members are the code that unpacks, the payload, and what stands behind it, such as a signature."""

    kind = "kernel image"

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            self._head = stream.read(HEAD)

    def header(self) -> dict[str, str]:
        checksum = pe.checksum(self._head)[1]
        size = pe.signature(self._head)[1]
        return {"checksum": checksum, "signature size": str(size)} if checksum else {}

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        for name, start, size in self._parts():
            if name == "setup" and size:
                yield Member(name, size=size), iter((self._setup(size),))
            elif size > 0:
                yield Member(name, size=size), slice_of(self._path, start, size)

    def _setup(self, size: int) -> bytes:
        """Without what a signer writes there and the header tells; at most 256 sectors."""
        data = bytearray().join(slice_of(self._path, 0, size))
        checksum, entry = pe.checksum(self._head)[0], pe.signature_entry(self._head)
        if checksum:
            data[checksum : checksum + 4] = bytes(4)
            data[entry : entry + 8] = bytes(8)
        return bytes(data)

    def _parts(self) -> list[Part]:
        size = size_of(self._path)
        setup = 0
        if _is_x86(self._head):
            setup = ((self._head[0x1F1] or 4) + 1) * 512
            start, length = setup + _number(self._head, 0x248), _number(self._head, 0x24C)
        elif _is_zboot(self._head):
            start, length = _number(self._head, 8), _number(self._head, 12)
        else:
            start, length = self._scanned(size)
        if start + length > size:
            raise Damaged(f"its payload ends at {start + length} of {size} bytes")
        signature, signed = pe.signature(self._head)
        behind = min(signature, size) if signed and signature >= start + length else size
        # The linker puts the length of what is unpacked behind every compressor's stream but gzip's, which has its own.
        tail = 0 if b"".join(slice_of(self._path, start, 2)) == b"\x1f\x8b" else min(4, length)
        return [
            ("setup", 0, setup),
            ("unpacking code", setup, start - setup),
            ("payload", start, length - tail),
            ("unpacked size", start + length - tail, tail),
            ("behind the payload", start + length, behind - start - length),
            ("signature", behind, size - behind),
        ]

    def _scanned(self, size: int) -> tuple[int, int]:
        """Where ARM's payload is: its header tells the end of the image alone."""
        found = _PAYLOAD.search(b"".join(slice_of(self._path, 0x34, _SCANNED)))
        end = min(_number(self._head, 0x2C) - _number(self._head, 0x28), size)
        start = 0x34 + found.start() if found else end
        return start, max(end - start, 0)


def _number(head: bytes, offset: int, size: int = 4) -> int:
    return int.from_bytes(head[offset : offset + size], "little")
