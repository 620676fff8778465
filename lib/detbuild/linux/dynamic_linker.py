# SPDX-License-Identifier: MIT
"""Where glibc's dynamic linker (ld.so(8)) lies in a program whose addresses are not random."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import NamedTuple

from detbuild.linux import personality

# Of glibc alone: musl's is its whole C library as well, by which programs open their own files.
_NAME = re.compile(r"/ld(?:-linux-x86-64|-2\.\d+)\.so(?:\.2)?$")
_ANY = re.compile(r"/ld(?:-[^/]*|64)?\.so(?:\.\d+)?$")
_HALF = 32


class Linker(NamedTuple):
    """``base`` is what AT_BASE says of it; its code lies from ``start`` to ``end``, which share their upper half."""

    base: int
    start: int
    end: int


def is_named(program: str) -> bool:
    """Whether a program is some library's dynamic linker itself, as ldd(1) executes it."""
    return bool(_ANY.search(program))


def find() -> Linker | None:
    """That of a 64-bit program executed with ADDR_NO_RANDOMIZE and this process's limits; None where it is not known.

    Runs cat(1). The kernel maps a program's linker first and from the top down (fs/binfmt_elf.c, arch/x86/mm/mmap.c),
    so the place depends on its size and on the limit of the stack.
    """
    cat = shutil.which("cat")
    if not cat:
        return None
    try:
        with personality.layout_kept():
            maps = subprocess.run([cat, "/proc/self/maps"], env={}, check=True, capture_output=True, text=True).stdout
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    rows = [line.split(None, 5) for line in maps.splitlines()]
    ours = [(row[0].partition("-"), row[1]) for row in rows if len(row) > 5 and _NAME.search(row[5])]
    code = [span for span, rights in ours if "x" in rights]
    if len(code) != 1:
        return None
    start, end = int(code[0][0], 16), int(code[0][2], 16)
    return Linker(int(ours[0][0][0], 16), start, end) if start >> _HALF == end >> _HALF else None
