# SPDX-License-Identifier: MIT
"""One connection of the daemon's: whole requests out of whatever trickles in, and answers out as the peer takes them.

The frames are those of ``detbuild.protocol``, here without ever waiting for a peer.
"""

from __future__ import annotations

import array
import socket
import struct
from dataclasses import dataclass, field

from detbuild import protocol
from detbuild.daemon.closer import Closer
from detbuild.daemon.peers import Peer
from detbuild.errors import ProtocolError

MOST_FDS = 4
_LENGTH = struct.Struct(">I")
_SENDABLE = 253  # SCM_MAX_FD, linux/net/scm.h: those without room would be closed by recvmsg(2) itself
_ANCILLARY = socket.CMSG_SPACE(_SENDABLE * array.array("i").itemsize)


@dataclass(eq=False)
class Wire:
    """``session`` is the number of the one that was opened or resumed over it, 0 for none."""

    socket: socket.socket
    peer: Peer
    largest: int  # bytes of a request
    closer: Closer
    session: int = 0
    _header: bytes = b""
    _body: bytearray = field(default_factory=bytearray)
    _length: int = -1
    _fds: list[int] = field(default_factory=list)
    _out: bytearray = field(default_factory=bytearray)

    @property
    def unsent(self) -> int:
        """Bytes of answers that the peer has not taken."""
        return len(self._out)

    def read(self) -> tuple[protocol.Message, list[int]] | None:
        """One request and the descriptors beside it, the caller's to close; None where it has not come whole yet.

        Never reads past the request's end, or descriptors would not be told apart from the next one's. Raises
        EOFError at the stream's end, OSError, ProtocolError.
        """
        while True:
            wanted = _LENGTH.size - len(self._header) if self._length < 0 else self._length - len(self._body)
            try:
                data, ancillary, flags, _ = self.socket.recvmsg(
                    min(wanted, 65536), _ANCILLARY, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return None
            self._keep(ancillary)
            if flags & socket.MSG_CTRUNC or len(self._fds) > MOST_FDS:
                raise ProtocolError(f"a peer sent more than {MOST_FDS} descriptors beside one message")
            if not data:
                if self._header:
                    raise ProtocolError("a peer ended in the middle of a message")
                raise EOFError
            if self._length < 0:
                self._header += data
                if len(self._header) == _LENGTH.size:
                    self._start_body()
            else:
                self._body += data
            if self._length == len(self._body):
                return self._whole()

    def _keep(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
                self._fds += fds

    def _start_body(self) -> None:
        (length,) = _LENGTH.unpack(self._header)
        if length > self.largest:
            raise ProtocolError(f"a peer announces a message of {length} bytes; the limit is {self.largest}")
        if length == 0:
            raise ProtocolError("a peer sent an empty message")
        self._length = length

    def _whole(self) -> tuple[protocol.Message, list[int]]:
        message, fds = protocol.decode(bytes(self._body)), self._fds
        self._header, self._length, self._body, self._fds = b"", -1, bytearray(), []
        return message, fds

    def answer(self, kind: str, **fields: object) -> None:
        """Queue a message, and send what the peer takes at once. Raises OSError."""
        body = protocol.encode(kind, **fields)
        self._out += _LENGTH.pack(len(body)) + body
        self.write()

    def write(self) -> None:
        """Raises OSError where the peer is gone."""
        while self._out:
            try:
                sent = self.socket.send(self._out, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            del self._out[:sent]

    def close(self) -> None:
        self.closer.close(self.peer.uid, self._fds)
        self._fds = []
        self.closer.hang_up(self.peer.uid, self.socket)
        self.peer.close()
