# SPDX-License-Identifier: MIT
"""The lock by which one daemon keeps all others away from what is its own."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from detbuild.errors import DaemonError


def take(fd: int, place: Path) -> int:
    """The descriptor, locked for as long as it is open; ``place`` is what others are kept from. Raises DaemonError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise DaemonError(f"another detbuildd has the lock on {place}", remedy="stop that one first") from error
    return fd
