"""Which notified calls the supervisor lets go on at once, and which it asks BPF about."""

from __future__ import annotations

import ctypes
import os
import threading

import pytest

from detbuild.bpf import layout
from detbuild.bpf.layout import Op
from detbuild.engine.base import Terms
from detbuild.engine.desk import Desk, Opener
from detbuild.linux.notify import Notification
from detbuild.linux.x86_64 import NATIVE

AT_FDCWD = (1 << 64) - 100


class Answers:
    """A listener that writes down which calls went on."""

    def __init__(self) -> None:
        self.went_on: list[int] = []

    def proceed(self, ident: int) -> bool:
        self.went_on.append(ident)
        return True


class Rings:
    """A bell that writes down what it was asked."""

    def __init__(self) -> None:
        self.rung: list[Op] = []

    def ring(self, op: Op, tid: int, flags: int = 0, a: int = 0, b: int = 0) -> layout.Bell:
        self.rung.append(op)
        return layout.Bell()


@pytest.fixture
def desk() -> tuple[Desk, Answers, Rings]:
    answers, rings = Answers(), Rings()
    opener = Opener(os.getpid(), threading.get_native_id())
    made = Desk(Terms(1_300_000_000, "strict"), answers, rings, opener)  # type: ignore[arg-type]
    rings.rung.clear()
    return made, answers, rings


def call(name: str, *arguments: int) -> Notification:
    given = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    return Notification(7, threading.get_native_id(), NATIVE.numbers[name], NATIVE.audit, given)


@pytest.mark.parametrize("path", [b"/usr/include/stdio.h", b"/etc/ld.so.cache", b"Makefile", b"/srv/proc/cpuinfo.h"])
def test_an_open_of_no_outside_file_goes_on_and_bpf_is_asked_nothing(
    desk: tuple[Desk, Answers, Rings], path: bytes
) -> None:
    name = ctypes.create_string_buffer(path)
    assert desk[0].passes(call("openat", AT_FDCWD, ctypes.addressof(name), os.O_RDONLY))
    assert (desk[1].went_on, desk[2].rung) == ([7], [])


def test_an_open_whose_name_is_out_of_reach_goes_on(desk: tuple[Desk, Answers, Rings]) -> None:
    assert desk[0].passes(call("openat", AT_FDCWD, 8, os.O_RDONLY))
    assert desk[1].went_on == [7]


@pytest.mark.parametrize("path", [b"/proc/cpuinfo", b"/etc/../proc//uptime", b"/dev/urandom"])
def test_an_open_of_an_outside_file_waits_for_its_answer(desk: tuple[Desk, Answers, Rings], path: bytes) -> None:
    name = ctypes.create_string_buffer(path)
    assert not desk[0].passes(call("openat", AT_FDCWD, ctypes.addressof(name), os.O_RDONLY))
    assert desk[1].went_on == []


def test_no_other_call_goes_on_unasked(desk: tuple[Desk, Answers, Rings]) -> None:
    assert not desk[0].passes(call("getrandom", 0, 0, 0))
    assert desk[1].went_on == []
