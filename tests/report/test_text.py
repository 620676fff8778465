from __future__ import annotations

import stat
from pathlib import Path

import pytest

from detbuild.compare.cause import gather
from detbuild.compare.change import Change, Facts
from detbuild.compare.model import Comparison, Difference, Ending, Entry, Finding, Kind, Trouble
from detbuild.compare.roots import gathered
from detbuild.report import text

FILE = Entry("f", stat.S_IFREG | 0o644, 1, (1, 1))


@pytest.mark.parametrize(
    ("finding", "expected"),
    [
        (Finding("f", Kind.ONLY_IN_A), "only in A  f"),
        (Finding("x.deb", Kind.ONLY_IN_B, package="p", recipe="r"), "only in B  x.deb  (package p, recipe r)"),
        (Finding("x.deb", Kind.DIFFERENT, package="p"), "different  x.deb  (package p, recipe unknown)"),
        (
            Finding("f", Kind.DIFFERENT, note="one thing in A, another in B"),
            "different  f: one thing in A, another in B",
        ),
        (
            Finding("f", Kind.DIFFERENT, difference=Difference(Ending.OVER_TIME, detail="stopped after 3 s")),
            "different  f: diffoscope ran over time: stopped after 3 s",
        ),
        (Finding("Same: 1\nTotal: 1", Kind.DIFFERENT), "different  Same: 1\\nTotal: 1"),
        (
            Finding("f.deb", Kind.DIFFERENT, package="p\nSame: 1"),
            "different  f.deb  (package p\\nSame: 1, recipe unknown)",
        ),
    ],
)
def test_a_finding_is_one_line_that_says_whose_it_is(finding: Finding, expected: str) -> None:
    assert text.line(finding) == expected


def test_what_a_terminal_would_act_on_is_escaped_in_a_difference(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"-\x1b[2Jgone\r\n+tab\there \xc3\xa9 \xff")
    finding = Finding("f", Kind.DIFFERENT, difference=Difference(Ending.COMPLETE, text=tmp_path / "text"))
    assert text.difference(finding) == "-\\x1b[2Jgone\\r\n+tab\there é \ufffd\n"


def test_troubles_and_warnings_are_told_with_what_they_left_out() -> None:
    result = Comparison(Path("a"), Path("b"), total=3, same=2)
    result.warnings.append("a name with a \n in it")
    result.troubles.append(Trouble("a/f", "cannot be read: Permission denied"))
    assert list(text.complaints(result)) == [
        "warning: a name with a \\n in it",
        "a/f: cannot be read: Permission denied",
        "1 of 3 artefacts could not be compared",
    ]


def printed(result: Comparison) -> str:
    from rich.console import Console

    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(text.tree(result))
    return console.export_text()


def test_names_in_the_tree_are_no_markup() -> None:
    result = Comparison(Path("a"), Path("b"))
    result.findings.append(Finding("[red]x[/red]", Kind.DIFFERENT, FILE, FILE))
    result.roots = gathered(result.findings)
    assert "[red]x[/red]" in printed(result)


def test_what_follows_stands_under_its_origin() -> None:
    cause = gather([Change(("x",), "text", "2026-11-21", "2026-11-22")], Facts())
    origin = Finding("x.deb", Kind.DIFFERENT, FILE, FILE, recipe="xr", causes=cause)
    follower = Finding("image.ext4", Kind.DIFFERENT, FILE, FILE, causes=cause, origins=["x.deb"])
    result = Comparison(Path("a"), Path("b"), findings=[follower, origin])
    result.roots = gathered(result.findings)
    lines = printed(result).splitlines()
    assert lines[0] == "2 findings, 1 root"
    assert "recipe xr: timestamp" in lines[1]
    assert "x '2026-11-21' / '2026-11-22'" in lines[3]
    assert "1 finding following from it" in lines[4]
    assert "image.ext4" in lines[5]
