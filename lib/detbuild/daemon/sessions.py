# SPDX-License-Identifier: MIT
"""The sessions that the daemon holds: from a peer's wish to the end of the last process, across restarts.

A session lives as long as its supervisor. Where that ends before it closed the session, every process of the session
is killed, rather than let it read half answers; only a spared opener lives on.

A session may be *lost*: its maps are another release's, or gone. It is watched like every other, its processes are
those that descend from its opener, and its record has a gap instead of what BPF counted.
"""

from __future__ import annotations

import os
import secrets
import select
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from detbuild.daemon import peers
from detbuild.daemon.admission import Admission
from detbuild.daemon.config import Limits
from detbuild.daemon.log import Log
from detbuild.daemon.peers import Peer, Process
from detbuild.daemon.records import Record, Records, digest
from detbuild.errors import SessionError
from detbuild.linux import proc
from detbuild.policy import Policy

_KILL_AGAIN = 0.02  # seconds; a process that is just being forked is seen only then
_ROUNDS = 5
_NAMED = 100  # programs that an answer names
_LARGEST_NUMBER = (1 << 31) - 1

_ELSEWHERE = "BPF programs of another release hold the session: what they counted is not in the record"
_DETACHED = "the session's BPF programs are gone: its programs may have seen the real time"


class Kernel(Protocol):
    """What the daemon asks of the loaded BPF programs (see ``daemon.generations``).

    Every pid is one of this namespace. ``name`` is that of the set that holds new sessions.
    """

    name: str

    def open(self, session: int, admission: Admission) -> None: ...
    def counters(self, session: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]: ...
    def processes(self, session: int) -> list[int]: ...
    def held_by(self, pid: int) -> int | None: ...
    def close(self, session: int) -> None: ...
    def closed(self) -> list[int]: ...
    def drop(self, session: int) -> None: ...
    def sessions(self) -> list[int]: ...
    def stands(self, name: str) -> bool: ...
    def settle(self) -> None: ...
    def unload(self) -> None: ...


@dataclass
class Session:
    """One session. ``supervisor`` is None once it has ended; ``lost`` says that the kernel part does not know it."""

    record: Record
    supervisor: Process | None
    lost: bool = False
    dying: bool = False


class Sessions:
    """All of them, by number."""

    def __init__(self, kernel: Kernel, limits: Limits, state: Path, log: Log) -> None:
        self.held: dict[int, Session] = {}
        self._kernel = kernel
        self._limits = limits
        self._records = Records(state)
        self._log = log
        self._ends = select.epoll()  # of the supervisors' pidfds
        self._by_handle: dict[int, int] = {}
        self._closed: dict[int, Record] = {}  # whose programs may still run

    def fileno(self) -> int:
        """Readable when ``watch`` has something to see."""
        return self._ends.fileno()

    def watch(self) -> None:
        """Kill what the supervisors that have ended leave behind."""
        for handle, _ in self._ends.poll(0):
            self._orphaned(self._by_handle[handle])

    def _hold(self, session: Session) -> None:
        self.held[session.record.number] = session
        if session.supervisor:
            self._ends.register(session.supervisor.handle, select.EPOLLIN)
            self._by_handle[session.supervisor.handle] = session.record.number

    def _let_go(self, session: Session) -> None:
        """Whoever sent the pidfd shares it, so that closing it here would not take it out of the epoll set."""
        if session.supervisor:
            self._ends.unregister(session.supervisor.handle)
            del self._by_handle[session.supervisor.handle]
            session.supervisor.close()
            session.supervisor = None

    def adopt(self) -> None:
        """Find again what an earlier daemon held: its supervisors may resume. Kill what has none any more."""
        pinned = set(self._kernel.sessions())
        records, complaints = self._records.read()
        for complaint in complaints:
            self._log(complaint)
        self._closed = {record.number: record for record in records if record.closed}
        for record in records:
            if not record.closed:
                self._adopt(record, record.number in pinned)
        for number in pinned - {record.number for record in records}:
            self._log(f"session {number} has no record: nobody can ask for it, and its processes stay in it")
            self._kernel.close(number)

    def _adopt(self, record: Record, pinned: bool) -> None:
        number = record.number
        if not pinned:
            gap = _ELSEWHERE if self._kernel.stands(record.programs) else _DETACHED
            self._log(f"session {number} of user {record.uid} is lost: {gap}")
            if gap not in record.gaps:
                record.gaps.append(gap)
                self._records.write(record)
        supervisor = peers.same(*record.supervisor)
        self._hold(Session(record, supervisor, lost=not pinned))
        if supervisor is None:
            self._orphaned(number)
        else:
            self._log(f"session {number} of user {record.uid} goes on at epoch {record.epoch}")

    def open(
        self,
        peer: Peer,
        opener: Process,
        tid: int,
        supervisor: Process,
        *,
        epoch: int,
        spared: bool,
        policy: Policy,
    ) -> tuple[int, str]:
        """A new session's number, and the token by which a later daemon knows its supervisor.

        Takes the supervisor's pidfd over. Raises SessionError.
        """
        self._check(peer.uid, opener)
        number = self._free_number()
        token = secrets.token_hex(32)
        record = Record(
            number,
            peer.uid,
            epoch,
            spared,
            (opener.pid, opener.started),
            (supervisor.pid, supervisor.started),
            digest(token),
            programs=self._kernel.name,
        )
        self._records.write(record)
        try:
            fixes_random = "random" in policy.rules and not policy.observes
            self._kernel.open(
                number,
                Admission(opener.pid, tid, supervisor.pid, epoch, spared, policy.observes, devices=fixes_random),
            )
            self._look_again(number, peer, opener, supervisor)
        except BaseException:
            self._records.remove(number)
            raise
        self._hold(Session(record, supervisor))
        name = proc.program(opener.pid)
        self._log(f"session {number} opened: user {peer.uid}, process {opener.pid} ({name}), epoch {epoch}")
        return number, token

    def _look_again(self, number: int, peer: Peer, opener: Process, supervisor: Process) -> None:
        """BPF sees an end or an execution from here on; one before the rows were there has left them to nobody."""
        try:
            peers.check_again(peer, opener, supervisor)
        except BaseException:
            self._kernel.drop(number)
            raise

    def _check(self, uid: int, opener: Process) -> None:
        outer = self._held_by(opener.pid)
        if outer is not None:
            raise SessionError(f"process {opener.pid} is in session {outer} already", remedy="use that session")
        closed = self._still_run()
        own = [record for record in self._closed.values() if record.uid == uid]
        users = sum(session.record.uid == uid for session in self.held.values()) + len(own)
        if users >= self._limits.sessions_per_user:
            raise SessionError(
                f"user {uid} has {users} sessions, which is the limit",
                cause=_lingering(len(own)),
                remedy="run fewer tasks at once, or raise limits: sessions_per_user in the daemon's configuration",
            )
        if len(self.held) + len(closed) >= self._limits.sessions:
            raise SessionError(
                f"the daemon holds {len(self.held) + len(closed)} sessions, which is the limit",
                cause=_lingering(len(closed)),
                remedy="run fewer tasks at once, or raise limits: sessions in the daemon's configuration",
            )

    def _still_run(self) -> set[int]:
        """The closed sessions that still take a row, because programs run in them; the others are forgotten."""
        running = set(self._kernel.closed())
        for number in self._closed.keys() - running:
            del self._closed[number]
            self._records.remove(number)
        return running

    def _free_number(self) -> int:
        while True:
            number = 1 + secrets.randbelow(_LARGEST_NUMBER)
            if number not in self.held and number not in self._closed:
                return number

    def counters(self, number: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Reads and gaps of a session so far, as ``Kernel.counters`` has them, and what it lost between two daemons."""
        session = self.held[number]
        reads, gaps = ([], []) if session.lost else self._kernel.counters(number)
        lost = [{"kind": "daemon away", "detail": gap, "count": 1} for gap in session.record.gaps]
        return reads, gaps + lost

    def _processes(self, session: Session) -> list[int]:
        if not session.lost:
            return self._kernel.processes(session.record.number)
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _stems_from(session.record, pid)]

    def _held_by(self, pid: int) -> int | None:
        """The session that a process is in."""
        number = self._kernel.held_by(pid)
        lost = [session.record for session in self.held.values() if session.lost]
        return number if number is not None else next((each.number for each in lost if _stems_from(each, pid)), None)

    def survivors(self, number: int) -> list[str]:
        """The programs that run in a session, without its opener: the first of them by name."""
        session = self.held[number]
        others = [pid for pid in self._processes(session) if pid != session.record.opener[0]]
        named = [proc.program(pid) for pid in others[:_NAMED] if not proc.ended(pid)]
        unnamed = len(others) - _NAMED
        return sorted(named) + ([f"{unnamed} more programs"] if unnamed > 0 else [])

    def close(self, number: int) -> None:
        """The supervisor says that it is done."""
        session = self.held.pop(number)
        self._let_go(session)
        self._kernel.close(number)
        self._closed[number] = session.record
        if number in self._still_run():
            session.record.closed = True
            self._records.write(session.record)
        self._log(f"session {number} closed")

    def resume(self, peer: Peer, number: int, token: str, supervisor: Process) -> None:
        """A supervisor of an earlier daemon's time is back. Raises SessionError where it is not that one."""
        session = self.held.get(number)
        if session is None or session.dying:
            raise SessionError(
                f"there is no session {number}", cause="its record was lost, or its supervisor was taken for dead"
            )
        known = session.record
        same = (supervisor.pid, supervisor.started) == known.supervisor and peer.uid == known.uid
        if not (same and known.fits(token)):
            raise SessionError(f"this is not the supervisor of session {number}")
        self._log(f"session {number} resumed by process {supervisor.pid}")

    def _orphaned(self, number: int) -> None:
        """The supervisor has ended without closing."""
        session = self.held[number]
        session.dying = True
        self._let_go(session)
        self._log(f"session {number}: its supervisor is gone, and its processes are killed")
        self._kill(session)

    def tick(self) -> float | None:
        """Go on killing; when to come again, in seconds, where there is more to do."""
        for session in [session for session in self.held.values() if session.dying]:
            self._kill(session)
        return _KILL_AGAIN if any(session.dying for session in self.held.values()) else None

    def _kill(self, session: Session) -> None:
        number, record = session.record.number, session.record
        spared = record.opener[0] if record.spared and proc.alive(*record.opener) else 0
        for _ in range(_ROUNDS):
            targets = [pid for pid in self._processes(session) if pid != spared]
            if not [pid for pid in targets if self._kill_one(pid, number)]:
                self.close(number)
                return

    def _kill_one(self, pid: int, number: int) -> bool:
        """Whether it still had to be killed, or is not dead yet."""
        process = peers.here(pid)
        if process is None:
            return False
        try:
            if not process.alive() or self._held_by(pid) != number:  # another one may have got its number
                return False
            process.kill()
            return True
        finally:
            process.close()

    def seen_by(self, peer: Peer) -> tuple[bool, int]:
        """Whether a peer lives in a session, and the number that it knows the session's supervisor by, or 0."""
        number = self._held_by(peer.process.pid) if peer.process else None
        session = None if number is None else self.held.get(number)
        if session is None or peer.process is None:
            return number is not None, 0
        return True, peers.as_seen_by(peer.process.pid, session.supervisor.pid) if session.supervisor else 0


def _lingering(count: int) -> str:
    return f"{count} of them are closed, and programs that they left behind still run" if count else ""


def _stems_from(record: Record, pid: int) -> bool:
    """Whether a process is the session's opener, or one that descends from it, as far as /proc tells.

    Neither the supervisor nor what was there before it belongs to the session.
    """
    opener, started = record.opener
    supervisor, before = record.supervisor
    if not proc.alive(opener, started):
        return False
    try:
        born_within = pid != supervisor and proc.start_time(pid) >= before
    except OSError:
        return False
    return pid == opener or (born_within and peers.descends(pid, opener))
