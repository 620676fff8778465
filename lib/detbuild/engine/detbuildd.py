# SPDX-License-Identifier: MIT
"""The daemon as its clients meet it: where it listens, and one question at a time, each answered in bounded time."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from detbuild import protocol
from detbuild.errors import EngineUnavailable, ProtocolError
from detbuild.linux import proc

VARIABLE = "DETBUILD_SOCKET"
SOCKET = "/run/detbuild/detbuildd.sock"
PATIENCE = 5.0  # seconds for an answer: a daemon at work answers in milliseconds

_RETRY = 0.02


def path() -> str:
    """Where the daemon listens, for this process."""
    return os.environ.get(VARIABLE) or SOCKET


def connect(where: str = "", seconds: float = PATIENCE) -> socket.socket:
    """A connection to the daemon, on which each answer may take ``seconds``. Raises EngineUnavailable."""
    where = where or path()
    end = time.monotonic() + seconds
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.settimeout(seconds)
        while True:
            try:
                peer.connect(where)
                return peer
            except BlockingIOError:  # its queue is full: a Unix socket does not wait for room
                if time.monotonic() > end:
                    raise
                time.sleep(_RETRY)
    except OSError as error:
        peer.close()
        raise _unreachable(where, error) from error


def ask(peer: socket.socket, kind: str, fds: Sequence[int] = (), **fields: Any) -> protocol.Message:
    """The daemon's answer, of kind ``kind`` or "ready". Raises EngineUnavailable, also for the daemon's refusals."""
    try:
        with contextlib.suppress(BrokenPipeError):  # it hung up, perhaps after it had said why
            protocol.send(peer, kind, fds=fds, **fields)
        message = protocol.receive(peer)
    except TimeoutError as error:
        raise EngineUnavailable(
            f"the daemon did not answer in {peer.gettimeout():g} seconds",
            cause="it is starting, or stopped",
            remedy="wait, or see its log: journalctl -u detbuildd",
        ) from error
    except (OSError, ProtocolError) as error:
        raise EngineUnavailable(
            f"the daemon is of no use: {error}",
            remedy="use the same release of detbuild for the daemon and for the build",
        ) from error
    if message is None:
        raise EngineUnavailable("the daemon hung up", remedy="see its log: journalctl -u detbuildd")
    if message["kind"] == "error":
        refused, cause, remedy = (str(message.get(name, "")) for name in ("refused", "cause", "remedy"))
        raise EngineUnavailable(refused, cause=cause, remedy=remedy)
    return message


def outer_session() -> int:
    """The pid of the supervisor that holds this process in a session already; 0 where none does, or none is seen.

    Never raises; asks the daemon only where a seccomp filter is in place, as it is in every session.
    """
    if proc.status("self", "Seccomp") != "2" or not os.path.exists(path()):
        return 0
    try:
        with connect() as peer:
            return supervisor(ask(peer, "hello"))
    except EngineUnavailable:
        return 0


def supervisor(hello: protocol.Message) -> int:
    """The supervisor of the session that the asker lives in, from the daemon's answer; 0 where there is none.

    One that lives in another pid namespace has no number here: then it is the process that asks.
    """
    if not hello.get("held"):
        return 0
    pid = hello.get("supervisor")
    return pid if isinstance(pid, int) and pid > 0 and os.path.exists(f"/proc/{pid}") else os.getpid()


def _unreachable(where: str, error: OSError) -> EngineUnavailable:
    if isinstance(error, FileNotFoundError):
        return EngineUnavailable(
            f"no daemon listens: there is no {where}",
            remedy="as root, start it: scripts/detbuildd, or systemctl start detbuildd; see docs/daemon.md",
        )
    if isinstance(error, PermissionError):
        return EngineUnavailable(
            f"this user may not talk to the daemon at {where}",
            cause="its socket is for the members of one group",
            remedy="as root, usermod -a -G detbuild USER, and log in again",
        )
    return EngineUnavailable(
        f"no daemon answers at {where} ({error.strerror or error})",
        cause="it was killed, or is overloaded",
        remedy="as root, start it again: systemctl restart detbuildd",
    )
