# SPDX-License-Identifier: MIT
""".rpm packages: the header's tags by rpmfile, the payload by libarchive."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detbuild.compare.inside.archive import members_of
from detbuild.compare.inside.member import Damaged, Member

RANK = 5
_LIMIT = 64 << 20  # bytes of header that are read
# What restates the payload, which is compared itself; its digests follow.
_RESTATED = (
    "file", "dir", "basenames", "size", "archivesize", "longsize", "longarchivesize", "payload", "md5", "sha", "header",
    "origbasenames", "signature",
)  # fmt: skip
# Digests of what stands elsewhere in the package, and what a key made.
_SIGNATURES = ("siggpg", "sigpgp", "rsaheader", "dsaheader", "sig_")


def opens(head: bytes, path: Path) -> bool:
    return head.startswith(b"\xed\xab\xee\xdb")


class Reader:
    kind = "rpm package"

    def __init__(self, path: Path) -> None:
        import io

        import rpmfile

        self._path = path
        try:
            with path.open("rb") as stream:
                self._headers: dict[str, Any] = rpmfile.RPMFile(fileobj=io.BytesIO(stream.read(_LIMIT))).headers
        except Exception as error:
            # rpmfile checks little: a damaged header surfaces as whatever Python makes of it.
            raise Damaged(f"its header cannot be read: {type(error).__name__}: {error}") from error

    def header(self) -> dict[str, str]:
        fields = {}
        for name, value in self._headers.items():
            if str(name).startswith(_RESTATED) and not str(name).startswith(_SIGNATURES):
                continue
            text = _spoken(value)
            if str(name).startswith(_SIGNATURES):
                text = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
            fields[str(name)] = text
        return fields

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        import libarchive

        try:
            with libarchive.file_reader(str(self._path), block_size=1 << 16) as archive:
                yield from members_of(libarchive, archive, numbered=False)
        except libarchive.ArchiveError as error:
            raise Damaged(str(error)) from error


def _spoken(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (list, tuple)):
        return " ".join(map(_spoken, value))
    return str(value)
