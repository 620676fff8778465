# SPDX-License-Identifier: MIT
"""Processes of diffoscope, forked from one that has imported it: half of what a small pair takes is importing it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import threading
from pathlib import Path

PATIENCE = 60  # seconds for an answer, the longest of which takes importing diffoscope on a busy machine

# What pip and Debian write for an entry point; a wrapper of somebody's own is run as it is.
_ENTRY = re.compile(rb"#! ?(/\S*/python[\d.]*)\n.*^from diffoscope\.main import main$", re.DOTALL | re.MULTILINE)


class Unavailable(Exception):
    """It cannot fork for us: the program has to be executed."""


class Zygote:
    """Started when first asked; usable from several threads at once. Close it to end it and all that it forked."""

    def __init__(self, program: str) -> None:
        self._interpreter = _interpreter(program)
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def fork(  # noqa: PLR0917 (what a process is started with)
        self, command: list[str], directory: Path, temporary: Path, messages: Path, seconds: int, memory: int
    ) -> Forked:
        """Start `command`, whose first word is diffoscope, with its standard error to the end of `messages`.

        `seconds` of processor time and `memory`, bytes of address space, are what it may use. Raises Unavailable.
        """
        paths = {"directory": str(directory), "temporary": str(temporary), "messages": str(messages)}
        pid = self.ask({"command": command, "seconds": seconds, "memory": memory, **paths})
        if pid <= 1:
            raise Unavailable("the kernel lets it fork no more")
        return Forked(self, pid)

    def ask(self, question: object) -> int:
        """Raises Unavailable."""
        with self._lock:
            try:
                process = self._started()
                assert process.stdin
                process.stdin.write(json.dumps(question).encode("ascii") + b"\n")
                process.stdin.flush()
                return int(_answer(process))
            except (OSError, ValueError) as error:
                self._end()
                raise Unavailable(str(error)) from error

    def _started(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise OSError("it is closed")
        if self._process is None:
            if not self._interpreter:
                raise OSError("it is not to be started")
            command = [self._interpreter, str(Path(__file__).parent)]
            self._interpreter = ""  # what went wrong once would do so for each pair
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
                start_new_session=True,
            )
            if _answer(self._process) != b"ready\n":
                raise OSError("it did not start")
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    stream and stream.close()

    def close(self) -> None:
        """Safe from another thread, at any time."""
        self._closed = True
        if process := self._process:
            process.kill()  # whoever waits for its answer has none now
        with self._lock:
            self._end()


def _answer(process: subprocess.Popen[bytes]) -> bytes:
    """One line, which is all that there is to read. Raises OSError where it takes too long."""
    assert process.stdout
    if not select.select([process.stdout], [], [], PATIENCE)[0]:
        raise OSError(f"no answer within {PATIENCE} s")
    return process.stdout.readline()


class Forked:
    """A process of diffoscope: what is used here of subprocess.Popen."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote, self.pid = zygote, pid

    def wait(self) -> int:
        """Blocks until it has ended; returns its status, negative for a signal."""
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                select.select([descriptor], [], [])
            finally:
                os.close(descriptor)
        try:
            return os.waitstatus_to_exitcode(self._zygote.ask(self.pid))
        except Unavailable:
            return -signal.SIGKILL  # as what it was forked from


def _interpreter(program: str) -> str:
    """What runs diffoscope; "" where the program is not diffoscope's own entry point."""
    try:
        with open(program, "rb") as stream:
            found = _ENTRY.match(stream.read(4096))
    except OSError:
        return ""
    return os.fsdecode(found[1]) if found else ""
