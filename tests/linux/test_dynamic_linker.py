"""Where programs have their dynamic linker, if their addresses are not random."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from detbuild.linux import dynamic_linker, personality

# Where a program itself finds its linker, and that linker's code.
OWN = """
import re
rows = [line.split(None, 5) for line in open("/proc/self/maps")]
rows = [row for row in rows if len(row) > 5 and re.search("/ld-[^/]*$", row[5].strip())]
spans = [[int(end, 16) for end in row[0].split("-")] for row in rows]
print(spans[0][0], *next(span for span, row in zip(spans, rows) if "x" in row[1]))
"""


def own(stack: int | None = None) -> tuple[int, ...]:
    """As a program with that limit of its stack, in bytes, sees it."""

    def limit() -> None:
        personality.keep_layout()
        if stack:
            resource.setrlimit(resource.RLIMIT_STACK, (stack, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    command = [sys.executable, "-I", "-S", "-c", OWN]
    out = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=limit).stdout
    return tuple(map(int, out.split()))


def test_it_is_where_every_program_has_it() -> None:
    found = dynamic_linker.find()
    assert found
    assert found == own()
    assert found.base < found.start < found.end


def test_another_limit_of_the_stack_moves_it_and_tells_it_apart() -> None:
    found = dynamic_linker.find()
    assert found
    assert own(1 << 30)[0] != found.base


def test_this_process_keeps_its_own_personality() -> None:
    before = Path("/proc/self/personality").read_text()
    dynamic_linker.find()
    assert Path("/proc/self/personality").read_text() == before


@pytest.mark.parametrize("maps", ["", "7ffff7f00000-7ffff7f56000 r-xp 00000000 00:00 1 /lib/ld-musl-x86_64.so.1\n"])
def test_without_glibc_it_is_not_known(maps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """musl's linker is its C library too: what a program itself opens comes from there."""
    (tmp_path / "maps").write_text(maps)
    (tmp_path / "cat").write_text(f"#!/bin/sh\nexec /bin/cat {tmp_path}/maps\n")
    (tmp_path / "cat").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dynamic_linker.find() is None


def test_without_cat_it_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dynamic_linker.find() is None
