# SPDX-License-Identifier: MIT
"""An engine's own process beside the one that opens a session: how it is started, what it lets go of, and its words."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from detbuild import protocol
from detbuild.errors import EngineUnavailable, ProtocolError
from detbuild.linux.libc import set_name


def start(name: str, life: Callable[[socket.socket], None]) -> socket.socket:
    """Start a process that runs ``life`` with its end of a socket; returns ours. ``name`` is what ps shows of it.

    Forks twice: the process is nobody's child, so that no wait() of the session's programs ever meets it.
    """
    ours, theirs = socket.socketpair()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    middle = os.fork()
    if middle == 0:
        # A fakeroot task's library reads it anew in a child; else it would miss the descriptor that it hides from us.
        os.environ["PSEUDO_DISABLED"] = "1"
        if os.fork() == 0:
            ours.close()
            _run(name, life, theirs)
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()
    with contextlib.suppress(ChildProcessError):  # whoever ignores SIGCHLD has nothing to reap
        os.waitpid(middle, 0)
    return ours


def expect(peer: socket.socket, kind: str, who: str) -> tuple[protocol.Message, int | None]:
    """A process's message of that kind, and a descriptor that came with it. ``who`` is its name in errors.

    Raises EngineUnavailable for what it says instead, and ProtocolError.
    """
    message, fd = protocol.receive_fd(peer)
    if message is None:
        raise EngineUnavailable(
            f"the {who} ended before it was ready",
            remedy="look for it in dmesg, or try again with more free memory",
        )
    if message["kind"] == "error":
        raise EngineUnavailable(message["refused"], cause=message["cause"], remedy=message["remedy"])
    if message["kind"] == "died":
        raise EngineUnavailable(f"the {who} died: {str(message['reason']).strip().splitlines()[-1]}")
    if message["kind"] != kind:
        raise ProtocolError(f"expected {kind} from the {who}, got {message['kind']}")
    return message, fd


def _run(name: str, life: Callable[[socket.socket], None], peer: socket.socket) -> NoReturn:
    """The process's whole life. Whatever goes wrong in it ends it, and the session's programs with it."""
    code = 1
    try:
        peer = _settle(name, peer)
        life(peer)
        code = 0
    except BaseException as error:
        with contextlib.suppress(OSError):
            protocol.send(peer, "died", reason=f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _settle(name: str, peer: socket.socket) -> socket.socket:
    """Let go of all that belongs to the process we were forked from, but ``peer``, which may get another number."""
    if peer.fileno() <= 2:
        peer = socket.socket(fileno=fcntl.fcntl(peer.detach(), fcntl.F_DUPFD_CLOEXEC, 3))
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stdio in (0, 1, 2):
        os.dup2(null, stdio)  # whoever reads the command's output waits for the end of these
    os.closerange(3, peer.fileno())
    os.closerange(peer.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN if number == signal.SIGPIPE else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for limit in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NOFILE):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (hard, hard))  # the limit is the programs', of whom each uses far less
    set_name(name)
    gc.freeze()  # pages shared with the opener stay shared
    return peer
