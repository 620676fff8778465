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
OPENER = Opener(os.getpid(), threading.get_native_id())


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
    made = Desk(Terms(1_300_000_000, "strict"), answers, rings, OPENER)  # type: ignore[arg-type]
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


def executes(desk: Desk, *command: bytes) -> None:
    """A notified execve(2) of this process's own."""
    words = [ctypes.create_string_buffer(word) for word in command]
    pointers = (ctypes.c_void_p * (len(words) + 1))(*map(ctypes.addressof, words), None)
    desk.serve(call("execve", ctypes.addressof(words[0]), ctypes.addressof(pointers), 0))


def leaks(desk: Desk) -> list[str]:
    return sorted(read.source for read, count in desk.audit.leaks.items() for _ in range(count))


def test_the_first_word_of_random_bits_of_a_program_is_mallocs_key() -> None:
    desk = Desk(Terms(1_300_000_000, "observe"), Answers(), Rings(), OPENER)  # type: ignore[arg-type]
    for _ in range(2):
        executes(desk, b"/bin/true")
        desk.serve(call("getrandom", 0, 8, 1))
        desk.serve(call("getrandom", 0, 8, 1))
    executes(desk, b"/bin/true")
    desk.serve(call("getrandom", 0, 16, 0))
    desk.serve(call("getrandom", 0, 8, 1))
    assert leaks(desk) == ["getrandom"] * 4 + ["heap key"] * 2


@pytest.mark.parametrize(("policy", "told"), [("observe", 1), ("strict", 1), ("time", 0)])
def test_a_build_path_in_a_command_line_is_a_leak_under_every_policy_but_time(policy: str, told: int) -> None:
    desk = Desk(Terms(1_300_000_000, policy), Answers(), Rings(), OPENER)  # type: ignore[arg-type]
    executes(desk, b"/bin/sed", b"s|x|" + os.fsencode(os.getcwd()) + b"/y|")
    executes(desk, b"/bin/sed", b"s|x|/y|")
    assert leaks(desk) == ["build path"] * told
