"""Moments that 32 bits do not hold: a 32-bit program is told what the kernel would tell it then, and no engine ends."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from pathlib import Path

import pytest
from results import EPOCH, USABLE, build

from detbuild import Session, programs
from detbuild.engine import filetimes
from detbuild.engine.clock import SECOND, Clock
from detbuild.engine.tracee import Process, Thread
from detbuild.linux.x86_64 import I386

SOURCES = ("raw-time", "raw-gettimeofday", "raw-clock_gettime", "raw-adjtimex", "raw-clock_adjtime")


@pytest.mark.parametrize("engine", USABLE)
@pytest.mark.parametrize(("epoch", "told"), [((1 << 31) + 5, 5 - (1 << 31)), ((1 << 32) + 5, 5)])
def test_a_32_bit_program_is_told_what_is_left_of_a_late_epoch(
    engine: str, epoch: int, told: int, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    script = 'clocks=$1; files=$2; shift 2; for s; do "$clocks" plain $s; done; "$files" show file; '
    script += f'"$files" set raw-utimes file {told & 0x7FFFFFFF} 0'
    with Session(epoch, "time", engine) as session:
        done = session.run(
            ["sh", "-c", script, "sh", build("clocks", "static32"), build("file_times", "static32"), *SOURCES],
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[: len(SOURCES)] == [f"{told} 0"] * len(SOURCES)
    assert not session.audit.gaps


@pytest.mark.parametrize(("call", "layout"), [("utime", "=ii"), ("utimes", "=iiii")])
def test_a_real_moment_that_is_too_late_is_the_last_that_fits(
    call: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: (1 << 31) * SECOND)
    count = len(layout) - 1
    times = ctypes.create_string_buffer(struct.pack(layout, *([EPOCH] * 2 if count == 2 else [EPOCH, 0] * 2)))
    thread = Thread(os.getpid(), Process("/bin/true", programs.DEFAULT), Clock(EPOCH * SECOND))
    written = filetimes.replaced(thread, I386, call, [0, ctypes.addressof(times)], EPOCH)
    assert written
    assert struct.unpack(layout, written)[:: count // 2] == ((1 << 31) - 1,) * 2
