# SPDX-License-Identifier: MIT
"""Writing a report's file: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from detbuild.errors import CompareError


def replace(path: Path, pieces: Iterable[str], encoding: str = "utf-8") -> None:
    """Write `pieces`; a regular file is replaced whole, a link or a device is written through. Raises CompareError."""
    # Such as /dev/stdout, which must never be replaced.
    direct = path.is_symlink() or (path.exists() and not path.is_file())
    target = path if direct else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with target.open("w", encoding=encoding, errors="replace", newline="\n") as stream:
            stream.writelines(pieces)
        if target != path:
            target.replace(path)
    except OSError as error:
        if target != path:
            target.unlink(missing_ok=True)
        raise CompareError(f"cannot write {path}", cause=error.strerror or str(error)) from error
