"""Random numbers under the rule random: names that do not collide, real keys, and streams by what a program is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from detbuild import Session
from detbuild.audit import Audit
from detbuild.engine.stream import Origin, Stream, getrandom, normalised
from detbuild.linux.x86_64 import NATIVE

MANY = 1009
EPOCH = 1_300_000_000


def run(script: str, here: Path, *, policy: str = "strict", seed: str = "") -> tuple[str, Audit]:
    with Session(EPOCH, policy, "tracer", seed=seed) as session:
        done = session.run(["sh", "-c", script], cwd=here, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, session.audit


@pytest.mark.parametrize(
    "script",
    [
        f"i=0; while [ $i -lt {MANY} ]; do mktemp ./XXXXXX & i=$((i+1)); done; wait",
        f"seq {MANY} | xargs -P 8 -n 1 sh -c 'mktemp ./XXXXXX'",
        f"seq {MANY} | xargs -P 8 -I @ mktemp ./XXXXXX",
    ],
    ids=["of one parent at once", "of many parents", "of xargs"],
)
def test_no_temporary_name_collides_into_failure(script: str, tmp_path: Path) -> None:
    names = run(script, tmp_path)[0].split()
    assert len(set(names)) == len(names) == MANY
    assert sorted(names) == sorted(f"./{path.name}" for path in tmp_path.iterdir())


def test_names_of_one_stream_are_tried_until_one_is_free(tmp_path: Path) -> None:
    """Python's names come of random numbers alone, and each of these has the same command line and the same count."""
    python = f"{sys.executable} -I -S -c 'import tempfile; tempfile.mkstemp(dir=str())'"
    run(f'seq 37 | xargs -P 8 -n 1 sh -c "{python}"', tmp_path)
    assert len(list(tmp_path.iterdir())) == 37


def test_jobs_at_once_make_the_same_names_in_every_run(tmp_path: Path) -> None:
    found = []
    for place in ("one", "another"):
        (tmp_path / place).mkdir()
        script = "i=0; while [ $i -lt 97 ]; do mktemp -u ./XXXXXX & i=$((i+1)); done; wait"
        found.append(sorted(run(script, tmp_path / place)[0].split()))
    assert found[0] == found[1]
    assert len(set(found[0])) == 97


def test_a_name_that_exists_is_passed_over(tmp_path: Path) -> None:
    script = f"{sys.executable} -I -S -c 'import tempfile; print(tempfile.mkstemp(dir=str())[1])'"
    (tmp_path / "other").mkdir()
    first, second, other = (run(script, place)[0] for place in (tmp_path, tmp_path, tmp_path / "other"))
    assert first != second
    assert Path(first).name == Path(other).name


@pytest.mark.parametrize(
    ("program", "script"),
    [
        ("openssl", "openssl rand -hex 16"),
        ("openssl", "openssl genpkey -algorithm ED25519"),
        ("ssh-keygen", "ssh-keygen -q -t ed25519 -N '' -f key && cat key.pub && rm key key.pub"),
        ("gpg", "gpg -q --homedir . --gen-random --armor 1 16"),
    ],
)
def test_keys_are_really_random_and_reported(program: str, script: str, tmp_path: Path) -> None:
    path = shutil.which(program)
    if not path:
        pytest.skip(f"{program} is not installed")
    tmp_path.chmod(0o700)
    first, audit = run(script, tmp_path)
    assert first != run(script, tmp_path)[0]
    program_path = str(Path(path).resolve())
    outcomes = {read.outcome for read in audit.reads if (read.program, read.source) == (program_path, "getrandom")}
    assert outcomes == {"leaked"}


def test_the_users_own_row_makes_a_program_really_random(tmp_path: Path) -> None:
    rows = [{"names": "mktemp", "random": "real", "reason": "makes a key's name"}]
    names = set()
    for rules in (rows, rows, (), ()):
        with Session(EPOCH, "strict", "tracer", rules=rules) as session:
            names.add(session.run(["mktemp", "-u", "XXXXXXXX"], cwd=tmp_path, capture_output=True, text=True).stdout)
    assert len(names) == 3


def test_all_clocks_are_fixed_where_a_row_says_so_and_not_for_what_such_a_program_executes() -> None:
    program = "import time as t; print(t.clock_gettime(t.CLOCK_BOOTTIME), t.monotonic(), t.process_time() < 99)"
    rows = [{"names": "busybox", "clock": "all"}, {"names": "python*", "argument": "^fixed$", "clock": "all"}]
    with Session(EPOCH, "time", "tracer", rules=rows) as session:
        for words in (["fixed"], ["real"]):
            command = ["busybox", "env", sys.executable, "-I", "-S", "-c", program, *words]
            boot, monotonic, cpu = session.run(command, capture_output=True, text=True, check=True).stdout.split()
            assert (int(float(boot)) == EPOCH, int(float(monotonic)) == EPOCH) == (words == ["fixed"],) * 2
            assert cpu == "True"


def test_a_stream_depends_on_epoch_seed_command_line_and_count() -> None:
    root = Origin()
    first, second = root.execution(b"sort\0-R\0"), root.execution(b"sort\0-R\0")
    streams = [
        first.stream(1, "", b"sort\0-R\0"),
        first.stream(2, "", b"sort\0-R\0"),
        first.stream(1, "zlib", b"sort\0-R\0"),
        first.stream(1, "", b"sort\0-Rn\0"),
        second.stream(1, "", b"sort\0-R\0"),
        first.execution(b"sort\0-R\0").stream(1, "", b"sort\0-R\0"),
    ]
    assert len({stream.take(8) for stream in streams}) == len(streams)
    assert first.stream(1, "", b"sort\0-R\0").take(8) == Origin().execution(b"x").stream(1, "", b"sort\0-R\0").take(8)


def test_each_read_and_each_child_of_a_stream_is_another() -> None:
    def outcomes() -> list[bytes]:
        stream = Stream(bytes(8))
        children = [stream.child(), stream.child()]
        return [stream.take(8), stream.take(8), *(child.take(8) for child in children), children[0].child().take(8)]

    assert outcomes() == outcomes()
    assert len(set(outcomes())) == 5


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b"gcc\0-I/home/a/build/include\0/home/a/x.c\0", b"gcc\0-I/include\0/x.c\0"),
        (b"sh\0-c\0cd /one/two && make --prefix=/usr/lib:/opt/x/y\0", b"sh\0-c\0cd /two && make --prefix=/lib:/y\0"),
        (b"cat\0../a/b\0c\0", b"cat\0../b\0c\0"),
        (b"sed\0s/a/b/\0", b"sed\0s/\0"),
        (b"cc1\0a.c\0-o\0/tmp/ccAb12Cd.s\0", b"cc1\0a.c\0-o\0/cc.s\0"),
        (b"lto1\0-fresolution=/t/ccx9YzQ0.res\0@/t/ccabcdef\0", b"lto1\0-fresolution=/cc.res\0@/cc\0"),
        (b"gcc\0/src/ccsource.c\0ccAb12Cd.s\0", b"gcc\0/ccsource.c\0ccAb12Cd.s\0"),
    ],
)
def test_directories_in_a_command_line_count_for_nothing(line: bytes, wanted: bytes) -> None:
    assert normalised(line) == wanted


@pytest.mark.parametrize(("flags", "result"), [(0, 4), (1, 4), (2, 4), (4, 4), (6, -22), (8, -22)])
def test_flags_are_judged_as_the_kernel_does(flags: int, result: int) -> None:
    import ctypes
    import os

    buffer = ctypes.create_string_buffer(4)
    assert getrandom(os.getpid(), NATIVE, [ctypes.addressof(buffer), 4, flags], Stream(bytes(8))) == result
    assert (buffer.raw != bytes(4)) == (result > 0)


def test_a_bad_pointer_is_the_programs_own_efault(tmp_path: Path) -> None:
    snippet = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.getrandom(1, 64, 0), ctypes.get_errno())"
    with Session(EPOCH, "strict", "tracer") as session:
        out = session.run(["python3", "-c", snippet], capture_output=True, text=True).stdout
    assert out == "-1 14\n"
    assert not session.audit.gaps


def test_a_large_read_is_whole(tmp_path: Path) -> None:
    snippet = "import os, hashlib; d = os.getrandom(5_000_011); print(len(d), hashlib.sha256(d).hexdigest())"
    assert len({run(f"python3 -c '{snippet}'", tmp_path)[0] for _ in range(2)}) == 1
    assert run(f"python3 -c '{snippet}'", tmp_path)[0].startswith("5000011 ")


def test_two_real_runs_of_mktemp_differ_outside_a_session(tmp_path: Path) -> None:
    outs = {subprocess.run(["mktemp", "-u"], capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(outs) == 2
