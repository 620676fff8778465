# SPDX-License-Identifier: MIT
"""Whether the kernel may preempt a task inside the kernel itself, by which programs can be skipped; and not to be."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CURRENT = (Path("/sys/kernel/debug/sched/preempt"), Path("/proc/sys/kernel/preempt"))
_SAFE = ("none", "voluntary")


def preempts(places: tuple[Path, ...] = _CURRENT, cmdline: Path = Path("/proc/cmdline"), version: str = "") -> bool:
    """True where that is so, or cannot be told.

    A kernel with PREEMPT_DYNAMIC tells its mode in debugfs only, as "none (voluntary) full"; without debugfs its
    command line may name the mode. Others tell it in their version.
    """
    for place in places:
        try:
            current = place.read_text()
        except OSError:
            continue
        return current.partition("(")[2].partition(")")[0] not in _SAFE
    words = (version or platform.version()).split()
    if "PREEMPT_DYNAMIC" in words:
        given = [word.partition("=")[2] for word in cmdline.read_text().split() if word.startswith("preempt=")]
        return not given or given[-1] not in _SAFE
    return any(word.startswith("PREEMPT") for word in words)


@contextmanager
def urgent() -> Iterator[None]:
    """Not preempted while in a map: the kernel runs no kprobe on a CPU on which one was interrupted in bpf(2)."""
    former, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        yield
    finally:
        os.sched_setscheduler(0, former, parameter)
