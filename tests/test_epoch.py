"""The order of the sources, the epoch file, and ``detbuild epoch DIR``."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detbuild.cli.main import main
from detbuild.epoch import FALLBACK, ORDER, Epoch, Sources, is_own, read, resolve, write
from detbuild.errors import EpochError
from epoch_repositories import repository

FILE, GIT, NEWS, YOUNGEST = 1_100_000_000, 1_200_000_000, 1_300_000_000, 1_400_000_000
NOW = 1_700_000_000.0


def dated(path: Path, date: float, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or path.name)
    os.utime(path, (date, date))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source in which every origin has something to say."""
    top = tmp_path / "s"
    repository(top, GIT)
    dated(top / "file", YOUNGEST)
    dated(top / "NEWS", NEWS)
    dated(top / "__source-date-epoch.txt", YOUNGEST + 1, f"{FILE}\n")
    return top


@pytest.mark.parametrize(
    ("origin", "value", "evidence"),
    [
        ("file", FILE, "__source-date-epoch.txt"),
        ("git", GIT, ""),
        ("known", NEWS, "NEWS"),
        ("youngest", YOUNGEST, "file"),
        ("fallback", FALLBACK, "SOURCE_DATE_EPOCH_FALLBACK"),
    ],
)
def test_each_origin_can_be_asked_alone(source: Path, origin: str, value: int, evidence: str) -> None:
    found = resolve(Sources(str(source)), (origin,), NOW)
    assert (found.value, found.origin) == (value, origin)
    assert evidence in found.evidence


@pytest.mark.parametrize("index", range(len(ORDER)))
def test_the_first_origin_of_the_order_wins(source: Path, index: int) -> None:
    assert resolve(Sources(str(source)), ORDER[index:], NOW).origin == ORDER[index]
    assert resolve(Sources(str(source)), ORDER[index::-1], NOW).origin == ORDER[index]


def test_an_order_that_gives_nothing_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(EpochError, match=r"None of the sources git, known gave a time.*__source-date-epoch\.txt"):
        resolve(Sources(str(tmp_path)), ("git", "known"), NOW)


@pytest.mark.parametrize("order", [("git", "mtime"), ()])
def test_an_unknown_order_is_an_error_that_names_the_known_ones(tmp_path: Path, order: tuple[str, ...]) -> None:
    with pytest.raises(EpochError, match="file, git, known, youngest, fallback"):
        resolve(Sources(str(tmp_path)), order, NOW)


def test_a_directory_that_does_not_exist_gives_the_fallback(tmp_path: Path) -> None:
    assert resolve(Sources(str(tmp_path / "none"), fallback=7), now=NOW).value == 7


@pytest.mark.parametrize("name", ["__source-date-epoch.txt", "__source_date_epoch.txt"])
def test_both_spellings_of_the_epoch_file_count(tmp_path: Path, name: str) -> None:
    dated(tmp_path / name, NEWS, "123")
    assert resolve(Sources(str(tmp_path)), now=NOW) == Epoch(123, "file", str(tmp_path / name))


def test_a_second_epoch_file_that_disagrees_is_named(tmp_path: Path) -> None:
    first, second = dated(tmp_path / "a/epoch", NEWS, "1"), dated(tmp_path / "s/__source-date-epoch.txt", NEWS, "2")
    found = resolve(Sources(str(tmp_path / "s"), files=(str(first), str(tmp_path / "none"))), now=NOW)
    assert found.value == 1
    assert str(second) in found.warnings[0]


def test_a_second_epoch_file_that_agrees_is_fine(tmp_path: Path) -> None:
    dated(tmp_path / "__source-date-epoch.txt", NEWS, "1")
    dated(tmp_path / "__source_date_epoch.txt", NEWS, " 1\n")
    assert resolve(Sources(str(tmp_path)), now=NOW).warnings == ()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"yesterday\n", "not a number"),
        (b"1.5e9", "not a number"),
        (b"1_500_000_000", "not a number"),
        (b"+1500000000", "not a number"),
        (b"1500000000 # release", "not a number"),
        (b"1500000000\n1600000000\n", "not a number"),
        ("\u0661\u0665".encode(), "not a number"),
        (b"\xff\xfe1", "not a number"),
        (b"0x59682f00", "not a number"),
        (b"-1", "negative"),
        (b"1500000000000", "far future"),
        (b"9" * 5000, "not a number"),
        (b" " * 5000 + b"1500000000", "empty"),
    ],
)
def test_an_epoch_file_that_states_no_time_is_an_error_that_names_it(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "__source-date-epoch.txt"
    path.write_bytes(content)
    with pytest.raises(EpochError) as error:
        resolve(Sources(str(tmp_path)), now=NOW)
    assert str(path) in error.value.refused
    assert complaint in error.value.refused
    assert "seconds since 1970" in error.value.remedy
    assert len(str(error.value)) < 600


def test_an_epoch_file_dated_a_day_ahead_is_still_believed(tmp_path: Path) -> None:
    path = dated(tmp_path / "epoch", NEWS, str(int(NOW) + 86400))
    assert read(str(path), NOW) == int(NOW) + 86400
    with pytest.raises(EpochError, match="far future"):
        read(str(path), NOW - 1)


def as_directory(path: Path) -> None:
    path.mkdir()


def as_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def as_fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [as_directory, as_dangling_link, as_fifo])
def test_an_epoch_file_that_is_no_file_is_an_error_and_not_a_hang(tmp_path: Path, make: object) -> None:
    path = tmp_path / "__source-date-epoch.txt"
    make(path)  # type: ignore[operator]
    with pytest.raises(EpochError, match=str(path)):
        resolve(Sources(str(tmp_path)), now=NOW)


@given(value=st.integers(0, int(NOW)), before=st.text(" \t\r\n", max_size=9), after=st.text(" \t\r\n", max_size=9))
def test_white_space_around_the_number_is_accepted(
    tmp_path_factory: pytest.TempPathFactory, value: int, before: str, after: str
) -> None:
    path = tmp_path_factory.mktemp("e") / "epoch"
    path.write_bytes(f"{before}{value}{after}".encode())
    assert read(str(path), NOW) == value
    shutil.rmtree(path.parent)


@given(content=st.binary(max_size=80))
def test_any_content_gives_a_believable_number_or_an_epoch_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("e") / "epoch"
    path.write_bytes(content)
    if content.strip().isdigit() and int(content) <= NOW + 86400:
        assert read(str(path), NOW) == int(content)
    else:
        with pytest.raises(EpochError) as error:
            read(str(path), NOW)
        assert str(error.value).isprintable()
    shutil.rmtree(path.parent)


def test_what_is_written_is_read_back_and_is_the_same_file_under_any_umask(tmp_path: Path) -> None:
    states = set()
    for umask in (0o000, 0o022, 0o077):
        path = tmp_path / f"{umask}/deep/epoch"
        previous = os.umask(umask)
        try:
            write(str(path), FILE)
        finally:
            os.umask(previous)
        status = path.stat()
        states.add((path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_mtime_ns))
        assert read(str(path)) == FILE
    assert states == {(b"%d\n" % FILE, 0o644, FILE * 10**9)}


def test_a_reader_never_sees_half_a_file_and_a_failure_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "epoch"
    write(str(path), FILE)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(EpochError, match="No space left on device"):
        write(str(path), GIT)
    assert read(str(path)) == FILE
    assert list(tmp_path.iterdir()) == [path]


def test_writing_over_a_link_replaces_the_link(tmp_path: Path) -> None:
    target = dated(tmp_path / "target", NEWS, "7")
    (tmp_path / "epoch").symlink_to(target)
    write(str(tmp_path / "epoch"), FILE)
    assert target.read_text() == "7"
    assert not (tmp_path / "epoch").is_symlink()


def test_only_what_write_made_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "epoch"
    assert not is_own(str(path))
    write(str(path), FILE)
    assert is_own(str(path))
    path.write_text(f"{FILE}\n")
    assert not is_own(str(path))
    path.write_text("rubbish")
    assert not is_own(str(path))


def test_its_own_file_is_known_after_the_build_directory_was_copied(tmp_path: Path) -> None:
    write(str(tmp_path / "epoch"), FILE)
    shutil.copytree(tmp_path, tmp_path.with_name("copied"))
    assert is_own(str(tmp_path.with_name("copied") / "epoch"))


class TestCommand:
    def test_it_prints_the_bare_number(self, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["epoch", str(source)]) == 0
        assert capsys.readouterr() == (f"{FILE}\n", "")

    def test_it_explains_in_a_sentence(self, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["epoch", "--explain", "--sources", "known", str(source)]) == 0
        out = capsys.readouterr().out
        assert str(NEWS) in out
        assert f"{source}/NEWS" in out
        assert out.count("\n") == 1
        assert out.endswith(".\n")

    def test_it_prints_json(self, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["epoch", "--json", "--sources", "youngest,fallback", str(source)]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer == {"epoch": YOUNGEST, "origin": "youngest", "evidence": f"{source}/file"}

    def test_warnings_go_to_standard_error(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        dated(tmp_path / "a", 4_000_000_000)
        assert main(["epoch", "--fallback", "5", str(tmp_path)]) == 0
        out, error = capsys.readouterr()
        assert out == "5\n"
        assert f"{tmp_path}/a" in error

    @pytest.mark.parametrize("options", [["--sources", "mtime"], ["--sources", ""], ["--sources", "git"]])
    def test_no_epoch_is_exit_2_and_nothing_on_standard_output(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
    ) -> None:
        assert main(["epoch", *options, str(tmp_path)]) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith("detbuild: ")

    @pytest.mark.parametrize("fallback", ["-1", "soon", "1500000000000"])
    def test_a_fallback_that_is_no_time_is_exit_2(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], fallback: str
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["epoch", f"--fallback={fallback}", str(tmp_path)])
        assert "seconds since 1970" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["file", "none"])
    def test_what_is_no_directory_is_exit_2(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        (tmp_path / "file").write_text("x")
        assert main(["epoch", str(tmp_path / name)]) == 2
        assert f"{tmp_path}/{name} is not a directory" in capsys.readouterr().err

    def test_a_name_that_is_not_utf8_is_printed_in_any_locale(self, tmp_path: Path) -> None:
        name = os.fsencode(tmp_path) + b"/caf\xe9\n"
        with open(name, "wb"):
            pass
        os.utime(name, (NEWS, NEWS))
        result = subprocess.run(
            [sys.executable, "-m", "detbuild", "epoch", "--explain", tmp_path],
            env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"},
            capture_output=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, b"")
        assert rb"caf\xe9\n." in result.stdout
