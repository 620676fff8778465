# SPDX-License-Identifier: MIT
"""The client's end of a session: hear that it was opened, and ask for its record at its end."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter

from detbuild import protocol
from detbuild.audit import Audit, Gap
from detbuild.engine.base import Connection
from detbuild.errors import EngineDied, EngineUnavailable, ProtocolError, SessionError

_OUTER = "a session around this one goes on, and its epoch and policy hold"


def collect(connection: Connection) -> Audit:
    """Close a session and return its record. Raises EngineDied."""
    if connection.peer is None:
        return Audit("outer session", gaps=Counter({Gap("outer session", _OUTER): 1}))
    reason = ""
    with connection.peer as peer, contextlib.suppress(OSError, ProtocolError):
        with contextlib.suppress(BrokenPipeError):
            protocol.send(peer, "close")
        message = protocol.receive(peer)
        if message and message["kind"] == "closed":
            return Audit.from_dict(message["audit"])
        if message and message["kind"] == "died":
            reason = str(message["reason"]).strip().splitlines()[-1]
    raise EngineDied(
        "the session's engine died, and its programs were killed with it rather than see the real time",
        cause=f"it failed with {reason}" if reason else "it was killed, by a person or for want of memory (see dmesg)",
        remedy="run again" + ("; this is a bug worth a report" if reason else ""),
    )


def launched(peer: socket.socket) -> Connection:
    """What the process that shall become a command tells (see ``launch``): its session, once the command runs.

    Raises EngineUnavailable, or OSError where the command could not be executed.
    """
    try:
        message, fd = protocol.receive_fd(peer)
        if message and message["kind"] == "session":
            channel = None if fd is None else socket.socket(fileno=fd)
            connection = Connection(message["pid"], message["started"], channel)
            message = protocol.receive(peer)
            if message is None:
                return connection  # its end was closed by the execution itself
            if channel:
                channel.close()
    except ProtocolError as error:
        raise SessionError(str(error)) from error
    if message is None:
        raise SessionError("the session's helper ended before it could start the command", remedy="see dmesg")
    if message["kind"] == "exec":
        raise OSError(message["errno"], os.strerror(message["errno"]), message["name"])
    raise EngineUnavailable(message["refused"], cause=message["cause"], remedy=message["remedy"])
