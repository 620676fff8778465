"""File times later than the epoch are shown as the epoch to whoever may embed them, and never written back to disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from results import ENGINES, EPOCH, KINDS, PYTHON, Nobody, build, build_go, gaps, run, run_as_nobody

pytestmark = pytest.mark.parametrize("engine", ENGINES)

SHOWN = f"{EPOCH}.000000000"
OLD = 1_200_000_000_123_456_789
PRESERVED = "1200000000.123456789"
ON_TIME = EPOCH * 10**9 + 5  # five nanoseconds late
NATIVE_CALLS = {"stat", "lstat", "fstat", "newfstatat"}
I386_CALLS = {"stat", "lstat", "fstat", "stat64", "lstat64", "fstat64", "fstatat64"}
OLD_CALLS = {"oldstat", "oldlstat", "oldfstat"}


@pytest.fixture
def young(tmp_path: Path) -> Path:
    """A file of this moment."""
    path = tmp_path / "young"
    path.write_text("young\n")
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that is older than the epoch; nothing can make its change and birth times so."""
    path = tmp_path / "old"
    path.write_text("old\n")
    os.utime(path, ns=(OLD, OLD))
    return path


def _shown(engine: str, program: Path, path: Path) -> dict[str, list[str]]:
    result = run(engine, program, "show", path)
    assert not result.err
    assert not gaps(result)
    return {call: rest for call, *rest in map(str.split, result.lines)}


def _libc(kind: str) -> set[str]:
    return {"libc-stat", "libc-lstat", "libc-fstat", "libc-fstatat"} | (
        I386_CALLS if kind.endswith("32") else NATIVE_CALLS
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_stat_call_shows_a_young_file_at_the_epoch(engine: str, kind: str, young: Path) -> None:
    rows = _shown(engine, build("file_times", kind), young)
    identity = [str(young.stat().st_ino), "6"]
    assert {call: row for call, row in rows.items() if call not in OLD_CALLS} == {
        **{call: [*identity, SHOWN, SHOWN, SHOWN, "-"] for call in _libc(kind)},
        "statx": [*identity, SHOWN, SHOWN, SHOWN, SHOWN],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_stat_call_shows_an_older_time_as_it_is(engine: str, kind: str, old: Path) -> None:
    rows = _shown(engine, build("file_times", kind), old)
    identity = [str(old.stat().st_ino), "4"]
    assert {call: row for call, row in rows.items() if call not in OLD_CALLS} == {
        **{call: [*identity, PRESERVED, PRESERVED, SHOWN, "-"] for call in _libc(kind)},
        "statx": [*identity, PRESERVED, PRESERVED, SHOWN, SHOWN],
    }


@pytest.mark.parametrize("kind", ["dynamic32", "static32"])
def test_the_first_stat_calls_of_linux_show_the_epoch(engine: str, kind: str) -> None:
    """They know 16 bits of an inode's number, which only a small file system's files fit into."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as young:
        inode = os.fstat(young.fileno()).st_ino
        if inode >= 1 << 16:
            pytest.skip("/dev/shm has run out of small inode numbers")
        rows = _shown(engine, build("file_times", kind), Path(young.name))
    expected = [str(inode), "0", SHOWN, SHOWN, SHOWN, "-"]
    assert {call: rows[call] for call in OLD_CALLS} == dict.fromkeys(OLD_CALLS, expected)


def test_a_32_bit_program_with_64_bit_times_sees_the_epoch(engine: str, young: Path) -> None:
    program = build("file_times", "dynamic32", "-D_FILE_OFFSET_BITS=64", "-D_TIME_BITS=64")
    rows = _shown(engine, program, young)
    assert {tuple(row[2:5]) for call, row in rows.items() if call not in OLD_CALLS} == {(SHOWN,) * 3}


def test_nanoseconds_after_the_epoch_are_late_too(engine: str, young: Path) -> None:
    os.utime(young, ns=(ON_TIME, EPOCH * 10**9 - 1))
    for row in _shown(engine, build("file_times"), young).values():
        assert row[2:4] == [SHOWN, f"{EPOCH - 1}.999999999"]


@pytest.mark.parametrize(("name", "shown"), [("young", SHOWN), ("old", PRESERVED)])
def test_go_perl_python_and_stat_see_the_same(engine: str, name: str, shown: str, young: Path, old: Path) -> None:
    path = {"young": young, "old": old}[name]
    seconds = shown.partition(".")[0]
    assert run(engine, build_go("file_times"), path).lines == [shown] * 3
    assert run(engine, "perl", "-e", "print +(stat shift)[9]", path).out == seconds
    script = "import os, sys; print(os.stat(sys.argv[1]).st_mtime_ns, os.fstat(0).st_mtime_ns)"
    with path.open() as stream:
        out = subprocess.run(
            ["sh", "-c", 'exec "$@" <"$0"', path, PYTHON, "-c", script, path],
            stdin=stream, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    assert out != shown  # outside, the same program sees more than seconds of a young file
    inside = run(engine, "sh", "-c", 'exec "$@" <"$0"', path, PYTHON, "-I", "-c", script, path)
    assert inside.out.split() == [shown.replace(".", "")] * 2
    assert run(engine, "stat", "-c", "%.9Y", path).out.strip() == shown
    assert f" {shown}\n" in run(engine, "ls", "-l", "--time-style=+%s.%N", path).out.replace(f" {path}", "")
    assert run(engine, "date", "-r", path, "+%s.%N").out.strip() == shown
    assert run(engine, "find", path, "-printf", "%T@\\n").out.strip().startswith(seconds)


def test_a_forked_child_and_a_thread_see_the_epoch(engine: str, young: Path) -> None:
    script = (
        "import os, sys, threading\n"
        "def show(): print(os.stat(sys.argv[1]).st_mtime_ns, flush=True)\n"
        "t = threading.Thread(target=show); t.start(); t.join()\n"
        "os.fork() or (show(), os._exit(0)); os.wait()"
    )
    assert run(engine, PYTHON, "-I", "-S", "-c", script, young).lines == [f"{EPOCH}000000000"] * 2


def test_a_program_that_embeds_is_shown_the_epoch_below_one_that_compares(engine: str, young: Path) -> None:
    (young.parent / "Makefile").write_text(
        "all:\n\t@stat -c %Y young | cat\n\t@sh -c 'perl -e \"print +(stat q(young))[9]\"'\n"
    )
    result = run(engine, "make", "-s", cwd=young.parent)
    assert result.out.split() == [str(EPOCH)] * 2


# Who compares --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A directory with ``first`` and ``second``, both young, 20 ms apart."""
    now = time.time_ns()
    for n, name in enumerate(("first", "second")):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, ns=(now + n * 20_000_000 - 10**9,) * 2)
    return tmp_path


# A member of an archive is replaced by a file that is newer, and by no other.
_AGED = "touch -d '2 hours ago' second"
_OLDER = "echo changed >second && touch -d '3 hours ago' second"
_NEWER = "touch -d '1 hour ago' second"
_NEEDS_ZIP = pytest.mark.skipif(
    not (shutil.which("zip") and shutil.which("unzip")), reason="zip or unzip is not installed"
)


@pytest.mark.parametrize(
    "script",
    [
        "[ second -nt first ] && ! [ first -nt second ]",
        "test second -nt first && test first -ot second",
        "env test second -nt first && ! env test first -nt second",
        "bash -c '[[ second -nt first ]] && [ second -nt first ]'",
        '[ "$(ls -t first second | head -1)" = second ]',
        '[ "$(ls -tr first second | head -1)" = first ]',
        'set X `ls -Lt second first 2>/dev/null`; [ "$2" = second ]',
        '[ "$(find . -newer first -name second)" = ./second ] && [ -z "$(find . -newer second -type f)" ]',
        '[ -n "$(find . -name first -mmin -5)" ] && [ -z "$(find . -name first -mmin +5)" ]',
        "cp second copy && cp -u first copy && [ \"$(cat copy)\" = second ]",
        'printf "second: first\\n\\t@echo made\\n" | make -s -f - | grep -q "up to date" || make -q second',
        "cp first copy && chmod 755 copy && touch -d '1 hour ago' copy && install -C first copy && [ copy -ot first ]"
        " && install -C second copy && ! [ copy -ot first ] && cmp second copy",
        f"{_AGED} && ar rcuU it.a second && {_OLDER} && ar ruU it.a second && [ \"$(ar p it.a second)\" = second ]"
        f" && {_NEWER} && ar ruU it.a second && [ \"$(ar p it.a second)\" = changed ]",
        f"{_AGED} && tar uf it.tar second && {_OLDER} && tar uf it.tar second && [ \"$(tar tf it.tar)\" = second ]"
        f' && {_NEWER} && tar uf it.tar second && [ "$(tar xOf it.tar second)" = secondchanged ]',
        pytest.param(
            f"{_AGED} && zip -qu it.zip second && {_OLDER} && {{ zip -qu it.zip second; [ $? = 12 ]; }}"
            f' && {_NEWER} && zip -qu it.zip second && [ "$(unzip -p it.zip second)" = changed ]',
            marks=_NEEDS_ZIP,
        ),
    ],
)  # fmt: skip
def test_programs_that_compare_see_the_true_order(engine: str, script: str, pair: Path) -> None:
    result = run(engine, "sh", "-c", script, cwd=pair)
    assert (result.code, result.err) == (0, "")
    assert not gaps(result)


def test_make_sees_no_clock_skew_and_what_is_up_to_date(engine: str, pair: Path) -> None:
    (pair / "Makefile").write_text("third: second\n\tcat second >third\nsecond: first\n\tcat first >second\n")
    first, second = run(engine, "make", cwd=pair), run(engine, "make", cwd=pair)
    assert first.lines == ["cat second >third"]
    assert "up to date" in second.out
    os.utime(pair / "first")
    third = run(engine, "make", cwd=pair)
    assert third.lines == ["cat first >second", "cat second >third"]
    for result in (first, second, third):
        assert not result.err
        assert "skew" not in result.out
        assert "future" not in result.out
    assert "up to date" in run("", "make", cwd=pair).out


def test_git_says_what_it_says_outside(engine: str, pair: Path) -> None:
    script = (
        "git init -q . && git config user.name n && git config user.email e@x && git config commit.gpgsign false"
        " && git add . && git commit -qm one && git tag v1 -m tag"
    )
    made = run(engine, "sh", "-c", script, cwd=pair)
    assert (made.code, made.err) == (0, "")
    assert run("", "git", "log", "-1", "--format=%at %ct", cwd=pair).out.split() == [str(EPOCH)] * 2
    question = "git status --porcelain; git describe --dirty; git diff --stat"
    for _ in range(2):
        said = run(engine, "sh", "-c", question, cwd=pair).said
        assert said == (0, "v1\n", "")
        assert said == run("", "sh", "-c", question, cwd=pair).said
    (pair / "second").write_text("SECOND")
    said = run(engine, "sh", "-c", question, cwd=pair).said
    assert said[1].startswith(" M second\nv1-dirty\n")
    assert said == run("", "sh", "-c", question, cwd=pair).said


# Who carries times over ----------------------------------------------------------------------------------------------

_NEEDS_RSYNC = pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed")
_PERL_COPY = "my @s = stat 'first'; open F, '>', 'copy'; close F; utime @s[8, 9], 'copy' or die"


@pytest.mark.parametrize(
    "script",
    [
        "cp -p first copy",
        "cp -a first copy",
        "touch -r first copy",
        "install -p -m 644 first copy",
        "cp -a first keep; mv keep copy",
        pytest.param("rsync -a first copy", marks=_NEEDS_RSYNC),
    ],
)  # fmt: skip
def test_programs_that_carry_times_over_keep_the_true_ones(engine: str, script: str, pair: Path) -> None:
    result = run(engine, "sh", "-c", script, cwd=pair)
    assert (result.code, result.err) == (0, "")
    assert (pair / "copy").stat().st_mtime_ns == (pair / "first").stat().st_mtime_ns


def test_a_move_to_another_file_system_keeps_the_true_times(engine: str, pair: Path) -> None:
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == pair.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        before = (pair / "first").stat().st_mtime_ns
        assert run(engine, "mv", "first", f"{other}/moved", cwd=pair).code == 0
        assert Path(other, "moved").stat().st_mtime_ns == before


def test_an_unpacked_archive_has_its_own_times(engine: str, pair: Path) -> None:
    subprocess.run(["tar", "cf", "it.tar", "--format=pax", "first", "second"], cwd=pair, check=True)
    (pair / "there").mkdir()
    result = run(engine, "tar", "xf", "../it.tar", cwd=pair / "there")
    assert result.said == (0, "", "")
    for name in ("first", "second"):
        assert (pair / "there" / name).stat().st_mtime_ns == (pair / name).stat().st_mtime_ns


def test_an_archive_of_the_session_is_unpacked_at_the_epoch(engine: str, pair: Path) -> None:
    """Its members say the epoch, which is what a download of it would bring."""
    result = run(engine, "sh", "-c", "tar cf it.tar first && rm first && tar xf it.tar", cwd=pair)
    assert result.said == (0, "", "")
    assert (pair / "first").stat().st_mtime_ns == EPOCH * 10**9


_COPIES = {
    "python's os.utime": (PYTHON, "-I", "-S", "-c",
        "import os\ns = os.stat('first'); open('copy', 'w'); os.utime('copy', (s.st_atime, s.st_mtime))"),
    "python's os.utime in nanoseconds": (PYTHON, "-I", "-S", "-c",
        "import os\ns = os.stat('first'); open('copy', 'w'); os.utime('copy', ns=(s.st_atime_ns, s.st_mtime_ns))"),
    "python's shutil.copy2": (PYTHON, "-I", "-c", "import shutil; shutil.copy2('first', 'copy')"),
    "python's time.time": (PYTHON, "-I", "-S", "-c",
        "import os, time\nopen('copy', 'w'); os.utime('copy', (time.time(),) * 2)"),
    "perl's utime": ("perl", "-e", _PERL_COPY),
    "perl's utime of now": ("perl", "-e", "open F, '>', 'copy'; close F; utime time, time, 'copy' or die"),
}  # fmt: skip


@pytest.mark.parametrize("how", _COPIES)
def test_a_shown_time_that_is_written_becomes_the_real_now(engine: str, how: str, pair: Path) -> None:
    before = time.time_ns() // 10**9 * 10**9
    result = run(engine, *_COPIES[how], cwd=pair)
    assert (result.code, result.err) == (0, "")
    copy = (pair / "copy").stat()
    assert before <= copy.st_mtime_ns <= time.time_ns()
    assert copy.st_mtime_ns > (pair / "second").stat().st_mtime_ns - 10**9


def test_copies_keep_the_order_in_which_they_were_made(engine: str, pair: Path) -> None:
    script = (
        "import shutil, time\nfor name in ('first', 'second'): shutil.copy2(name, name + '.copy'); time.sleep(0.02)"
    )
    assert run(engine, PYTHON, "-I", "-c", script, cwd=pair).code == 0
    assert (pair / "first.copy").stat().st_mtime_ns < (pair / "second.copy").stat().st_mtime_ns


@pytest.mark.parametrize("script", ["import shutil; shutil.copy2('old', 'copy')",
                                    "import os; open('copy', 'w'); s = os.stat('old'); "
                                    "os.utime('copy', ns=(s.st_atime_ns, s.st_mtime_ns))"])  # fmt: skip
def test_a_time_before_the_epoch_is_carried_over(engine: str, script: str, old: Path) -> None:
    assert run(engine, PYTHON, "-I", "-c", script, cwd=old.parent).code == 0
    assert (old.parent / "copy").stat().st_mtime_ns == OLD


_SETS = {
    kind: ["utime", "utimes", "utimensat", "futimens", "raw-utime", "raw-utimes", "raw-futimesat", "raw-utimensat"]
    + (["raw-utimensat_time64"] if kind.endswith("32") else [])
    for kind in KINDS
}


@pytest.mark.parametrize(("kind", "call"), [(kind, call) for kind, calls in _SETS.items() for call in calls])
def test_every_call_that_sets_times_writes_the_real_now_for_a_shown_one(
    engine: str, kind: str, call: str, young: Path
) -> None:
    program, before = build("file_times", kind), time.time_ns() // 10**9
    script = '"$0" set "$1" shown "$2" 0 && "$0" set "$1" past 1200000000 7 && "$0" set "$1" future 1500000000 7'
    for name in ("shown", "past", "future"):
        (young.parent / name).touch()
    os.utime(young.parent / "shown", (1, 1))
    result = run(engine, "sh", "-c", script, program, call, str(EPOCH), cwd=young.parent)
    assert (result.code, result.err) == (0, "")
    assert not gaps(result)
    shown = (young.parent / "shown").stat()
    assert before <= int(shown.st_mtime) <= time.time()
    assert before <= int(shown.st_atime) <= time.time()
    assert int((young.parent / "past").stat().st_mtime) == 1_200_000_000
    assert int((young.parent / "future").stat().st_mtime) == 1_500_000_000


def test_a_time_that_is_omitted_stays(engine: str, young: Path) -> None:
    os.utime(young, (5, 5))
    assert run(engine, build("file_times"), "set", "omit", young, str(EPOCH), "0").code == 0
    assert young.stat().st_atime == 5
    assert young.stat().st_mtime > EPOCH + 10**8


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_user_is_shown_the_epoch_and_writes_the_real_now(
    engine: str, kind: str, as_nobody: Nobody, public: Path
) -> None:
    program, before = build("file_times", kind), time.time_ns() // 10**9
    young = public / f"young-{engine}-{kind}"
    young.touch()
    os.chown(young, 65534, 65534)
    shown = run_as_nobody(as_nobody, engine, program, "show", young)
    times = {call: rest[2:] for call, *rest in map(str.split, shown.lines) if call not in OLD_CALLS}
    assert times == {**{call: [SHOWN] * 3 + ["-"] for call in _libc(kind)}, "statx": [SHOWN] * 4}
    os.utime(young, (1, 1))
    written = run_as_nobody(as_nobody, engine, program, "set", "utimensat", young, str(EPOCH), "0")
    assert (written.code, written.err) == (0, "")
    assert before <= young.stat().st_mtime <= time.time()
    assert not gaps(shown) + gaps(written)
