# SPDX-License-Identifier: MIT
"""The daemon's socket: one that systemd hands over, or one of its own making."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detbuild.daemon.config import Config
from detbuild.daemon.lock import take
from detbuild.errors import DaemonError

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_BACKLOG = 1024


def activated() -> socket.socket | None:
    """The socket of systemd's unit (sd_listen_fds(3)), where this process was started for one. Raises DaemonError."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if count != "1":
        raise DaemonError(f"systemd handed over {count or 'no'} sockets", remedy="name one ListenStream= in its unit")
    os.set_inheritable(_FIRST_FD, False)
    listener = socket.socket(fileno=_FIRST_FD)
    listening = listener.family == socket.AF_UNIX and listener.type == socket.SOCK_STREAM
    if not (listening and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
        raise DaemonError("the socket that systemd handed over is no Unix stream socket that listens")
    return listener


def own(config: Config) -> socket.socket:
    """A new socket, for root and the group. Raises DaemonError.

    Call it with the daemon's lock held: what stands in the way is then left over from one that was killed.
    """
    path = Path(config.socket)
    group = _group(config.group)
    listener = socket.socket(socket.AF_UNIX)
    try:
        with _umask(0o022):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            path.unlink()
        # Nobody can connect before listen(), so the owner is right by the time that anybody may.
        with _umask(0o117):
            listener.bind(config.socket)
        os.chown(path, os.geteuid(), group)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise DaemonError(
            f"cannot listen at {path}: {error.strerror or error}", remedy="name another socket in the configuration"
        ) from error
    return listener


def lock(config: Config) -> int:
    """A descriptor that keeps a second daemon from the state, as long as it is open. Raises DaemonError."""
    state = Path(config.state)
    try:
        with _umask(0o022):  # its parent is the socket's too, by default
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DaemonError(
            f"cannot write to {state}: {error.strerror}", remedy="name another state in the configuration"
        ) from error
    return take(fd, state)


def remove(config: Config) -> None:
    with contextlib.suppress(OSError):
        os.unlink(config.socket)


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    """Instead of root's own, which may keep the group out."""
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)


def _group(name: str) -> int:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise DaemonError(
            f"there is no group {name}",
            cause="its members may use the daemon",
            remedy=f"groupadd --system {name}, or name another group in the configuration",
        ) from None
