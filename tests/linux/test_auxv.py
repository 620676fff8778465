"""A key of an auxiliary vector is found in 64-bit and in 32-bit programs."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from conftest import wait_for
from detbuild.linux import auxv, proc

AT_PAGESZ = 6


@pytest.mark.parametrize("flags", [[], ["-m32"]], ids=["64 bits", "32 bits"])
def test_a_programs_vector_tells_what_the_kernel_told_it(tmp_path: Path, flags: list[str]) -> None:
    program = tmp_path / "waits"
    source = "#include <unistd.h>\nint main(void) { return pause(); }\n"
    subprocess.run(["gcc", *flags, "-x", "c", "-", "-o", str(program)], input=source, text=True, check=True)
    with subprocess.Popen([program]) as process:
        try:
            assert wait_for(lambda: proc.program(process.pid) == str(program))
            assert wait_for(lambda: auxv.value(proc.read(process.pid, "auxv"), AT_PAGESZ))
            vector = proc.read(process.pid, "auxv")
        finally:
            process.kill()
    assert auxv.value(vector, AT_PAGESZ) == os.sysconf("SC_PAGESIZE")
    assert auxv.value(vector, auxv.AT_SECURE) == 0
    assert auxv.value(vector, 4711) is None


def test_this_process_knows_its_own() -> None:
    vector = proc.read("self", "auxv")
    assert [auxv.own(key) for key in (AT_PAGESZ, auxv.AT_SECURE)] == [os.sysconf("SC_PAGESIZE"), 0]
    assert auxv.value(vector, AT_PAGESZ) == os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("word", ["Q", "I"])
def test_a_secure_program_is_told_by_either_layout(word: str) -> None:
    pairs = (33, 0x7FFC0000, 16, 0xBFEBFBFF, AT_PAGESZ, 4096, auxv.AT_SECURE, 1, auxv.AT_NULL, 0, 0, 0)
    assert auxv.value(struct.pack(f"={len(pairs)}{word}", *pairs), auxv.AT_SECURE) == 1


@pytest.mark.parametrize("vector", [b"", bytes(16), b"x", b"\xff" * 40, struct.pack("=4Q", 0, 0, auxv.AT_SECURE, 1)])
def test_what_is_no_vector_or_ends_before_has_no_such_key(vector: bytes) -> None:
    assert auxv.value(vector, auxv.AT_SECURE) is None
