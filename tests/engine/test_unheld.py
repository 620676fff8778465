"""A call that could not be held is named in the record by what it is, and under both engines alike."""

from __future__ import annotations

import os
import threading
from unittest.mock import Mock

import pytest

from detbuild import policy
from detbuild.audit import Gap
from detbuild.engine.base import Terms
from detbuild.engine.desk import Desk, Opener
from detbuild.engine.tracee import Process, Thread
from detbuild.engine.tracer import Tracer
from detbuild.linux import ptrace
from detbuild.linux.notify import Notification
from detbuild.linux.x86_64 import NATIVE
from detbuild.policy import Rule
from detbuild.programs import DEFAULT

TERMS = Terms(1_300_000_000, "strict")
TID = threading.get_native_id()
PROGRAM = "the program"


def rule(call: str) -> Rule:
    return next(each for each in policy.rules("strict") if each.call == call and each.kind)


def gap_of_the_supervisor(call: str, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setattr(Desk, "name", lambda _self, _key: PROGRAM)
    desk = Desk(TERMS, Mock(), Mock(), Opener(os.getpid(), TID))
    asked = Notification(7, TID, NATIVE.numbers[call], NATIVE.audit, (0,) * 6)
    desk._failed(asked, rule(call), 0, ValueError("why"))
    [gap] = desk.audit.gaps
    return gap


def gap_of_the_tracer(call: str, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setattr(ptrace, "getregs", lambda _tid, _registers: None)
    tracer = Tracer(TERMS)
    thread = Thread(TID, Process(PROGRAM, DEFAULT, pid=TID), Mock(), None)
    tracer.prepare(thread, NATIVE, rule(call), Mock(side_effect=ValueError("why")))
    [gap] = tracer.audit.gaps
    return gap


@pytest.mark.parametrize(
    ("call", "gap"),
    [
        ("futex", Gap("wait not carried over", f"{PROGRAM}: futex: why")),
        ("personality", Gap("layout not kept", f"{PROGRAM}: personality: why")),
        ("kill", Gap("number not given back", f"{PROGRAM}: kill: why")),
        ("utimensat", Gap("file times not kept", f"{PROGRAM}: utimensat: why")),
        ("getrandom", Gap("memory out of reach", f"{PROGRAM} read getrandom itself: why")),
        ("getdents64", Gap("memory out of reach", f"{PROGRAM} read getdents64 itself: why")),
    ],
)
def test_what_could_not_be_held_is_named_alike_by_both_engines(
    monkeypatch: pytest.MonkeyPatch, call: str, gap: Gap
) -> None:
    assert gap_of_the_supervisor(call, monkeypatch) == gap
    assert gap_of_the_tracer(call, monkeypatch) == gap
