from __future__ import annotations

from pathlib import Path

import pytest
from making import make_deb

from detbuild.compare import Comparing, Options
from detbuild.compare.model import Comparison
from detbuild.errors import CompareError

DATED = ("built 2026-11-21 10:11:12\n", "built 2026-11-22 20:31:42\n")


def compare(tmp_path: Path, text: str) -> Comparison:
    for side, words in zip("ab", DATED, strict=True):
        make_deb(tmp_path / side, "hello", "hello", words)
    (tmp_path / "expect.yaml").write_text(text)
    with Comparing(tmp_path / "a", tmp_path / "b", Options(expect=(tmp_path / "expect.yaml",))) as comparing:
        list(comparing.run())
    return comparing.result


def test_an_expected_difference_is_told_and_costs_nothing(tmp_path: Path) -> None:
    result = compare(
        tmp_path, "- artefact: hello_*.deb\n  cause: timestamp\n  recipe: hello\n  reason: known since May\n"
    )
    assert (result.findings[0].expected, result.status) == ("known since May", 0)
    assert dict(result.counts())["Different"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "- {artefact: hello_*.deb, cause: build-path, reason: x}",
        "- {artefact: other.deb, reason: x}",
        "- {artefact: hello_*.deb, recipe: other, reason: x}",
    ],
)
def test_what_is_not_expected_is_found_and_the_expectation_is_stale(tmp_path: Path, text: str) -> None:
    result = compare(tmp_path, text)
    assert (result.findings[0].expected, result.status) == ("", 1)
    assert "did not occur" in result.stale[0]


def test_an_expectation_ends_with_its_day(tmp_path: Path) -> None:
    result = compare(tmp_path, "- {artefact: hello_*.deb, reason: x, expires: 2020-01-31}")
    assert (result.findings[0].expected, result.status) == ("", 1)
    assert "expired on 2020-01-31" in result.stale[0]


def test_an_expectation_that_no_longer_occurs_is_no_success(tmp_path: Path) -> None:
    text = "- {artefact: hello_*.deb, reason: x}\n- {artefact: gone.deb, reason: y}"
    result = compare(tmp_path, text)
    assert result.status == 1
    assert [line.partition(": ")[2] for line in result.stale] == [
        "gone.deb was expected and did not occur: take it out"
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: b", "is no list"),
        ("- x", "no mapping"),
        ("- {artefact: x}", "no reason"),
        ("- {artefact: x, reason: y, colour: red}", "colour"),
        ("- {artefact: x, reason: y, cause: moon}", "no cause 'moon'"),
        ("- {artefact: x, reason: y, expires: soon}", "no date"),
        ("- [", "no YAML"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_the_place(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(CompareError, match=reason):
        compare(tmp_path, text)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("expires: 2027-06-31", "Line 2: day is out of range for month.*such as 2027-06-30"),
        ("cause: [timestamp, random]", r"Its cause is \['timestamp', 'random'\] and no text.*one text each"),
        ("recipe: 1.0", "Its recipe is 1.0 and no text.*in quotes"),
        ("recipe: false", "Its recipe is False and no text"),
        ("expires: !!timestamp soon", "Line 2"),
        ("cause: !moon x", "Line 2: could not determine a constructor"),
    ],
)
def test_a_value_that_is_none_is_refused_with_its_entry(tmp_path: Path, row: str, reason: str) -> None:
    text = "- {artefact: x, reason: y}\n- {artefact: x, reason: y, " + row + "}\n"
    with pytest.raises(CompareError, match=f"expect.yaml: expectation 2 cannot be understood. {reason}"):
        compare(tmp_path, text)


@pytest.mark.parametrize("text", ["", "---\n", "# none yet\n", "null\n"])
def test_a_file_without_expectations_expects_nothing(tmp_path: Path, text: str) -> None:
    assert compare(tmp_path, text).status == 1


def test_a_file_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompareError, match="no YAML"):
        compare(tmp_path, "[" * 100_000)
