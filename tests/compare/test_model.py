from __future__ import annotations

from pathlib import Path

import pytest

from detbuild.compare.model import Comparison, Finding, Kind, Trouble, shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain-1.0_é.deb", "plain-1.0_é.deb"),
        ("new\nline", "new\\nline"),
        ("new\\nline", "new\\\\nline"),
        ("odd\udcff", "odd\\xff"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("right\u202eto-left", "right\\u202eto-left"),
    ],
)
def test_a_shown_name_is_one_printable_line(name: str, expected: str) -> None:
    assert shown(name) == expected
    assert shown(name).isprintable()


def test_a_trouble_outranks_a_difference_in_the_status() -> None:
    result = Comparison(Path("a"), Path("b"))
    assert result.status == 0
    result.findings.append(Finding("x", Kind.ONLY_IN_A))
    assert result.status == 1
    result.troubles.append(Trouble("y", "cannot be read"))
    assert result.status == 2


def test_missing_counts_both_sides_and_the_rest_is_unknown() -> None:
    result = Comparison(Path("a"), Path("b"), same=2, total=7)
    result.findings += [Finding("x", Kind.ONLY_IN_A), Finding("y", Kind.ONLY_IN_B), Finding("z", Kind.DIFFERENT)]
    assert dict(result.counts()) == {"Same": 2, "Different": 1, "Missing": 2, "Total": 7}
    assert result.unknown == 2
