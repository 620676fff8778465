# SPDX-License-Identifier: MIT
"""A supervisor's line to the daemon, which may be killed or upgraded in the middle of a session, and come back."""

from __future__ import annotations

import contextlib
import socket
import time

from detbuild import protocol
from detbuild.engine import detbuildd
from detbuild.errors import EngineUnavailable, ProtocolError

RETRY = 0.2  # seconds between two tries to find the daemon again
PATIENCE = 10.0  # seconds that a session's end waits for an absent daemon

_QUICK = 0.05  # seconds for a try: the session's programs wait meanwhile


class Line:
    """One session's connection: ``peer`` is None while the daemon is away.

    ``lost`` says why, once it refused to go on with this session; it is not asked again.
    """

    def __init__(self, peer: socket.socket, opened: protocol.Message, own: int) -> None:
        """``opened`` is the client's message about the session, ``own`` a pidfd of this process."""
        self.peer: socket.socket | None = peer
        self.lost = ""
        self._resuming = False
        self._question = ""
        self._own = own
        self._where = str(opened["socket"])
        self._known = {"session": opened["session"], "token": opened["token"]}
        self._next = 0.0
        peer.settimeout(detbuildd.PATIENCE)

    @property
    def away(self) -> bool:
        return self.peer is None and not self.lost

    def ask(self, kind: str) -> None:
        """Send a question, once there is a daemon; ``hear`` gets the answer."""
        self._question = kind
        if self.peer is None or self._resuming:
            return
        try:
            protocol.send(self.peer, kind)
        except OSError:
            self._hung_up()

    def hear(self) -> protocol.Message | None:
        """The answer, for a socket that has something; None for what concerns the line alone."""
        if self.peer is None:
            return None
        try:
            message = protocol.receive(self.peer)
        except (OSError, ProtocolError):
            message = None
        if message is None:
            self._hung_up()
        elif self._resuming:
            self._resumed(message)
            return None
        else:
            self._question = ""
        return message

    def retry(self) -> None:
        """Look for the daemon, where it is away and the last look is long enough ago."""
        if not self.away or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + RETRY
        try:
            self.peer = detbuildd.connect(self._where, _QUICK)
        except EngineUnavailable:
            return
        self.peer.settimeout(detbuildd.PATIENCE)
        self._resuming = True
        try:
            protocol.send(self.peer, "resume", fds=[self._own], **self._known)
        except OSError:
            self._hung_up()

    def close(self) -> None:
        """The last process of the session is gone: the daemon may forget it."""
        if self.peer is None:
            return
        with contextlib.suppress(OSError, ProtocolError), self.peer:
            protocol.send(self.peer, "close")
            while (message := protocol.receive(self.peer)) and message["kind"] != "closed":
                pass

    def _hung_up(self) -> None:
        if self.peer:
            self.peer.close()
        self.peer, self._resuming = None, False
        self._next = time.monotonic() + RETRY

    def _resumed(self, message: protocol.Message) -> None:
        self._resuming = False
        if message["kind"] == "ready":
            if self._question:
                self.ask(self._question)
            return
        self._hung_up()
        self.lost = str(message.get("refused", message["kind"]))
