# SPDX-License-Identifier: MIT
"""Messages between a session's client and its engine: length, then JSON that names the protocol and its version.

A message is a dict with at least ``kind``. The length is four bytes, big endian.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

from detbuild.errors import ProtocolError

NAME = "detbuild"
VERSION = 1
LARGEST = 16 << 20  # bytes; an audit of a whole build's programs stays far below

_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


def send(peer: socket.socket, kind: str, fds: Sequence[int] = (), **fields: Any) -> None:
    """Send one message, and descriptors beside it.

    Raises OSError where the peer is gone, ProtocolError where the message is too large.
    """
    body = encode(kind, **fields)
    message = memoryview(_LENGTH.pack(len(body)) + body)
    if fds:
        message = message[socket.send_fds(peer, [message], fds) :]
    # An empty rest, too, would find that the peer has hung up, perhaps over this very message.
    if message:
        peer.sendall(message)


def encode(kind: str, **fields: Any) -> bytes:
    """A message without its length. Raises ProtocolError where it is too large."""
    body = json.dumps({"protocol": NAME, "version": VERSION, "kind": kind, **fields}).encode()
    if len(body) > LARGEST:
        raise ProtocolError(f"a message of {len(body)} bytes is over the limit of {LARGEST}")
    return body


def receive(peer: socket.socket) -> Message | None:
    """The next message, None at the end of the stream. Raises OSError, or ProtocolError for anything else."""
    header = _exactly(peer, _LENGTH.size)
    return _body(peer, header) if header else None


def receive_fd(peer: socket.socket) -> tuple[Message | None, int | None]:
    """As ``receive``, with the descriptor that came beside the message, if one did: the caller's to close."""
    header, fds = _recv_fds(peer)
    try:
        if not header and not fds:
            return None, None
        header += _exactly(peer, _LENGTH.size - len(header)) if len(header) < _LENGTH.size else b""
        return _body(peer, header), fds.pop(0) if fds else None
    finally:
        for fd in fds:
            os.close(fd)


def _recv_fds(peer: socket.socket) -> tuple[bytes, list[int]]:
    """A header, perhaps cut short, and what came beside it. socket.recv_fds would let programs inherit those."""
    fds = array.array("i")
    header, ancillary, _, _ = peer.recvmsg(_LENGTH.size, socket.CMSG_LEN(fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
    return header, fds.tolist()


def _body(peer: socket.socket, header: bytes) -> Message:
    if len(header) < _LENGTH.size:
        raise ProtocolError("a peer ended in the middle of a message")
    (length,) = _LENGTH.unpack(header)
    if length > LARGEST:
        raise ProtocolError(f"a peer announces a message of {length} bytes; the limit is {LARGEST}")
    return decode(_exactly(peer, length))


def decode(body: bytes) -> Message:
    """The inverse of ``encode``. Raises ProtocolError."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a peer sent what is not JSON ({error})") from error
    if not isinstance(message, dict) or message.get("protocol") != NAME or not isinstance(message.get("kind"), str):
        raise ProtocolError("a peer sent JSON that is not a message of detbuild's")
    if type(message.get("version")) is not int or message["version"] != VERSION:
        raise ProtocolError(
            f"a peer speaks version {message.get('version')!r} of the protocol, this is version {VERSION}",
            remedy="use the same release of detbuild on both sides",
        )
    return message


def _exactly(peer: socket.socket, size: int) -> bytes:
    """``size`` bytes; b"" at a clean end of the stream."""
    data = bytearray()
    while len(data) < size:
        part = peer.recv(size - len(data))
        if not part:
            if data:
                raise ProtocolError("a peer ended in the middle of a message")
            return b""
        data += part
    return bytes(data)
