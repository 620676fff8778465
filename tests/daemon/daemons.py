"""A daemon of a test's own, with a kernel of make-believe, and what a client of it does."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import wait_for
from detbuild import protocol
from detbuild.linux import auxv, proc

FAKE = Path(__file__).with_name("fake.py")
LIBRARY = Path(__file__).resolve().parents[2] / "lib"
EPOCH = 1_300_000_000
SECONDS = 20.0
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start the daemon and become other users")


@dataclass
class Daemon:
    """In ``directory``: socket, state, pins, log and configuration. A context manager that starts and ends it."""

    directory: Path
    limits: dict[str, int] = field(default_factory=dict)
    group: int = 0
    capabilities: frozenset[str] = frozenset()  # all that it has; none for all of root's
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        config = {
            "socket": str(self.path),
            "group": str(self.group),
            "state": str(self.directory / "state"),
            "pins": str(self.directory / "pins"),
            "limits": self.limits,
        }
        (self.directory / "daemon.yaml").write_text(yaml.safe_dump(config))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def path(self) -> Path:
        """Of its socket."""
        return self.directory / "socket"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def command(self) -> list[str]:
        left = [name.removeprefix("CAP_").lower() for name in sorted(self.capabilities)]
        confined = ["setpriv", "--no-new-privs", f"--bounding-set={',+'.join(['-all', *left])}"] if left else []
        return [*confined, sys.executable, str(FAKE), str(self.directory / "daemon.yaml")]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(LIBRARY)}

    def start(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log, env=self.environment)
        assert wait_for(self._answers), self.log

    def _answers(self) -> bool:
        try:
            self.client().close()
        except OSError:
            assert self.process
            assert self.process.poll() is None, self.log
            return False
        return True

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def client(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(SECONDS)
        try:
            peer.connect(str(self.path))
        except OSError:
            peer.close()
            raise
        return peer

    def serves(self) -> bool:
        with self.client() as peer:
            return bool(ask(peer, "hello")["kind"] == "hello")

    def descriptors(self) -> int:
        assert self.process
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def ask(peer: socket.socket, kind: str, fds: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
    """The daemon's answer; also where it said it, and hung up, before it had our question."""
    with contextlib.suppress(BrokenPipeError):
        protocol.send(peer, kind, fds=fds, **fields)
    message = protocol.receive(peer)
    assert message is not None
    return message


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@contextlib.contextmanager
def child(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits until it is killed, with all that it started."""
    process = subprocess.Popen(command or ("sleep", "1000"), start_new_session=True)
    try:
        assert wait_for(lambda: _executes_no_more(process.pid))
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _executes_no_more(pid: int) -> bool:
    """Popen returns in the middle of an execution, which the daemon may see end."""
    try:
        vector = proc.read(pid, "auxv")
    except OSError:  # it has ended, or is privileged
        return True
    return not vector or auxv.value(vector, auxv.AT_SECURE) is not None


@contextlib.contextmanager
def executor(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that executes a program at SIGUSR1."""
    trap = f"trap 'exec {program} 1000' USR1; sleep 1000 & wait"
    with child("bash", "-c", trap) as process:
        assert wait_for(lambda: bool(children(process.pid)))
        below = children(process.pid)
        yield process
        for pid in below:
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def handle(pid: int) -> Iterator[int]:
    """A pidfd."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def open_session(peer: socket.socket, opener: int, supervisor: int, **other: Any) -> dict[str, Any]:
    """The daemon's answer to "open" for two processes of this namespace."""
    with handle(opener) as one, handle(supervisor) as two:
        fields = {"tid": opener, "epoch": EPOCH, "policy": "time", "spare_root": False, **other}
        return ask(peer, "open", (one, two), **fields)


def as_user(uid: int, work: Callable[[], Any], gid: int = NOBODY) -> Any:
    """What ``work`` returns, or the text of what it raises, in a child that has become another user."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                result = work()
            except Exception as error:
                result = repr(error)
            os.write(writer, json.dumps(result).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def gone(pid: int) -> bool:
    """Whether a child of ours has ended, reaped or not."""
    with handle(pid) as fd:
        return wait_for(lambda: _readable(fd))


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def settle(seconds: float = 0.2) -> None:
    """Time in which something must not happen."""
    time.sleep(seconds)
