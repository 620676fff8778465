# SPDX-License-Identifier: MIT
"""Close what peers sent: away from the daemon's loop, since a file system of a peer's own may let close(2) wait."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
import threading
from collections import deque

from detbuild.daemon import peers

_READ = 65536  # bytes


class Closer:
    """A thread for each user that has something to close, so that nobody waits for another one's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, deque[int]] = {}

    def waiting(self, uid: int) -> int:
        """How many descriptors of a user are not closed yet."""
        with self._lock:
            return len(self._waiting.get(uid, ()))

    def close(self, uid: int, fds: list[int]) -> None:
        """Close pidfds, which make nobody wait, at once, and all others in time."""
        others = [fd for fd in fds if not peers.is_pidfd(fd)]
        for fd in set(fds) - set(others):
            os.close(fd)
        if not others:
            return
        with self._lock:
            working = uid in self._waiting
            self._waiting.setdefault(uid, deque()).extend(others)
        if not working:
            threading.Thread(target=self._work, args=(uid,), daemon=True).start()

    def hang_up(self, uid: int, connection: socket.socket) -> None:
        """Close a connection, at once unless it holds descriptors unread, which close with it."""
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # nothing more comes in
            _drain(connection)
        if _unread(connection):
            self.close(uid, [connection.detach()])
        else:
            connection.close()

    def _work(self, uid: int) -> None:
        while True:
            with self._lock:
                fd = self._waiting[uid][0]
            with contextlib.suppress(OSError):
                os.close(fd)
            with self._lock:
                self._waiting[uid].popleft()
                if not self._waiting[uid]:
                    del self._waiting[uid]
                    return


def _unread(connection: socket.socket) -> int:
    return int(struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))[0])


def _drain(connection: socket.socket) -> None:
    """Read what is left, up to what has descriptors beside it: without room for them, a mere look says that they are.

    Raises OSError.
    """
    while True:
        data, _, flags, _ = connection.recvmsg(_READ, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        if not data or flags & socket.MSG_CTRUNC:
            return
        connection.recv(len(data), socket.MSG_DONTWAIT)
