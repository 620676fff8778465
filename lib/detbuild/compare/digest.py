# SPDX-License-Identifier: MIT
"""The contents of files, read once: SHA-256, safe against links, FIFOs and files that change meanwhile."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

CHANGED = "it changed while it was compared"
CHUNK = 1 << 20  # bytes; hashlib drops Python's lock for each, so threads run side by side


class Unreadable(Exception):
    """A file's contents could not be had. The message says why."""


def digest(path: str) -> str:
    """SHA-256 of a regular file, in hexadecimal. Raises Unreadable."""
    with _opened(path) as descriptor:
        before = os.fstat(descriptor)
        result = hashlib.sha256()
        while chunk := os.read(descriptor, CHUNK):
            result.update(chunk)
        after = os.fstat(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise Unreadable(CHANGED)
    return result.hexdigest()


def check(path: str) -> None:
    """Raises Unreadable where the contents of a regular file could not be had, without reading them."""
    with _opened(path):
        pass


@contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        # Not following and not blocking: the name may have become a link or a FIFO since it was listed.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        changed = error.errno in (errno.ELOOP, errno.ENOENT, errno.ENXIO)
        raise Unreadable(CHANGED if changed else _why(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unreadable(CHANGED)
        yield descriptor
    except OSError as error:
        raise Unreadable(_why(error)) from error
    finally:
        os.close(descriptor)


def _why(error: OSError) -> str:
    return f"cannot be read: {error.strerror}"
