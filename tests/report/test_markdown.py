from __future__ import annotations

import stat
from pathlib import Path

from detbuild.compare.cause import gather
from detbuild.compare.change import Change, Facts
from detbuild.compare.model import Comparison, Entry, Finding, Kind, Trouble
from detbuild.compare.roots import gathered
from detbuild.report import markdown

FILE = Entry("f", stat.S_IFREG | 0o644, 1, (1, 1))


def result(count: int = 1, name: str = "x.deb", value: str = "2026-11-21") -> Comparison:
    found = Comparison(Path("a"), Path("b"), same=3, total=3 + count)
    for number in range(count):
        causes = gather([Change(("data.tar",), "text", value, "2026-11-22")], Facts())
        found.findings.append(
            Finding(f"{number}{name}", Kind.DIFFERENT, FILE, FILE, recipe=f"r{number}", causes=causes)
        )
    found.roots = gathered(found.findings)
    return found


def test_it_says_the_counts_the_roots_and_every_finding() -> None:
    text = markdown.render(result(2))
    assert "Same: **3** · Different: **2** · Missing: **0** · Total: **5**" in text
    assert "| r0 | timestamp | 1 | 0 |" in text
    assert text.count("<details>") == text.count("</details>") == 1
    assert "different  1x.deb" in text


def test_it_fits_a_comment_however_much_there_is_and_says_what_it_left_out() -> None:
    text = markdown.render(result(3000, "a-package-with-a-rather-long-name_1.0-r0_all.deb"))
    assert len(text) <= markdown.LIMIT
    assert "more" in text[-200:]


def test_names_cannot_become_markup() -> None:
    text = markdown.render(result(1, "`</details>|<script>.deb", "a`|b\n# c"))
    table = [line for line in text.splitlines() if line.startswith("| r0")]
    assert table[0].count("|") == 6
    (item,) = [line for line in text.splitlines() if line.startswith("- ")]
    assert item.startswith("- `` ")
    assert item.endswith(" ``")


def test_troubles_and_stale_expectations_are_in_it() -> None:
    found = result()
    found.troubles.append(Trouble("a/f", "cannot be read"))
    found.stale.append("x was expected and did not occur")
    text = markdown.render(found)
    assert "> **trouble:** a/f: cannot be read" in text
    assert "> **stale:** x was expected" in text


def test_all_the_same_is_said_in_a_line() -> None:
    assert markdown.render(result(0)).startswith("### detbuild-compare: all the same\n")
