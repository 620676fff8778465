"""A command under a real supervisor and its real filter, with a doorbell that rings in the supervisor itself.

Nothing of BPF is there: clock_gettime(2) and its kin stay real, and no vDSO is hidden.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from detbuild import protocol
from detbuild.audit import Audit
from detbuild.bpf import layout
from detbuild.bpf.layout import Flag, Op
from detbuild.client import collect
from detbuild.engine import supervisor, world
from detbuild.engine.base import Connection, Terms
from detbuild.engine.clock import SECOND, Clock
from detbuild.engine.stream import mixed
from detbuild.linux import notify, proc
from detbuild.policy import Policy

EPOCH = 1_300_000_000
LIBRARY = Path(notify.__file__).resolve().parents[2]


class Decision:
    """What an EXEC bell told of one process, and a STREAM bell after it."""

    def __init__(self, flags: int, program_key: int) -> None:
        self.flags, self.program_key = flags, program_key
        self.origin = 0


class Draws:
    """One thread's random numbers."""

    def __init__(self, stream: int, born: int = 0) -> None:
        self.stream, self.born, self.drawn = stream, born, 0


class DoubleBell:
    """BPF's part, played by ordinary clocks. It cannot see forks: a process has its nearest known ancestor's rule.

    A thread counts among its maker's children when it is first heard of.
    """

    def __init__(self, epoch: int, log: str = "", observes: bool = False) -> None:
        self._epoch = epoch
        self._all = Flag.OBSERVED if observes else Flag(0)
        self._log = log
        self._clocks: dict[tuple[int, int], Clock] = {}
        self._decisions: dict[tuple[int, int], Decision] = {}
        self._draws: dict[tuple[int, int], Draws] = {}

    def ring(self, op: Op, tid: int, flags: int = 0, a: int = 0, b: int = 0) -> layout.Bell:
        try:
            pid = int(proc.status(tid, "Tgid"))
            one = (tid, proc.start_time(tid))
            decision = self._decision(pid)
            executed = Flag.EXECUTED if (pid, proc.start_time(pid)) in self._decisions else Flag(0)
        except OSError as error:
            raise ProcessLookupError(tid) from error
        draws = self._drawn(tid, pid, one)
        answer = layout.Bell(
            0,
            0,
            decision.program_key,
            draws.stream,
            decision.flags | self._all | executed,
            tid,
            decision.origin,
            draws.drawn & 0xFFFFFFFF,
        )
        clock = self._clocks.setdefault(one, Clock(self._epoch * SECOND))
        if op is Op.EXEC:
            self._decisions[pid, proc.start_time(pid)] = Decision(flags, a)
            self._clocks.pop(one)
            if self._log:
                with open(self._log, "a") as log:
                    print(tid, int(flags), a, b, file=log)
        elif op is Op.STREAM:
            decision.origin = b
            self._draws[one] = Draws(a, born=1)
        elif op is Op.BEGIN:
            self._draws[one] = Draws(a)
        elif op is Op.DREW:
            draws.drawn += a
        elif op is Op.NOW:
            answer.value = clock.now()
        elif answer.flags & (Flag.CLOCK_REAL | Flag.SPARED | Flag.OBSERVED):
            pass
        elif op is Op.READ:
            answer.value = clock.read()
        elif op is Op.ADVANCE:
            clock.advance(a)
        elif op is Op.REACH:
            clock.reach(a)
            answer.value = clock.now()
        return answer

    def _drawn(self, tid: int, pid: int, one: tuple[int, int]) -> Draws:
        if one not in self._draws:
            maker = int(proc.status(pid, "PPid")) if tid == pid else pid
            made = self._draws.get((maker, proc.start_time(maker)), Draws(0))
            made.born += 1
            self._draws[one] = Draws(mixed(made.stream, made.born))
        return self._draws[one]

    def _decision(self, pid: int) -> Decision:
        while pid > 1:
            found = self._decisions.get((pid, proc.start_time(pid)))
            if found:
                return found
            pid = int(proc.status(pid, "PPid"))
        return Decision(0, 0)


def daemon(connection: socket.socket) -> None:
    """The daemon's end: it counted nothing."""
    while message := protocol.receive(connection):
        if message["kind"] == "counters":
            protocol.send(connection, "counters", reads=[], gaps=[], survivors=[])
        elif message["kind"] == "close":
            protocol.send(connection, "closed")
            return


def enter(
    terms: Terms, log: str = "", connection: socket.socket | None = None, where: str = "/nonexistent"
) -> Connection:
    """Put this process under a supervisor; what the eBPF engine's client does, without its daemon."""
    peer = supervisor.start(terms, lambda: DoubleBell(terms.epoch, log, Policy.parse(terms.policy).observes))
    hello, own = protocol.receive_fd(peer)
    assert hello
    assert own is not None
    os.close(own)
    if connection is None:
        connection, ours = socket.socketpair()
        threading.Thread(target=daemon, args=(ours,), daemon=True).start()
    known = {"session": 1, "token": "t", "socket": where}
    protocol.send(peer, "open", [connection.fileno()], pid=os.getpid(), tid=threading.get_native_id(), **known)
    connection.close()
    expect(peer, "ready")
    world.begin_layout(terms.policy)
    listener = notify.install(supervisor.session_filter(terms.policy))
    protocol.send(peer, "listener", [listener])
    os.close(listener)
    expect(peer, "ready")
    return Connection(hello["pid"], hello["started"], peer)


def expect(peer: socket.socket, kind: str) -> protocol.Message:
    message = protocol.receive(peer)
    assert message
    assert message["kind"] == kind, message
    return message


@dataclass(frozen=True)
class Ran:
    """What a command said, and what its supervisor recorded and decided: a tid, flags, program key and command key."""

    code: int
    out: str
    err: str
    seconds: float
    audit: Audit
    decisions: list[list[int]]

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def gaps(self) -> list[str]:
        return [f"{gap.kind}: {gap.detail}" for gap in self.audit.gaps]


def run(
    *command: str | Path, timeout: float = 60, old_kernel: bool = False, policy: str = "time", input: str = ""
) -> Ran:
    """``command`` below a helper that enters the session, as a BitBake task does.

    With ``old_kernel`` the kernel is asked for no more than one before Linux 5.19 has.
    """
    old = {"OLD_KERNEL": "1"} if old_kernel else {}
    result = subprocess.run(
        [sys.executable, __file__, *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(LIBRARY), "POLICY": policy, **old},
        input=input,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return parsed(result)


def parsed(result: subprocess.CompletedProcess[str]) -> Ran:
    """What the helper printed."""
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    return Ran(
        said["code"], said["out"], said["err"], said["seconds"], Audit.from_dict(said["audit"]), said["decisions"]
    )


def main(command: list[str]) -> None:
    if "OLD_KERNEL" in os.environ:
        # As before Linux 5.19, where any signal takes a call back that waits for its answer.
        notify.waits_killable = functools.cache(lambda: False)
    with tempfile.NamedTemporaryFile("r") as log:
        connection = enter(Terms(EPOCH, os.environ.get("POLICY", "time"), spare_root=True), log.name)
        start = time.monotonic()
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - start
        audit = collect(connection)
        decisions = [[int(word) for word in line.split()] for line in log]
    said = {"code": process.returncode, "out": process.stdout, "err": process.stderr, "seconds": seconds}
    print(json.dumps({**said, "audit": audit.to_dict(), "decisions": decisions}))


if __name__ == "__main__":
    main(sys.argv[1:])
