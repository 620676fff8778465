"""The tracer's loop, without a tracee."""

from __future__ import annotations

import errno
import signal

import pytest
from results import EPOCH

from detbuild import programs
from detbuild.engine.base import Terms
from detbuild.engine.clock import Clock
from detbuild.engine.tracee import Process, Thread
from detbuild.engine.tracer import Tracer
from detbuild.linux import proc, ptrace
from detbuild.linux.x86_64 import NATIVE


def test_what_somebody_else_waited_for_is_handled_before_the_next_wait() -> None:
    """A signal that comes during an errand would be lost, and its thread stopped for ever."""
    tracer = Tracer(Terms(EPOCH, "strict"))
    stops = [(10007, signal.SIGUSR1 << 8 | 0x7F), (10009, 0)]
    for stop in stops:
        tracer.postpone(*stop)
    assert [tracer._next() for _ in stops] == stops


FIRST, SECOND = 10007, 10009


def gone(tid: int, *_: int) -> None:
    raise ProcessLookupError(errno.ESRCH, f"no thread {tid}")


@pytest.fixture
def resumed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that went on. SECOND cannot: it was killed, and its end is still to be told."""
    done: list[int] = []
    monkeypatch.setattr(ptrace, "cont", lambda tid, _sig: gone(tid) if tid == SECOND else done.append(tid))
    monkeypatch.setattr(ptrace, "syscall", ptrace.cont)
    return done


def tracing(*tids: int) -> Tracer:
    tracer = Tracer(Terms(EPOCH, "time"))
    for tid in tids:
        tracer.threads[tid] = Thread(tid, Process("/bin/true", programs.DEFAULT, pid=tid), Clock(0))
    return tracer


@pytest.mark.parametrize("event", [ptrace.EVENT_FORK, ptrace.EVENT_VFORK, ptrace.EVENT_CLONE])
def test_the_maker_of_a_child_that_was_killed_goes_on(
    event: int, resumed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer = tracing(FIRST)
    assert not tracer._births.stopped(SECOND)
    monkeypatch.setattr(ptrace, "geteventmsg", lambda _tid: SECOND)
    tracer._stopped(FIRST, signal.SIGTRAP, event)
    assert resumed == [FIRST]


def test_who_attaches_to_a_thread_that_was_killed_goes_on_at_its_end(
    resumed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def attaches(_tid: int, registers: ptrace.Registers) -> None:
        registers.rdi, registers.rsi = ptrace.PTRACE_ATTACH, SECOND

    tracer = tracing(FIRST, SECOND)
    tracer._handover._able = True
    monkeypatch.setattr(ptrace, "getregs", attaches)
    monkeypatch.setattr(ptrace, "interrupt", gone)
    monkeypatch.setattr(proc, "translate", lambda _caller, number, _candidates: number)
    monkeypatch.setattr(proc, "ended", lambda _tid: False)
    tracer._handover.called(tracer.threads[FIRST], NATIVE)
    tracer.resume(FIRST)
    assert resumed == []
    tracer._handover.ended(SECOND)
    assert resumed == [FIRST]
