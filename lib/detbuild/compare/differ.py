# SPDX-License-Identifier: MIT
"""diffoscope on one pair: a process of its own, bounded in time and memory, gone with everything it started.

A pair that runs over its limits is reported as such and costs nobody else; what diffoscope wrote so far is kept.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO

from detbuild.compare.limits import Limits
from detbuild.compare.model import Difference, Ending
from detbuild.compare.zygote import Forked, Unavailable, Zygote

INSTALL = "install it with `apt-get install diffoscope-minimal` or `pip install diffoscope`"
FORMATS = ("text", "html", "json")

# diffoscope stops descending into archives at this share of the time limit, so that it can still write its report.
SOFT_SHARE = 0.8
# What diffoscope may write: lines of each run that was removed or added, and bytes of one report. Without them, a
# random binary of 10 MiB makes 100 MB of text.
DIFF_LINES = 1024
REPORT_BYTES = 8 << 20
# The structure of one pair is read into memory whole, and diffoscope sets no limit to it.
STRUCTURE_BYTES = 32 << 20

# How diffoscope, Python and the dynamic loader say that memory ran out.
OUT_OF_MEMORY = ("Out of memory", "MemoryError", "Cannot allocate memory", "failed to map segment")

# Where diffoscope cannot be forked, a shell sets the limits: Python's preexec_fn is not safe where there are threads.
_LIMITED = 'ulimit -c 0 && ulimit -t "$1" && ulimit -v "$2" && shift 2 && exec "$@"'


def find_diffoscope() -> str | None:
    """The diffoscope installed with this library, or else the one on PATH."""
    beside = os.path.dirname(sys.executable)
    return shutil.which("diffoscope", path=beside) or shutil.which("diffoscope")


class Differ:
    """Runs diffoscope; usable from several threads at once. Close it to end what still runs."""

    def __init__(self, program: str, formats: Collection[str], limits: Limits, scratch: Path) -> None:
        """`formats`: which of FORMATS to write, below `scratch`, where diffoscope's temporary files go too."""
        self._program, self._limits, self._scratch = program, limits, scratch
        self._formats = [name for name in FORMATS if name in formats]
        self._zygote = Zygote(program)
        self._running: set[subprocess.Popen[bytes] | Forked] = set()
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for process in self._running:
                _kill_group(process.pid)
        self._zygote.close()

    def diff(self, number: int, a: Path, b: Path, path: str, other: str = "") -> Difference:
        """Compare the file `path` of tree `a` with that of `b`, which may have the name `other` there.

        `number` keeps pairs apart. Blocks, raises OSError.
        """
        work = self._scratch / f"{number:04d}"
        temporary = work / "tmp"
        temporary.mkdir(parents=True)
        names = _arrange(work, a, b, path, other or path)
        started = time.monotonic()
        try:
            ending, detail = self._run(work, temporary, names)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        seconds = time.monotonic() - started
        written = {name: work / name for name in self._formats if _has_content(work / name)}
        if ending is not Ending.COMPLETE:
            written.pop("json", None)  # it may be cut in the middle
        if "json" in written and written["json"].stat().st_size > STRUCTURE_BYTES:
            detail = f"its structure has more than {STRUCTURE_BYTES >> 20} MiB and is left out"
            del written["json"]
        return Difference(ending, seconds, detail, **written)

    def _run(self, work: Path, temporary: Path, names: tuple[str, str]) -> tuple[Ending, str]:
        with (work / "stderr").open("w+b") as messages:
            process = self._start(work, temporary, names, messages)
            with self._lock:
                self._running.add(process)
            try:
                in_time = not self._closed and _ends_within(process.pid, self._limits.seconds)
            finally:
                # Not yet reaped, so the group's id is still its own; killed also after a good end, because a
                # helper of diffoscope's may have stayed behind.
                with self._lock:
                    self._running.discard(process)
                    _kill_group(process.pid)
                status = process.wait()
            if not in_time:
                return Ending.OVER_TIME, f"stopped after {self._limits.seconds:g} s"
            return self._judge(work, status, _tail(messages))

    def _start(
        self, work: Path, temporary: Path, names: tuple[str, str], messages: IO[bytes]
    ) -> subprocess.Popen[bytes] | Forked:
        """One process for the pair, which leads a session and has its limits set."""
        command, seconds = self._command(names), int(self._limits.seconds) + 1
        memory = _attainable(self._limits.memory)
        try:
            return self._zygote.fork(command, work, temporary, work / "stderr", seconds, memory)
        except Unavailable:
            return subprocess.Popen(
                ["/bin/sh", "-c", _LIMITED, "diffoscope", str(seconds), str(memory // 1024), *command],
                cwd=work,
                env={**os.environ, "TMPDIR": str(temporary), "PYTHONWARNINGS": "ignore"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                start_new_session=True,
            )

    def _command(self, names: tuple[str, str]) -> list[str]:
        outputs = [part for name in self._formats for part in (f"--{name}", name)]
        return [
            self._program,
            *("--no-progress", "--text-color", "never", "--jquery", "disable"),
            *("--timeout", str(max(1, int(self._limits.seconds * SOFT_SHARE)))),
            *("--max-diff-block-lines-saved", str(DIFF_LINES)),
            *("--max-text-report-size", str(REPORT_BYTES)),
            *("--max-report-size", str(REPORT_BYTES), "--max-page-size", str(REPORT_BYTES)),
            *outputs,
            os.path.join("a", names[0]),
            os.path.join("b", names[1]),
        ]

    def _judge(self, work: Path, status: int, messages: str) -> tuple[Ending, str]:
        if status == 0:
            return Ending.COMPLETE, "diffoscope sees no difference in what it understands"
        # Python exits with 1 as well when it cannot even start.
        if status == 1 and all(_has_content(work / name) for name in self._formats):
            return Ending.COMPLETE, ""
        if any(sign in messages for sign in OUT_OF_MEMORY):
            return Ending.OVER_MEMORY, f"more than {self._limits.memory >> 20} MiB wanted"
        last = (messages.strip().splitlines() or ["it said nothing"])[-1]
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return Ending.FAILED, f"diffoscope ended with {how}: {last}"


def _arrange(work: Path, a: Path, b: Path, path: str, other: str) -> tuple[str, str]:
    """Put both trees before diffoscope as a/... and b/..., as git names them: their own names may be long, and
    differ from run to run. Returns the paths below them.
    """
    # diffoscope cannot write a name that is not UTF-8, so a file of such a name is copied under another.
    # What cannot be encoded becomes one "?" a byte, so no name grows too long.
    writable = [name.encode("utf-8", "replace").decode("utf-8") for name in (path, other)]
    for name, root, inside, found in (("a", a, path, writable[0]), ("b", b, other, writable[1])):
        if found == inside:
            (work / name).symlink_to(root.absolute())
        else:
            (work / name / found).parent.mkdir(parents=True)
            shutil.copyfile(root / inside, work / name / found, follow_symlinks=False)
    return writable[0], writable[1]


def _attainable(memory: int) -> int:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    return memory if hard == resource.RLIM_INFINITY else min(memory, hard)


def _ends_within(pid: int, seconds: float) -> bool:
    """Wait for a child without reaping it."""
    descriptor = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _tail(stream: IO[bytes], size: int = 4096) -> str:
    """The last `size` bytes of a file that is open for reading."""
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
    return stream.read().decode("utf-8", "replace")
