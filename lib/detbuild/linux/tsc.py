# SPDX-License-Identifier: MIT
"""The processor's time stamp counter (Intel SDM volume 2, RDTSC), read in this process."""

from __future__ import annotations

import ctypes
import mmap

# rdtsc; shl rdx, 32; or rax, rdx; ret
_CODE = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"


class Clock:
    """Raises OSError where this process may map no code of its own."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._page.write(_CODE)
        place = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self.read = ctypes.CFUNCTYPE(ctypes.c_uint64)(place)
