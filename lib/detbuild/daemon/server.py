# SPDX-License-Identifier: MIT
"""The daemon's loop: one thread, no waiting for any one peer, and limits for each user."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from detbuild import __version__, policy, protocol
from detbuild.daemon import peers
from detbuild.daemon.closer import Closer
from detbuild.daemon.config import Limits
from detbuild.daemon.log import Log
from detbuild.daemon.sessions import Sessions
from detbuild.daemon.wire import Wire
from detbuild.errors import DetbuildError, ProtocolError, SessionError
from detbuild.linux import proc

_LAST_MOMENT = 1 << 62  # seconds since 1970, as for ``Terms``
_MOST_CLOSING = 1024  # descriptors of one user that wait to be closed
_MOST_UNSENT = 64 << 20  # bytes of answers that one user has not taken
_NOBODY = -1  # whose user could not be told
_PAUSE = 0.2  # seconds without accept(2) where there are no descriptors left

Answer = dict[str, Any]


class Server:
    """Serves until ``stop`` becomes readable. Owns the listening socket and its connections."""

    def __init__(self, listener: socket.socket, sessions: Sessions, limits: Limits, log: Log) -> None:
        self._listener = listener
        self._sessions = sessions
        self._limits = limits
        self._log = log
        self._wires: set[Wire] = set()
        self._closer = Closer()
        self._of_user: Counter[int] = Counter()
        self._selector = selectors.DefaultSelector()
        self._accepting = True
        self._requests: dict[str, Callable[[Wire, protocol.Message, list[int]], Answer]] = {
            "hello": self._hello,
            "open": self._open,
            "counters": self._counters,
            "close": self._close,
            "resume": self._resume,
        }

    def serve(self, stop: int) -> None:
        """``stop`` is a descriptor. A peer's errors end its connection; anything else would be a bug of ours."""
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._sessions, selectors.EVENT_READ)
        self._selector.register(stop, selectors.EVENT_READ)
        try:
            while True:
                waits = [self._sessions.tick(), None if self._accepting else _PAUSE]
                for key, events in self._selector.select(min((wait for wait in waits if wait), default=None)):
                    if key.fileobj == stop:
                        return
                    self._happened(key.fileobj, key.data, events)
                self._accept_again()
        finally:
            for wire in list(self._wires):
                self._drop(wire)
            self._selector.close()

    def _happened(self, file: Any, data: Any, events: int) -> None:
        if file is self._listener:
            self._accept()
        elif file is self._sessions:
            self._sessions.watch()
        elif data in self._wires:
            self._serve(data, events)

    # Connections -------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                self._log(f"no new connection for now: {error.strerror}")
                self._selector.unregister(self._listener)
                self._accepting = False
            return
        try:
            connection.setblocking(False)
            # Else recvmsg(2) itself would close what came beside out-of-band data.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            wire = Wire(connection, peers.of(connection), self._limits.message, self._closer)
        except OSError:
            self._closer.hang_up(_NOBODY, connection)
            return
        uid = wire.peer.uid
        refused, closing = "", self._closer.waiting(uid)
        if self._of_user[uid] + closing >= self._limits.connections_per_user:
            refused = f"user {uid} has {self._of_user[uid] + closing} connections to the daemon, which is the limit"
        elif len(self._wires) >= self._limits.connections:
            refused = f"the daemon has {len(self._wires)} connections, which is the limit"
        if refused:
            self._log(refused)
            with contextlib.suppress(OSError):
                wire.answer("error", refused=refused, cause=_hanging(closing), remedy="run fewer tasks at once")
            wire.close()
            return
        self._wires.add(wire)
        self._of_user[uid] += 1
        self._selector.register(connection, selectors.EVENT_READ, wire)

    def _accept_again(self) -> None:
        if not self._accepting:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._accepting = True

    def _drop(self, wire: Wire) -> None:
        self._wires.discard(wire)
        self._of_user[wire.peer.uid] -= 1
        if not self._of_user[wire.peer.uid]:
            del self._of_user[wire.peer.uid]
        self._selector.unregister(wire.socket)
        wire.close()

    def _serve(self, wire: Wire, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                wire.write()
            elif request := self._read(wire):
                self._answer(wire, *request)
        except (EOFError, OSError):
            if wire.session in self._sessions.held:
                self._log(
                    f"session {wire.session}: its supervisor hung up; the session lasts as long as the supervisor"
                )
            self._drop(wire)
            return
        except ProtocolError as error:
            self._log(f"user {wire.peer.uid}: {error}")
            with contextlib.suppress(OSError, ProtocolError):
                wire.answer("error", refused=error.refused, cause=error.cause, remedy=error.remedy)
            self._drop(wire)
            return
        # Who does not take an answer is asked nothing more, so that one answer is all that waits for it.
        self._selector.modify(wire.socket, selectors.EVENT_WRITE if wire.unsent else selectors.EVENT_READ, wire)

    def _read(self, wire: Wire) -> tuple[protocol.Message, list[int]] | None:
        """As ``Wire.read``, but for a user whose descriptors let us wait for their end."""
        uid = wire.peer.uid
        if self._closer.waiting(uid) >= _MOST_CLOSING:
            raise ProtocolError(
                f"user {uid} sent descriptors that do not close", remedy="send what pidfd_open(2) returns, and no files"
            )
        return wire.read()

    def _answer(self, wire: Wire, message: protocol.Message, fds: list[int]) -> None:
        """Answer one request. Handlers take out of ``fds`` what they keep."""
        kind = message["kind"]
        try:
            handler = self._requests.get(kind)
            if handler is None:
                raise ProtocolError(f"the daemon knows no request {kind!r}")
            answer = handler(wire, message, fds)
        except ProtocolError:
            raise
        except DetbuildError as error:
            self._log(f"user {wire.peer.uid}: {kind} refused: {error}")
            answer = _refusal(error.refused, error.cause, error.remedy)
        except Exception as error:  # whatever breaks for one peer, the others are served
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._log(f"user {wire.peer.uid}: {kind} failed: {error!r} in {where.filename}:{where.lineno}")
            answer = _refusal(f"the daemon failed at {kind}: {error!r}", "", "see its log: journalctl -u detbuildd")
        finally:
            self._closer.close(wire.peer.uid, fds)
        wire.answer(**answer)

    # Requests ----------------------------------------------------------------------------------------------------

    def _hello(self, wire: Wire, _message: protocol.Message, _fds: list[int]) -> Answer:
        held, supervisor = self._sessions.seen_by(wire.peer)
        return {
            "kind": "hello",
            "pid": os.getpid(),
            "started": proc.start_time("self"),
            "release": __version__,
            "held": held,
            "supervisor": supervisor,
        }

    def _open(self, wire: Wire, message: protocol.Message, fds: list[int]) -> Answer:
        if wire.session:
            raise SessionError("a connection opens one session", remedy="connect again for another")
        if len(fds) != 2:
            raise SessionError(f"a session is opened with two pidfds, of its opener and its supervisor, not {len(fds)}")
        epoch, tid = _number(message, "epoch", _LAST_MOMENT), _number(message, "tid", 1 << 31)
        spared = message.get("spare_root")
        if type(spared) is not bool:
            raise SessionError(f"spare_root is true or false, not {spared!r}")
        held = policy.Policy.parse(str(message.get("policy")))
        opener, supervisor = peers.opener(wire.peer, fds[0]), peers.of_user(wire.peer, fds[1])
        if opener.pid == supervisor.pid:
            raise SessionError("a process cannot be its own supervisor")
        number, token = self._sessions.open(
            wire.peer,
            opener,
            peers.thread(opener, tid),
            supervisor,
            epoch=epoch,
            spared=spared,
            policy=held,
        )
        fds.remove(supervisor.handle)
        wire.session = number
        return {"kind": "ready", "session": number, "token": token}

    def _counters(self, wire: Wire, message: protocol.Message, _fds: list[int]) -> Answer:
        number, uid = self._session_of(wire), wire.peer.uid
        unsent = sum(each.unsent for each in self._wires if each.peer.uid == uid)
        if unsent > _MOST_UNSENT:
            raise SessionError(
                f"user {uid} has {unsent} bytes of answers that nobody took",
                remedy="take an answer before the next one",
            )
        reads, gaps = self._sessions.counters(number)
        return {"kind": "counters", "reads": reads, "gaps": gaps, "survivors": self._sessions.survivors(number)}

    def _close(self, wire: Wire, message: protocol.Message, _fds: list[int]) -> Answer:
        number = self._session_of(wire)
        self._sessions.close(number)
        return {"kind": "closed"}

    def _resume(self, wire: Wire, message: protocol.Message, fds: list[int]) -> Answer:
        if len(fds) != 1:
            raise SessionError(f"a session is resumed with one pidfd, of its supervisor, not {len(fds)}")
        number = _number(message, "session", 1 << 31)
        self._sessions.resume(wire.peer, number, str(message.get("token")), peers.of_user(wire.peer, fds[0]))
        for former in [each for each in self._wires if each.session == number and each is not wire]:
            self._drop(former)  # or a session would have as many answers under way as its user has connections
        wire.session = number
        return {"kind": "ready", "session": number}

    def _session_of(self, wire: Wire) -> int:
        session = self._sessions.held.get(wire.session)
        if session is None or session.dying:
            raise SessionError("no session was opened or resumed over this connection", cause="it was closed, or lost")
        return wire.session


def _number(message: protocol.Message, name: str, end: int) -> int:
    value = message.get(name)
    if type(value) is not int or not 0 <= value < end:
        raise SessionError(f"{name} is a number from 0 and below {end}, not {value!r:.100}")
    return value


def _hanging(closing: int) -> str:
    return f"{closing} of them are descriptors that it sent or left unread, and that do not close" if closing else ""


def _refusal(refused: str, cause: str, remedy: str) -> Answer:
    return {"kind": "error", "refused": refused, "cause": cause, "remedy": remedy}
