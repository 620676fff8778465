"""Which files say when a source was made: real trees, real archives, odd names."""

from __future__ import annotations

import os
import subprocess
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detbuild.epoch import Epoch, Sources, resolve
from detbuild.errors import EpochError

OLD, MIDDLE, NEW = 1_400_000_000, 1_500_000_000, 1_600_000_000
NOW = 1_700_000_000.0
NOBODY = 65534


def dated(path: Path, date: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.name)
    os.utime(path, (date, date))
    return path


def known(top: Path, **fields: object) -> Epoch:
    return resolve(Sources(str(top), **fields), ("known", "fallback"), NOW)  # type: ignore[arg-type]


def youngest(top: Path, **fields: object) -> Epoch:
    return resolve(Sources(str(top), **fields), ("youngest", "fallback"), NOW)  # type: ignore[arg-type]


class TestKnown:
    @pytest.mark.parametrize(
        "name",
        ["NEWS", "News", "NEWS.md", "ChangeLog", "Changelog", "CHANGELOG.rst", "changelog.txt", "CHANGES", "Changes"]
        + ["CHANGES.md", "Change-Log", "CHANGE_LOG", "ChangeLog.adoc"],
    )
    def test_the_usual_spellings_count(self, tmp_path: Path, name: str) -> None:
        dated(tmp_path / name, OLD)
        assert known(tmp_path) == Epoch(OLD, "known", str(tmp_path / name))

    @pytest.mark.parametrize("name", ["NEWS.old", "news.c", "newsletter", "ChangeLog-2009", "changes.py", "README"])
    def test_other_names_do_not(self, tmp_path: Path, name: str) -> None:
        dated(tmp_path / name, OLD)
        assert known(tmp_path).origin == "fallback"

    def test_the_newest_counts(self, tmp_path: Path) -> None:
        for name, date in (("CHANGES", OLD), ("NEWS", NEW), ("ChangeLog", MIDDLE)):
            dated(tmp_path / name, date)
        assert known(tmp_path).evidence == str(tmp_path / "NEWS")

    def test_a_directory_is_not_taken(self, tmp_path: Path) -> None:
        (tmp_path / "NEWS").mkdir()
        dated(tmp_path / "CHANGES", OLD)
        assert known(tmp_path).value == OLD

    def test_a_dangling_link_is_not_taken(self, tmp_path: Path) -> None:
        (tmp_path / "NEWS").symlink_to("nowhere")
        assert known(tmp_path) == Epoch(1302044400, "fallback", "SOURCE_DATE_EPOCH_FALLBACK")

    def test_a_link_counts_with_the_time_of_its_file_within_the_source(self, tmp_path: Path) -> None:
        dated(tmp_path / "doc/news.txt", OLD)
        (tmp_path / "NEWS").symlink_to("doc/news.txt")
        assert known(tmp_path) == Epoch(OLD, "known", str(tmp_path / "NEWS"))

    def test_a_link_out_of_the_source_is_not_taken(self, tmp_path: Path) -> None:
        dated(tmp_path / "host/NEWS", NEW)
        (tmp_path / "s").mkdir()
        (tmp_path / "s/NEWS").symlink_to(tmp_path / "host/NEWS")
        assert known(tmp_path / "s").origin == "fallback"

    def test_only_the_top_counts(self, tmp_path: Path) -> None:
        dated(tmp_path / "vendor/NEWS", NEW)
        assert known(tmp_path).origin == "fallback"

    @pytest.mark.parametrize(("date", "why"), [(NOW + 60, "in the future"), (1, "before 1980"), (-5, "before 1980")])
    def test_a_time_nobody_believes_is_left_out_and_named(self, tmp_path: Path, date: float, why: str) -> None:
        odd = dated(tmp_path / "NEWS", date)
        dated(tmp_path / "CHANGES", OLD)
        found = known(tmp_path)
        assert found.value == OLD
        assert found.warnings == (f"left out, because dated {why}: {odd}",)

    def test_what_bitbake_copied_is_not_taken(self, tmp_path: Path) -> None:
        copied = dated(tmp_path / "NEWS", NEW)
        dated(tmp_path / "CHANGES", OLD)
        assert known(tmp_path, written=frozenset({str(copied)})).value == OLD


class TestYoungest:
    def test_the_youngest_of_a_tarball_counts(self, tmp_path: Path) -> None:
        for name, date in (("p/a", OLD), ("p/deep/er/b", NEW), ("p/c", MIDDLE), ("p/deep/.hidden", NEW - 1)):
            dated(tmp_path / "made" / name, date)
        with tarfile.open(tmp_path / "p.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / "made/p", "p")
        (tmp_path / "s").mkdir()
        subprocess.run(["tar", "-xzf", tmp_path / "p.tar.gz", "-C", tmp_path / "s"], check=True)
        assert youngest(tmp_path / "s/p") == Epoch(NEW, "youngest", f"{tmp_path}/s/p/deep/er/b")

    def test_the_youngest_of_a_zip_counts(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo("p/a", (2015, 1, 2, 3, 4, 6)), "a")
            archive.writestr(zipfile.ZipInfo("p/b", (2014, 1, 2, 3, 4, 6)), "b")
        subprocess.run(["unzip", "-q", "p.zip"], cwd=tmp_path, env={**os.environ, "TZ": "UTC"}, check=True)
        assert youngest(tmp_path / "p").value == 1420167846

    def test_times_are_cut_to_whole_seconds(self, tmp_path: Path) -> None:
        path = dated(tmp_path / "a", OLD)
        os.utime(path, ns=(0, OLD * 10**9 + 999_999_999))
        assert youngest(tmp_path).value == OLD

    def test_of_equally_young_files_the_first_by_name_is_the_evidence(self, tmp_path: Path) -> None:
        for name in ("z", "a/y", "b", "a/x"):
            dated(tmp_path / name, OLD)
        assert youngest(tmp_path).evidence == f"{tmp_path}/a/x"

    def test_only_regular_files_count_and_no_link_is_followed(self, tmp_path: Path) -> None:
        dated(tmp_path / "s/a", OLD)
        dated(tmp_path / "out/b", NEW)
        (tmp_path / "s/file").symlink_to(tmp_path / "out/b")
        (tmp_path / "s/directory").symlink_to(tmp_path / "out")
        (tmp_path / "s/loop").symlink_to(".")
        os.mkfifo(tmp_path / "s/fifo")
        assert youngest(tmp_path / "s").evidence == f"{tmp_path}/s/a"

    def test_a_source_behind_a_link_is_searched(self, tmp_path: Path) -> None:
        dated(tmp_path / "shared/a", OLD)
        (tmp_path / "s").symlink_to("shared")
        assert youngest(tmp_path / "s") == Epoch(OLD, "youngest", f"{tmp_path}/s/a")

    @pytest.mark.parametrize(
        "name",
        [
            ".pc/applied",
            "patches/fix.patch",
            "temp/log",
            "singletask.lock",
            "__source_date_epoch.txt",
            "oe-local-files/x",
        ]
        + [".git/index", "deep/.git", "deep/.svn/entries", ".hg/store/x"],
    )
    def test_what_the_build_itself_keeps_there_does_not_count(self, tmp_path: Path, name: str) -> None:
        dated(tmp_path / "a", OLD)
        dated(tmp_path / name, NEW)
        assert youngest(tmp_path).value == OLD

    @pytest.mark.parametrize("name", ["deep/patches/x", "deep/temp/x", "deep/singletask.lock", "patches.c"])
    def test_upstreams_files_of_such_names_further_down_count(self, tmp_path: Path, name: str) -> None:
        dated(tmp_path / name, NEW)
        assert youngest(tmp_path).value == NEW

    def test_what_bitbake_wrote_does_not_count(self, tmp_path: Path) -> None:
        dated(tmp_path / "u/p/a", OLD)
        written = [dated(tmp_path / "u" / name, NEW) for name in ("defconfig", "p/copied", "cargo_home/bitbake/x/y")]
        names = frozenset({str(written[0]), str(written[1]), f"{tmp_path}/u/cargo_home/bitbake/"})
        found = youngest(tmp_path / "u/p", unpackdir=f"{tmp_path}/u", written=names)
        assert found.evidence == f"{tmp_path}/u/p/a"

    def test_what_bitbake_wrote_is_known_behind_a_linked_build_directory(self, tmp_path: Path) -> None:
        dated(tmp_path / "real/u/p/a", OLD)
        dated(tmp_path / "real/u/copied", NEW)
        (tmp_path / "tmp").symlink_to("real")
        found = youngest(
            tmp_path / "real/u/p", unpackdir=f"{tmp_path}/tmp/u", written=frozenset({f"{tmp_path}/tmp/u/copied"})
        )
        assert found.value == OLD

    def test_a_source_that_is_all_written_gives_nothing(self, tmp_path: Path) -> None:
        dated(tmp_path / "git/sub/a", NEW)
        assert youngest(tmp_path / "git/sub", written=frozenset({f"{tmp_path}/git"})).origin == "fallback"

    def test_every_archive_of_the_recipe_counts(self, tmp_path: Path) -> None:
        dated(tmp_path / "u/p/a", OLD)
        dated(tmp_path / "u/second/b", NEW)
        assert youngest(tmp_path / "u/p", unpackdir=f"{tmp_path}/u").evidence == f"{tmp_path}/u/second/b"

    def test_what_the_unpack_made_is_left_out_without_a_word(self, tmp_path: Path) -> None:
        dated(tmp_path / "a", OLD)
        dated(tmp_path / "decompressed", NEW)
        assert youngest(tmp_path, since=float(NEW)) == Epoch(OLD, "youngest", f"{tmp_path}/a")

    @pytest.mark.parametrize(("date", "why"), [(NOW + 60, "in the future"), (0, "before 1980"), (315532799, "1980")])
    def test_a_time_nobody_believes_is_left_out_and_named(self, tmp_path: Path, date: float, why: str) -> None:
        odd = dated(tmp_path / "odd", date)
        dated(tmp_path / "a", OLD)
        found = youngest(tmp_path)
        assert found.value == OLD
        assert len(found.warnings) == 1
        assert why in found.warnings[0]
        assert str(odd) in found.warnings[0]

    def test_the_first_moment_of_1980_is_believed(self, tmp_path: Path) -> None:
        dated(tmp_path / "a", 315532800)
        assert youngest(tmp_path).value == 315532800

    def test_a_warning_names_three_and_counts_the_rest(self, tmp_path: Path) -> None:
        for number in range(17):
            dated(tmp_path / f"f{number:02}", 1)
        (warning,) = youngest(tmp_path).warnings
        assert warning.endswith("and 14 more")
        assert f"{tmp_path}/f00, {tmp_path}/f01, {tmp_path}/f02 and" in warning

    @given(
        st.binary(min_size=1, max_size=60).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
    )
    @settings(max_examples=60)
    def test_any_name_is_survived_and_printed(self, tmp_path_factory: pytest.TempPathFactory, name: bytes) -> None:
        top = tmp_path_factory.mktemp("n")
        path = os.path.join(os.fsencode(top), b"x" + name)
        with open(path, "wb"):
            pass
        os.utime(path, (OLD, OLD))
        found = youngest(top)
        assert found.value == OLD
        assert found.evidence.isprintable()
        assert found.evidence.encode("utf-8")

    @given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, int(NOW) + 10**6), max_size=6))
    @settings(max_examples=60)
    def test_it_is_the_greatest_believable_time(
        self, tmp_path_factory: pytest.TempPathFactory, times: dict[str, int]
    ) -> None:
        top = tmp_path_factory.mktemp("t")
        for name, date in times.items():
            dated(top / name, date)
        believable = [date for date in times.values() if 315532800 <= date <= NOW]
        try:
            value = resolve(Sources(str(top)), ("youngest",), NOW).value
        except EpochError:
            assert not believable
        else:
            assert value == max(believable)

    def test_a_directory_that_nobody_may_read_is_survived_and_named(self, tmp_path: Path) -> None:
        dated(tmp_path / "a", OLD)
        dated(tmp_path / "locked/b", NEW)
        dated(tmp_path / "listed/c", NEW)
        (tmp_path / "locked").chmod(0)
        (tmp_path / "listed").chmod(0o444)
        found = _as_nobody(tmp_path)
        assert found[0] == str(OLD)
        assert set(found[1:]) == {f"left out, because not readable: {tmp_path}/{name}" for name in ("listed", "locked")}

    def test_files_that_vanish_during_the_walk_are_survived(self, tmp_path: Path) -> None:
        dated(tmp_path / "stays", OLD)
        done = threading.Event()

        def churn() -> None:
            while not done.is_set():
                for number in range(20):
                    dated(tmp_path / f"d{number}/f", OLD - 1)
                for number in range(20):
                    (tmp_path / f"d{number}/f").unlink()
                    (tmp_path / f"d{number}").rmdir()

        churner = threading.Thread(target=churn)
        churner.start()
        try:
            for _ in range(200):
                found = resolve(Sources(str(tmp_path)), ("youngest",), 2.0**34)
                assert found.value >= OLD
        finally:
            done.set()
            churner.join()

    def test_a_file_that_is_gone_when_it_is_looked_at_is_passed_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dated(tmp_path / "a", OLD)
        gone = dated(tmp_path / "d/gone", NEW)
        scandir = os.scandir

        def vanish(path: str) -> object:
            entries = scandir(path)
            if path.endswith("/d"):
                gone.unlink()
            return entries

        monkeypatch.setattr(os, "scandir", vanish)
        assert youngest(tmp_path) == Epoch(OLD, "youngest", f"{tmp_path}/a")


def _as_nobody(top: Path) -> list[str]:
    """The youngest file's time and the warnings, as a user whom file modes bind."""
    for parent in [top, *top.parents]:
        if parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    top.chmod(0o755)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            found = youngest(top)
            os.write(writer, "\n".join([str(found.value), *found.warnings]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    return answer.split("\n")
