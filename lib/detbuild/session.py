# SPDX-License-Identifier: MIT
"""Sessions for Python callers: commands that live under one epoch, or the calling process's own descendants.

For example::

    with Session(epoch=1_300_000_000) as session:
        session.run(["make"], check=True)
    print(session.audit.to_text())
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from detbuild.audit import Audit
from detbuild.client import collect, launched
from detbuild.engine import select
from detbuild.engine.base import Connection, Terms
from detbuild.launch import PYTHON_IGNORES

_LIBRARY = str(Path(__file__).resolve().parent.parent)

_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from detbuild.launch import main; sys.exit(main())"
# Isolated and without site: the helper must start fast, and the command's PYTHON* variables are not for it.
_HELPER = [sys.executable, "-I", "-S", "-c", _START]


class Attached:
    """A session that the calling process opened for its own descendants."""

    def __init__(self, engine: str, connection: Connection) -> None:
        self.engine = engine
        self.engine_pid = connection.pid
        self._connection = connection
        self._audit: Audit | None = None

    @property
    def engine_started(self) -> int:
        """The engine process's start time in clock ticks since boot: with its pid, its identity."""
        return self._connection.started

    def close(self) -> Audit:
        """The session's record. Descendants that still run stay in it. Raises EngineDied."""
        if self._audit is None:
            self._audit = collect(self._connection)
        return self._audit


Rules = Iterable[Mapping[str, Any]]
"""The user's own rows of the programs' table, as dicts: see ``rulefile`` and ``Program.to_dict``."""


def attach(epoch: int, policy: str = "time", engine: str = select.AUTO, rules: Rules = (), seed: str = "") -> Attached:
    """Put all that this process starts from now on into a session; the process itself keeps the real time.

    There is no way back: a seccomp filter cannot be taken off. For a process that ends with its session, as a
    BitBake task does. ``epoch`` is in seconds since 1970; ``policy`` and ``seed`` are as in
    ``Session``. Raises SessionError, EngineUnavailable, PolicyError.
    """
    terms = Terms(epoch, policy, True, _rows(rules), seed)
    chosen = select.choose(engine, terms.policy)
    return Attached(chosen.name, chosen.open(terms))


def _rows(rules: Rules) -> tuple[dict[str, Any], ...]:
    return tuple(dict(row) for row in rules)


class Popen(subprocess.Popen[Any]):
    """A command in a session. As subprocess.Popen; its pid is the command's own.

    Raises SessionError where no session could be opened, FileNotFoundError and its kin where the command could
    not be executed. ``wait`` and ``poll`` raise EngineDied where the engine ended before the command.
    """

    def __init__(self, terms: Terms, engine: str, record: Callable[[Audit], None], args: Any, **options: Any) -> None:
        self.audit: Audit | None = None
        self._record = record
        self._connection: Connection | None = None
        self._finishing = threading.Lock()
        command, executable = _command(args, options)
        ignored = [] if options.get("restore_signals", True) else _ignored()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                if options.get("close_fds", True):
                    options["pass_fds"] = (*options.get("pass_fds", ()), theirs.fileno())
                else:
                    theirs.set_inheritable(True)
                spec = {
                    "fd": theirs.fileno(),
                    "engine": engine,
                    "terms": terms.to_dict(),
                    "executable": executable,
                    "ignored": ignored,
                }
                super().__init__([*_HELPER, _LIBRARY, json.dumps(spec), *command], **options)
            self.args = args
            try:
                self._connection = launched(ours)
            except BaseException:
                self.kill()
                super().wait()
                self._close_pipes()
                raise

    def _close_pipes(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                stream.close()

    def poll(self) -> int | None:
        code = super().poll()
        self._finish(code)
        return code

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        self._finish(code)
        return code

    def _finish(self, code: int | None) -> None:
        if code is None:
            return
        with self._finishing:
            connection, self._connection = self._connection, None
            if connection:
                self.audit = collect(connection)
                self._record(self.audit)


def _command(args: Any, options: dict[str, Any]) -> tuple[list[str], str]:
    """The argument vector that subprocess would execute, and the program's own name or path."""
    vector = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
    executable = options.pop("executable", None)
    if options.pop("shell", False):
        vector = [executable or "/bin/sh", "-c", *vector]
    command = [os.fsdecode(word) for word in vector]
    if not command:
        raise ValueError("a command needs at least its program's name")
    return command, os.fsdecode(executable) if executable else command[0]


def _ignored() -> list[int]:
    return [number for number in PYTHON_IGNORES if signal.getsignal(number) == signal.SIG_IGN]


class Session:
    """One epoch and one policy for any number of commands, from any number of threads.

    ``epoch`` is in seconds since 1970. ``policy`` is time, strict or observe, with rules added or removed: "strict
    -random" (see ``policy.RULES``). ``seed`` is any text; with another one come other random numbers. ``engine`` is
    "auto" or an engine's name. Raises SessionError or PolicyError for what does not exist and EngineUnavailable where
    no engine works here. The calling process is never filtered or traced: each command is started through a helper.
    """

    def __init__(
        self, epoch: int, policy: str = "time", engine: str = select.AUTO, rules: Rules = (), seed: str = ""
    ) -> None:
        self._terms = Terms(epoch, policy, rules=_rows(rules), seed=seed)
        self.engine = select.choose(engine, self._terms.policy).name
        self._lock = threading.Lock()
        self._ended = Audit(self.engine, epoch, self._terms.policy)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to undo: commands that still run stay in the session."""

    def Popen(self, args: Any, **options: Any) -> Popen:
        """Start a command; options as for subprocess.Popen."""
        return Popen(self._terms, self.engine, self._record, args, **options)

    def _record(self, audit: Audit) -> None:
        with self._lock:
            self._ended += audit

    def run(
        self,
        args: Any,
        *,
        input: Any = None,
        capture_output: bool = False,
        timeout: float | None = None,
        check: bool = False,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a command to its end; arguments, result and errors as for subprocess.run. Raises EngineDied too."""
        if input is not None:
            if options.get("stdin") is not None:
                raise ValueError("stdin and input are not used together")
            options["stdin"] = subprocess.PIPE
        if capture_output:
            if options.get("stdout") is not None or options.get("stderr") is not None:
                raise ValueError("stdout and stderr are not used together with capture_output")
            options["stdout"] = options["stderr"] = subprocess.PIPE
        with self.Popen(args, **options) as process:
            try:
                out, err = process.communicate(input, timeout=timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode:
            raise subprocess.CalledProcessError(process.returncode, args, out, err)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    @property
    def audit(self) -> Audit:
        """The record of the commands that have ended so far, merged."""
        with self._lock:
            return self._ended + Audit()
