"""Execution as execvp(3), with an environment byte for byte."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from detbuild.linux import execute


def attempt(file: str, environment: list[bytes], shell: bool = False, *arguments: str) -> tuple[int, bytes]:
    """Execute in a child: (0, its output), or the errno."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(writer, 1)
            execute.execute(file, [file, *arguments], environment, shell)
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(255)
    os.close(writer)
    with open(reader, "rb") as out:
        output = out.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_environment_is_not_touched() -> None:
    environment = [b"A=1", b"A=2", b"nothing", b"=", b"B=\xff"]
    assert attempt("/usr/bin/env", environment, False, "-0") == (0, b"\0".join(environment) + b"\0")


def test_own_environment_is_what_this_process_was_executed_with() -> None:
    os.environ["DETBUILD_TEST_LATE"] = "1"
    try:
        own = execute.own_environment()
    finally:
        del os.environ["DETBUILD_TEST_LATE"]
    assert not [entry for entry in own if entry.startswith(b"DETBUILD_TEST_LATE")]
    assert b"" not in own[-1:]


def test_path_is_searched_in_order_and_past_what_cannot_be_executed(tmp_path: Path) -> None:
    for name, mode in (("first", 0o644), ("second", 0o755), ("third", 0o755)):
        (tmp_path / name).mkdir()
        script(tmp_path / name / "program", f"#!/bin/sh\necho {name}\n", mode)
    path = ":".join(str(tmp_path / name) for name in ("nonesuch", "first", "second", "third"))
    assert attempt("program", [f"PATH={path}".encode()]) == (0, b"second\n")


@pytest.mark.parametrize(
    ("file", "path", "expected"),
    [
        ("program", "nonesuch", errno.ENOENT),
        ("program", "locked", errno.EACCES),
        ("locked/program", "", errno.EACCES),
        ("./nonesuch", "", errno.ENOENT),
        ("locked/program/below", "", errno.ENOTDIR),
        ("", "locked", errno.ENOENT),
    ],
)
def test_refusals_are_the_kernels(
    file: str, path: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locked").mkdir()
    script(tmp_path / "locked" / "program", "#!/bin/sh\n", 0o644)
    assert attempt(file, [f"PATH={path}".encode()])[0] == expected


def test_a_file_without_a_format_goes_to_the_shell_only_where_asked(tmp_path: Path) -> None:
    program = str(script(tmp_path / "program", 'echo "$0" "$1"\n'))
    assert attempt(program, [])[0] == errno.ENOEXEC
    assert attempt(program, [], True, "word") == (0, f"{program} word\n".encode())


def test_without_path_the_systems_default_is_searched() -> None:
    assert attempt("true", []) == (0, b"")
    assert subprocess.run(["env", "-i", "true"], check=True).returncode == 0
