from __future__ import annotations

import time

import pytest

from detbuild.compare import words
from detbuild.compare.change import Collected


def differing(a: str, b: str) -> list[tuple[str, str]]:
    changes = Collected()
    words.compare((), [a], [b], changes)
    return [(change.a, change.b) for change in changes.changes]


@pytest.mark.parametrize("before", [0, 3_000, 3_999, 4_000, 4_001, 100_000])
@pytest.mark.parametrize("after", [0, 10_000])
def test_a_word_is_told_however_far_in_a_line_it_stands(before: int, after: int) -> None:
    start, end = "x " * (before // 2), " y" * (after // 2)
    found = differing(f"{start}at 10:20:30{end}", f"{start}at 11:20:30{end}")
    assert len(found) == 1
    assert ("10:20:30" in found[0][0], "11:20:30" in found[0][1]) == (True, True)


def test_what_a_long_line_has_more_is_told() -> None:
    line = "word " * 2_000
    assert differing(line, f"{line}more")[0][1].endswith("more")


@pytest.mark.parametrize("part", ["_a", "1.1.1_a", ".1", "~", "~1.1.1", "a-", "/", "%", "1,", "2026-"])
def test_no_line_takes_more_than_a_moment_to_split(part: str) -> None:
    text = "1.2.3" + part * (words.LINE // len(part)) + "/"
    started = time.process_time()
    assert "".join(words.split(text)) == text
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1.2.3_rc1_x/bin", ["1.2.3_rc1_x/bin"]),
        ("1.2.3-foo/bar", ["1.2.3", "-foo/bar"]),
        ("gcc 11.3.0_20220421-r4.1", ["gcc", " ", "11.3.0_20220421-r4.1"]),
    ],
)
def test_a_version_is_one_word(line: str, expected: list[str]) -> None:
    assert words.split(line) == expected
