"""The host and the kernel under the rule identity: their layouts in memory, and what stays real."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import strict_cases
import supervised
from results import PYTHON

from detbuild import Session
from detbuild.audit import Audit
from detbuild.engine.identity import NODE, RELEASE, sysinfo, uname
from detbuild.linux.x86_64 import I386, NATIVE, Abi


@pytest.mark.parametrize(("call", "length", "fields"), [("uname", 65, 6), ("olduname", 65, 5), ("oldolduname", 9, 5)])
def test_each_uname_fills_its_own_structure_and_no_more(call: str, length: int, fields: int) -> None:
    buffer = ctypes.create_string_buffer(b"\xff" * 512, 512)
    assert uname(os.getpid(), NATIVE, call, [ctypes.addressof(buffer)]) == 0
    texts = [buffer.raw[at * length : (at + 1) * length].split(b"\0")[0].decode() for at in range(fields)]
    assert texts[:3] == ["Linux", NODE[: length - 1], RELEASE]
    assert texts[4] == os.uname().machine
    assert buffer.raw[fields * length :] == b"\xff" * (512 - fields * length)


@pytest.mark.parametrize(("abi", "size"), [(NATIVE, 112), (I386, 64)])
def test_sysinfo_fills_its_own_structure_and_no_more(abi: Abi, size: int) -> None:
    buffer = ctypes.create_string_buffer(b"\xff" * 256, 256)
    assert sysinfo(os.getpid(), abi, "sysinfo", [ctypes.addressof(buffer)]) == 0
    assert buffer.raw[size:] == b"\xff" * (256 - size)
    assert b"\xff" * 8 not in buffer.raw[:size]
    (uptime,) = struct.unpack_from("=q" if size == 112 else "=i", buffer.raw)
    assert uptime == 86_400


def test_memory_and_machine_are_the_real_ones(tmp_path: Path) -> None:
    strict_cases.build(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    names = [f"{kind}: {word}" for kind in strict_cases.PROGRAMS for word in ("uname", "sysinfo")]
    cases = [case for case in strict_cases.CASES if case.name in names]
    printed, _ = strict_cases.run(cases, tmp_path, "tracer", here)
    for case in cases:
        outside = subprocess.run(
            [str(tmp_path / Path(case.argv[0]).name), *case.argv[1:]], capture_output=True, text=True, check=True
        ).stdout.split()
        inside = printed[case.name].removeprefix("b'").removesuffix("\\n'").split()
        real = -2 if "uname" in case.name else -1
        assert inside[real] == outside[real]
        assert inside[:real] != outside[:real]


def test_setarch_still_changes_the_machine(tmp_path: Path) -> None:
    case = strict_cases.Case("i686", "identity", ("setarch", "i686", "uname", "-m"))
    printed, _ = strict_cases.run([case], tmp_path, "tracer", tmp_path)
    assert printed["i686"] == r"b'i686\n'"


_ASKS = (
    "import fcntl, os, pty, socket, struct, sys, termios\n"
    "if 'card' in sys.argv: print(len(fcntl.ioctl(socket.socket(), 0x8927, b'lo'.ljust(40, b'\\0'))))\n"
    "if 'window' in sys.argv:\n s = pty.openpty()[1]\n"
    " fcntl.ioctl(s, termios.TIOCSWINSZ, struct.pack('4H', 7, 9, 1, 1)); print(*os.get_terminal_size(s))\n"
    "if 'group' in sys.argv:\n try: fcntl.ioctl(0, termios.TIOCSPGRP, struct.pack('i', os.getpgrp()))\n"
    " except OSError as error: print(error.errno)"
)


def traced(policy: str, *words: str) -> tuple[str, Audit]:
    with Session(strict_cases.EPOCH, policy, "tracer") as session:
        done = session.run(words, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert (done.stderr, session.audit.gaps) == ("", {})
    return done.stdout, session.audit


def notified(policy: str, *words: str) -> tuple[str, Audit]:
    result = supervised.run(*words, policy=policy, input="")
    assert (result.err, result.gaps) == ("", [])
    return result.out, result.audit


@pytest.mark.parametrize("run", [traced, notified])
@pytest.mark.parametrize(
    ("policy", "asks", "prints", "outcome"),
    [
        ("strict", "card", "40", {"leaked"}),
        ("strict", "window", "80 24", {"fixed"}),
        ("strict", "group", "25", set()),
        ("strict -identity", "window", "9 7", set()),
        ("observe", "card", "40", {"leaked"}),
        ("observe", "window", "9 7", {"leaked"}),
        ("observe", "group", "25", set()),
        ("time", "card", "40", set()),
    ],
)
def test_who_asks_for_a_window_or_a_network_card_is_on_record(
    policy: str, asks: str, prints: str, outcome: set[str], run: Callable[..., tuple[str, Audit]]
) -> None:
    out, audit = run(policy, PYTHON, "-I", "-S", "-c", _ASKS, asks)
    assert out == f"{prints}\n"
    assert {read.outcome for read in audit.reads if read.source == "ioctl"} == outcome
