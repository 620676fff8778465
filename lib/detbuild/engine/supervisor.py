# SPDX-License-Identifier: MIT
"""The supervisor as a process of its own: it serves one session's notified calls until the last program has ended."""

from __future__ import annotations

import contextlib
import ctypes
import operator
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable

from detbuild import policy, protocol
from detbuild.audit import Audit, Gap
from detbuild.engine import apart, filter, refusals
from detbuild.engine.base import Terms
from detbuild.engine.bell import Bell, Doorbell
from detbuild.engine.desk import Desk, Opener
from detbuild.engine.line import PATIENCE, RETRY, Line
from detbuild.errors import EngineUnavailable, ProtocolError
from detbuild.linux import descriptors, proc
from detbuild.linux.notify import Listener, Notification

NAME = "detbuild-superv"  # the supervisor's name, as ps shows it
_PLACE = ctypes.create_string_buffer(8)  # where it stands in the opener's memory too, whose copy a supervisor is


def session_filter(name: str) -> bytes:
    """struct sock_filter[] of a session under that policy. Raises PolicyError."""
    return filter.supervised(policy.rules(name))


def start(terms: Terms, bell: Callable[[], Doorbell] = Bell) -> socket.socket:
    """Start a supervisor beside the calling process; returns the client's end of the socket to it.

    It says "hello"(pid, started) with a pidfd of itself; wants "open"(pid, tid, session, token, socket) with a
    connection to the daemon, says "ready" or "error"; wants "listener" with one, says "ready" and serves. To "close"
    it answers "closed"(audit); "died"(reason) may come at any time. ``bell`` is called in the new process.
    """
    return apart.start(NAME, lambda peer: _live(terms, bell, peer))


def _live(terms: Terms, bell: Callable[[], Doorbell], peer: socket.socket) -> None:
    own = os.pidfd_open(os.getpid())
    protocol.send(peer, "hello", [own], pid=os.getpid(), started=proc.start_time("self"))
    opened, daemon = protocol.receive_fd(peer)
    if opened is None or daemon is None:
        return
    opener = Opener(int(opened["pid"]), int(opened["tid"]))
    root = os.pidfd_open(opener.pid)
    line = Line(socket.socket(fileno=daemon), opened, own)
    try:
        refusals.check_memory(opener.pid, ctypes.addressof(_PLACE), len(_PLACE))
    except EngineUnavailable as refusal:
        line.close()
        protocol.send(peer, "error", refused=refusal.refused, cause=refusal.cause, remedy=refusal.remedy)
        return
    protocol.send(peer, "ready")
    message, fd = protocol.receive_fd(peer)
    if message is None or fd is None:
        line.close()  # the client could not install its filter
        return
    listener = Listener(fd)
    desk = Desk(terms, listener, bell(), opener)
    supervisor = Supervisor(desk, listener, peer, line, root)
    protocol.send(peer, "ready")
    supervisor.serve()


class Supervisor:
    """The loop over the listener, the client, the daemon, and the stops of threads that are traced for one call."""

    def __init__(self, desk: Desk, listener: Listener, client: socket.socket, line: Line, root: int) -> None:
        """``root`` is a pidfd of the process that opened the session."""
        self._desk, self._listener, self._client, self._line, self._root = desk, listener, client, line, root
        self._served = True  # whether a program of the session may still call
        self._heard = True  # whether the client may still say something
        self._asked = False  # whether it asked for the record
        self._until = 0.0  # how long an answer to that waits for the daemon; 0 where none is owed
        self._calls: deque[Notification] = deque()  # received, and not yet answered
        # A handler would interrupt an answer that is under way, which may not be given again.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        self._ended = descriptors.child_signals()
        self._poll: select.poll | None = None  # made afresh when another descriptor is to be watched

    def serve(self) -> None:
        """Until the last program has ended, and the client has its record or is gone."""
        while self._served or self._heard or self._until:
            self._poll = self._poll or self._watched()
            events = self._poll.poll(self._patience())
            for fd, event in events:
                self._happened(fd, event)
            if self._calls and (self._listener.fd, select.POLLIN) not in events:
                # Only now: a signal may still take a call away from us that was not received.
                self._desk.serve(self._calls.popleft())
            if self._line.away:
                self._line.retry()
                self._poll = None
            if self._until and (self._line.lost or time.monotonic() > self._until):
                self._close(None)
        self._line.close()

    def _patience(self) -> float | None:
        """Milliseconds in which something must happen."""
        if self._calls:
            return 0
        return RETRY * 1000 if self._line.away or self._until else None

    def _watched(self) -> select.poll:
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        if self._served:
            poll.register(self._listener, select.POLLIN)
        if self._heard:
            poll.register(self._client, select.POLLIN)
        if self._line.peer:
            poll.register(self._line.peer, select.POLLIN)
        return poll

    def _happened(self, fd: int, event: int) -> None:
        if fd == self._listener.fd:
            if event & select.POLLIN:
                call = self._listener.receive()
                if call and not self._desk.passes(call):
                    self._calls.append(call)
            else:
                self._served, self._poll = False, None
        elif fd == self._ended:
            os.read(fd, 4096)
            self._desk.stopped()
        elif fd == self._client.fileno():
            self._poll = None
            self._client_said()
        elif self._line.peer and fd == self._line.peer.fileno():
            self._poll = None
            message = self._line.hear()
            if message and self._until:
                self._close(message)

    def _client_said(self) -> None:
        try:
            message = protocol.receive(self._client)
        except (OSError, ProtocolError):
            message = None
        if message is None:
            self._heard = False
            if not self._asked:
                # Nobody would ever end the session's programs, or hear what they did.
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(self._root, signal.SIGKILL)
        elif message["kind"] == "close":
            self._asked, self._until = True, time.monotonic() + PATIENCE
            self._line.ask("counters")

    def _close(self, counters: protocol.Message | None) -> None:
        """Give the client the record: what the daemon counted, if it told, and what was seen here."""
        self._until = 0.0
        record = self._desk.audit + self._counted(counters)
        with contextlib.suppress(OSError):
            protocol.send(self._client, "closed", audit=record.to_dict())

    def _counted(self, message: protocol.Message | None) -> Audit:
        audit = Audit()
        if self._line.lost:
            audit.gaps[Gap("daemon restarted", f"the session could not be resumed: {self._line.lost}")] += 1
        if message is None or message["kind"] != "counters":
            said = message.get("refused", message["kind"]) if message else f"it did not answer in {PATIENCE:g} seconds"
            audit.gaps[Gap("daemon away", f"what BPF counted is not in the record: {said}")] = 1
            return audit
        # In the order in which the programs were first executed: the first rows of a record are whole.
        for row in sorted(message["reads"], key=operator.itemgetter("program_key", "source", "outcome")):
            self._desk.readers.count(audit, row["program_key"], row["source"], row["outcome"], row["count"])
        for row in message["gaps"]:
            audit.gaps[Gap(row["kind"], row["detail"])] += row["count"]
        audit.survivors = list(message.get("survivors", ()))
        return audit
