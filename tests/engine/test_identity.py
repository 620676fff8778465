"""The host and the kernel under the rule identity: their layouts in memory, and what stays real."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from pathlib import Path

import pytest
import strict_cases

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
