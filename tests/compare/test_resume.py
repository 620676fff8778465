from __future__ import annotations

import os
from pathlib import Path

import pytest
from making import make_deb

import detbuild
from detbuild.compare import Comparing, Options
from detbuild.compare.model import Ending, Finding, Inspected
from detbuild.compare.why import Why
from detbuild.errors import CompareError


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    for package in ("one", "two", "three"):
        make_deb(tmp_path / "a", package, package, "built 2026-11-21\n")
        make_deb(tmp_path / "b", package, package, "built 2026-11-22\n")
    return tmp_path / "a", tmp_path / "b"


def run(trees: tuple[Path, Path], journal: Path, stop_after: int = 99) -> list[Finding]:
    found = []
    with Comparing(*trees, Options(journal=journal, deep=False)) as comparing:
        for finding in comparing.run():
            found.append(finding)
            if len(found) == stop_after:
                break
    return found


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The artefacts that were really taken apart."""
    done: list[str] = []
    real = Why.answer

    def answer(self: Why, number: int, finding: Finding) -> None:
        done.append(finding.artefact)
        real(self, number, finding)

    monkeypatch.setattr(Why, "answer", answer)
    return done


def test_an_interrupted_run_keeps_what_it_has_and_goes_on(
    trees: tuple[Path, Path], tmp_path: Path, counted: list[str]
) -> None:
    first = run(trees, tmp_path / "journal", stop_after=1)
    counted.clear()
    second = run(trees, tmp_path / "journal")
    assert [finding.cause for finding in second] == ["timestamp"] * 3
    assert first[0].artefact not in counted
    assert {finding.artefact: finding.causes for finding in second}[first[0].artefact] == first[0].causes


def test_a_pair_that_changed_meanwhile_is_done_again(
    trees: tuple[Path, Path], tmp_path: Path, counted: list[str]
) -> None:
    run(trees, tmp_path / "journal")
    make_deb(trees[1], "two", "two", "another thing\n")
    counted.clear()
    causes = {finding.package: finding.cause for finding in run(trees, tmp_path / "journal")}
    assert causes == {"one": "timestamp", "two": "unknown", "three": "timestamp"}
    assert counted == ["two_1.0-r0_all.deb"]


def test_a_file_that_was_rewritten_in_place_with_as_many_bytes_is_done_again(
    tmp_path: Path, counted: list[str]
) -> None:
    """Sizes alone decide that the pair differs, and the time of change was set back."""
    for side, words in (("a", "one\n"), ("b", "another\n")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "f").write_text(words)
    trees, changed = (tmp_path / "a", tmp_path / "b"), tmp_path / "b/f"
    run(trees, tmp_path / "journal")
    counted.clear()
    run(trees, tmp_path / "journal")
    assert counted == []
    before = changed.stat()
    with changed.open("r+") as stream:
        stream.write("a third")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    (finding,) = run(trees, tmp_path / "journal")
    assert counted == ["f"]
    assert finding.causes[0].evidence[0].change.b == "a third"


def test_what_ran_over_its_time_is_done_again(
    trees: tuple[Path, Path], tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Why.answer

    def answer(self: Why, number: int, finding: Finding) -> None:
        real(self, number, finding)
        finding.inspected = Inspected(Ending.OVER_TIME, 60.0, "stopped after 60 s")

    with monkeypatch.context() as patch:
        patch.setattr(Why, "answer", answer)
        run(trees, tmp_path / "journal")
    counted.clear()
    assert {finding.inspected.ending for finding in run(trees, tmp_path / "journal") if finding.inspected} == {
        Ending.COMPLETE
    }
    assert len(counted) == 3


def test_a_resumed_run_shows_differences_as_the_first_did(trees: tuple[Path, Path], tmp_path: Path) -> None:
    for _ in range(2):
        options = Options(journal=tmp_path / "journal", deep=False, formats=("text",))
        with Comparing(*trees, options) as comparing:
            assert all(finding.difference for finding in comparing.run())


def test_a_line_that_was_cut_is_told_and_done_again(trees: tuple[Path, Path], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    run(trees, journal)
    journal.write_bytes(journal.read_bytes()[:-30])
    with Comparing(*trees, Options(journal=journal, deep=False)) as comparing:
        assert [finding.cause for finding in comparing.run()] == ["timestamp"] * 3
    assert any("cut or damaged" in warning for warning in comparing.result.warnings)
    with Comparing(*trees, Options(journal=journal, deep=False)) as again:
        assert len(list(again.run())) == 3


def test_another_comparisons_journal_is_refused(trees: tuple[Path, Path], tmp_path: Path) -> None:
    run(trees, tmp_path / "journal")
    with pytest.raises(CompareError, match="no journal of this comparison"):
        run((trees[1], trees[0]), tmp_path / "journal")


def test_a_journal_of_another_version_or_of_other_options_is_refused_and_says_which(
    trees: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(trees, tmp_path / "journal")
    with pytest.raises(CompareError, match="Its diffoscope is False, here True"):
        Comparing(*trees, Options(journal=tmp_path / "journal"))
    monkeypatch.setattr(detbuild, "__version__", "99")
    with pytest.raises(CompareError, match=r"Its detbuild is '.*', here '99'"):
        run(trees, tmp_path / "journal")


def test_a_line_whose_key_is_none_is_told_and_done_again(trees: tuple[Path, Path], tmp_path: Path) -> None:
    run(trees, tmp_path / "journal")
    with (tmp_path / "journal").open("a") as stream:
        stream.write('{"key": ["one"]}\n')
    with Comparing(*trees, Options(journal=tmp_path / "journal", deep=False)) as comparing:
        assert len(list(comparing.run())) == 3
    assert [warning for warning in comparing.result.warnings if "cut or damaged" in warning]


def test_a_disk_that_is_full_ends_the_journal_and_not_the_comparison(trees: tuple[Path, Path], tmp_path: Path) -> None:
    options = Options(journal=tmp_path / "journal", deep=False)
    with Path("/dev/full").open("a", encoding="ascii") as full, Comparing(*trees, options) as comparing:
        comparing._journal._stream = full
        assert [finding.cause for finding in comparing.run()] == ["timestamp"] * 3
    (warning,) = [warning for warning in comparing.result.warnings if "journal" in warning]
    assert "No space left on device" in warning
