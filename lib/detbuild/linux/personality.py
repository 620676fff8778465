# SPDX-License-Identifier: MIT
"""personality(2): what a process passes on to the programs that it executes."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

from detbuild.linux.libc import libc, oserror

ADDR_NO_RANDOMIZE = 0x0040000
ASK = 0xFFFFFFFF  # the argument with which the call changes nothing


def keep_layout() -> int:
    """Give every program that this process or a descendant executes the same address layout.

    Returns the personality before. Raises OSError, EPERM where a container's filter forbids it.
    """
    persona = libc.personality(ctypes.c_ulong(ASK))
    if persona < 0 or libc.personality(ctypes.c_ulong(persona | ADDR_NO_RANDOMIZE)) < 0:
        raise oserror("personality")
    return int(persona)


@contextlib.contextmanager
def layout_kept() -> Iterator[None]:
    """``keep_layout``, for a while. Raises OSError."""
    persona = keep_layout()
    try:
        yield
    finally:
        libc.personality(ctypes.c_ulong(persona))
