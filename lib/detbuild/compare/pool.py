# SPDX-License-Identifier: MIT
"""Worker processes for pairs of files: each pair bounded in time and memory, and nobody else's cost.

``Pool`` is what the comparison knows; ``LocalPool`` runs on this machine, ``detbuild.compare.cluster`` on others.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import detbuild
from detbuild.compare.change import Change, Facts, Inner
from detbuild.compare.limits import Limits
from detbuild.compare.model import Ending

LIBRARY = str(Path(detbuild.__file__).resolve().parent.parent)
# Bytes that one pair may say: far more than a person reads, far less than memory.
REPLY = 64 << 20


@dataclass(frozen=True)
class Task:
    """One pair of files, by their paths."""

    a: str
    b: str
    facts: Facts
    limits: Limits


@dataclass
class Outcome:
    """What became of one task: all that was found until its end."""

    ending: Ending = Ending.COMPLETE
    detail: str = ""
    seconds: float = 0.0
    changes: list[Change] = field(default_factory=list)
    inner: list[Inner] = field(default_factory=list)

    def take(self, message: dict[str, Any]) -> bool:
        """Take in one message of a worker; whether it was the last one."""
        if "change" in message:
            self.changes.append(Change.from_dict(message["change"]))
        elif "inner" in message:
            where, digest_a, digest_b = message["inner"]
            self.inner.append(Inner(tuple(where), digest_a, digest_b))
        else:
            self.ending, self.detail = Ending(message["end"]), message.get("detail", "")
            return True
        return False


class Pool(Protocol):
    def submit(self, task: Task) -> Future[Outcome]: ...

    def close(self) -> None: ...


class Worker:
    """One worker process, started when it is needed, and again after it had to be ended."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._process = scratch, None  # type: Path, subprocess.Popen[bytes] | None
        self._buffer = b""
        self._closed = False
        self._lock = threading.Lock()  # while a process starts, nobody can end it

    @property
    def pid(self) -> int | None:
        """The process at work, if there is one."""
        return self._process.pid if self._process else None

    def run(self, task: Task) -> Outcome:
        """Blocks for at most the limit's seconds."""
        outcome, started = Outcome(), time.monotonic()
        try:
            with tempfile.TemporaryDirectory(dir=self._scratch, ignore_cleanup_errors=True) as work:
                self._watch(task, work, outcome, started + task.limits.seconds)
        except OSError as error:
            outcome.ending, outcome.detail = Ending.FAILED, f"there is no room to unpack it in: {error}"
        if outcome.ending is Ending.OVER_MEMORY:
            outcome.detail = f"more than {task.limits.memory >> 20} MiB wanted"
            self.end()
        outcome.seconds = time.monotonic() - started
        return outcome

    def _watch(self, task: Task, work: str, outcome: Outcome, deadline: float) -> None:
        """Have it done, and end the process where that goes wrong."""
        try:
            self._exchange(task, work, outcome, deadline)
        except _Over:
            self.end()
            outcome.ending, outcome.detail = Ending.OVER_TIME, f"stopped after {task.limits.seconds:g} s"
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            code = self._process.poll() if self._process else None
            self.end()
            how = f"signal {-code}" if code and code < 0 else str(error)
            outcome.ending, outcome.detail = Ending.FAILED, f"the worker process ended: {how}"

    def _exchange(self, task: Task, work: str, outcome: Outcome, deadline: float) -> None:
        process = self._started()
        fields = {"a": task.a, "b": task.b, "facts": asdict(task.facts), "scratch": work, **asdict(task.limits)}
        assert process.stdin is not None
        process.stdin.write(json.dumps(fields).encode("ascii") + b"\n")
        process.stdin.flush()
        received = 0
        while True:
            line = self._line(process, deadline)
            received += len(line)
            if received > REPLY:
                raise ValueError(f"it said more than {REPLY >> 20} MiB")
            if outcome.take(json.loads(line)):
                return

    def _started(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise OSError("the comparison was left")
            if self._process is None or self._process.poll() is not None:
                paths = [LIBRARY, *filter(None, [os.environ.get("PYTHONPATH")])]
                self._buffer = b""
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "detbuild.compare.worker", str(os.getpid())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                    start_new_session=True,
                )
            return self._process

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        assert process.stdout is not None
        waiting = select.poll()
        waiting.register(process.stdout, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not waiting.poll(left * 1000):
                raise _Over
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                process.wait(5)
                raise OSError(f"status {process.returncode}")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def end(self) -> None:
        """End the process and everything that it started. Safe from another thread."""
        with self._lock:
            process, self._process = self._process, None
        if process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    stream and stream.close()

    def close(self) -> None:
        """End the process, and start no other. Safe from another thread."""
        with self._lock:
            self._closed = True
        self.end()


class _Over(Exception):
    """The time is over."""


class LocalPool:
    """So many worker processes on this machine."""

    def __init__(self, jobs: int, scratch: Path) -> None:
        self._threads = ThreadPoolExecutor(jobs, "inspect")
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self.workers = [Worker(scratch) for _ in range(jobs)]
        for worker in self.workers:
            self._idle.put(worker)

    def submit(self, task: Task) -> Future[Outcome]:
        return self._threads.submit(self._run, task)

    def _run(self, task: Task) -> Outcome:
        worker = self._idle.get()
        try:
            return worker.run(task)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self.workers:
            worker.close()
        self._threads.shutdown(wait=True)
