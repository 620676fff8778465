"""What works under policy strict as it does outside: debuggers, namespaces, fakeroot; and what chance makes there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from results import gaps, run

from conftest import ENTRANCE, LIBRARY
from detbuild.engine.identity import NODE


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("for n in 1 2 3; do uuidgen; uuidgen -t | cut -d- -f4; done", marks=needs("uuidgen")),
        f"PYTHONHASHSEED=random {sys.executable} -S -c 'print({{*map(str, range(97))}}, hash(\"x\"))'",
        pytest.param("perl -e 'print join \" \", rand, keys %{{map {$_, 1} 1 .. 97}}'", marks=needs("perl")),
    ],
    ids=["uuidgen", "python", "perl"],
)
def test_chance_makes_the_same_in_two_directories(script: str, tmp_path: Path) -> None:
    seen = []
    for name in ("here", "in-another-place"):
        (tmp_path / name).mkdir()
        result = run("tracer", "sh", "-c", script, cwd=tmp_path / name, policy="strict")
        assert (result.code, result.err, gaps(result)) == (0, "", [])
        seen.append(result.out)
    assert seen[0] == seen[1] != ""


@needs("uuidgen")
def test_the_network_card_in_a_uuid_is_on_record() -> None:
    result = run("tracer", "uuidgen", "-t", policy="strict")
    assert ("uuidgen", "ioctl") in {(Path(read.program).name, read.source) for read in result.audit.leaks}


@needs("gdb")
def test_gdb_runs_a_program() -> None:
    result = run("tracer", "gdb", "-batch", "-ex", "run", "-ex", "print $_exitcode", "sh", policy="strict", input="")
    assert "$1 = 0" in result.out
    assert not gaps(result)


@needs("strace")
def test_strace_shows_what_it_shows_outside(tmp_path: Path) -> None:
    command = ["strace", "-f", "-o", "trace", "-e", "trace=execve", "sh", "-c", "env true; env false"]
    result = run("tracer", *command, cwd=tmp_path, policy="strict")
    assert (result.code, gaps(result)) == (1, [])
    assert (tmp_path / "trace").read_text().count("execve(") >= 4


@needs("unshare")
def test_a_user_namespace_has_its_root_and_the_same_world() -> None:
    command = ["unshare", "--user", "--map-root-user", "--uts", "sh", "-c", "hostname other; hostname; id -u; uname -n"]
    outside = run("", *command)
    if outside.code:
        pytest.skip(f"no user namespaces here: {outside.err}")
    result = run("tracer", *command, policy="strict")
    assert result.lines == [NODE, "0", NODE]
    assert not gaps(result)


@needs("pseudo")
def test_a_fakeroot_task_keeps_real_inodes_and_the_owners_that_it_gives(tmp_path: Path) -> None:
    libraries = [str(path.parent) for path in Path("/usr/lib").glob("*/pseudo/libpseudo.so")]
    if not libraries:
        pytest.skip("pseudo's library is not where Debian puts it")
    own = {"PSEUDO_PREFIX": "/usr", "PSEUDO_LIBDIR": libraries[0], "PSEUDO_LOCALSTATEDIR": str(tmp_path / "pseudo")}
    environment = {**os.environ, **own, "LD_LIBRARY_PATH": libraries[0]}
    script = (
        "mkdir d; for n in b c a; do touch d/$n; chown 5:6 d/$n; done; stat -c '%n %i %u:%g' d/*; ls -U d;"
        " mv d/a d/z; cp -a d e; stat -c %u:%g d/z e/z; tar -cf - d | tar -tv --numeric-owner | cut -d' ' -f2"
    )
    session = ["run", "--engine", "tracer", "--policy", "strict", "--epoch", "1300000000", "--audit", "record.json"]
    command = [sys.executable, "-c", ENTRANCE, str(LIBRARY), *session, "--", "sh", "-c", script]
    try:
        done = subprocess.run(
            ["pseudo", *command],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    finally:
        subprocess.run(["pseudo", "-S"], env=environment, check=False, timeout=120, capture_output=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    inodes = [(tmp_path / "d" / name).stat().st_ino for name in ("z", "b", "c")]
    shown = [f"d/{name} {inode} 5:6" for name, inode in zip("abc", inodes, strict=True)]
    assert lines[:3] == shown
    assert lines[3:8] == ["a", "b", "c", "5:6", "5:6"]
    assert lines[9:] == ["5/6"] * 3
