from __future__ import annotations

import base64
import hashlib
import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import pytest

from detbuild.compare.cause import gather
from detbuild.compare.change import Change, Facts
from detbuild.compare.model import Comparison, Difference, Ending, Entry, Finding, Kind, Trouble
from detbuild.compare.roots import Root
from detbuild.errors import CompareError
from detbuild.report import html


def entry(path: str, size: int = 5000) -> Entry:
    return Entry(path, stat.S_IFREG | 0o644, size, (1, 1))


def comparison(*findings: Finding) -> Comparison:
    return Comparison(Path("/builds/a"), Path("/builds/b"), total=len(findings), findings=list(findings))


def write(result: Comparison, directory: Path) -> str:
    html.prepare(directory)
    return html.write(result, directory).read_text()


def structured(tmp_path: Path, structure: object) -> Difference:
    (tmp_path / "structure").write_text(json.dumps(structure))
    (tmp_path / "page").write_text("<html>side by side</html>")
    return Difference(Ending.COMPLETE, json=tmp_path / "structure", html=tmp_path / "page")


class Links(HTMLParser):
    """Everything that a browser would load or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attributes if name in ("href", "src")]


def links(page: Path) -> Links:
    parser = Links()
    parser.feed(page.read_text())
    return parser


DIFF = "@@ -1 +1 @@\n-<b>one</b>\n+two\n"


def findings(tmp_path: Path) -> list[Finding]:
    inner = {"source1": "data.tar", "source2": "data.tar", "unified_diff": DIFF, "comments": ["a <comment>"]}
    outer = {"source1": "a/x.deb", "source2": "b/x.deb", "unified_diff": None, "details": [inner]}
    different = Finding("x.deb", Kind.DIFFERENT, entry("x.deb"), entry("x.deb", 6000), package="x", recipe="xr")
    different.difference = structured(tmp_path, outer)
    different.causes = gather([Change(("data.tar",), "text", "2026-11-21", "2026-11-22")], Facts())
    return [different, Finding("<script>alert(1)</script>\udcff\n", Kind.ONLY_IN_B, b=entry("y"))]


def test_every_finding_has_a_row_and_a_page_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    write(comparison(*findings(tmp_path)), tmp_path / "report")
    pages = sorted((tmp_path / "report").rglob("*.html"))
    names = ["index.html", "pages/0001-diffoscope.html", "pages/0001.html", "pages/0002.html"]
    assert [str(page.relative_to(tmp_path / "report")) for page in pages] == names
    found = [(page, link.partition("#")[0]) for page in pages for link in links(page).found]
    led_to = {(page.parent / link if link else page).resolve() for page, link in found}
    assert led_to == set(pages)


def test_nothing_is_loaded_from_a_network_and_no_script_runs_but_our_own(tmp_path: Path) -> None:
    write(comparison(*findings(tmp_path)), tmp_path / "report")
    for page in (tmp_path / "report").rglob("*.html"):
        assert "//" not in re.sub(r"</?[a-z0-9]+>", "", page.read_text()).replace("<!DOCTYPE html>", "")
        # The one script is that of the index, and the page's own policy lets no other run.
        scripts = re.findall(r"<script>(.*?)</script>", page.read_text(), re.DOTALL)
        assert len(scripts) == links(page).tags.count("script") == (page.name == "index.html")
        for script in scripts:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"script-src 'sha256-{digest}'" in page.read_text()


def test_names_are_escaped_and_shown_on_one_line(tmp_path: Path) -> None:
    index = write(comparison(*findings(tmp_path)), tmp_path / "report")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\xff\\n" in index
    assert "&lt;script&gt;" in (tmp_path / "report/pages/0002.html").read_text()


def test_the_index_says_whose_each_finding_is_and_how_large(tmp_path: Path) -> None:
    result = comparison(*findings(tmp_path))
    result.same, result.total = 5, 7
    words = " ".join(re.sub(r"<[^>]*>", " ", write(result, tmp_path / "report").partition("<body>")[2]).split())
    assert "2 of 7 artefacts are not the same" in words
    assert "5 Same 1 Different 1 Missing 7 Total" in words
    assert "different x.deb xr timestamp 4.9 KiB → 5.9 KiB" in words
    assert "only in B &lt;script&gt;alert(1)&lt;/script&gt;\\xff\\n 4.9 KiB" in words


def test_a_page_shows_diffoscopes_structure_coloured_and_folded(tmp_path: Path) -> None:
    write(comparison(*findings(tmp_path)), tmp_path / "report")
    page = (tmp_path / "report/pages/0001.html").read_text()
    assert page.count("<details") == 2
    assert '<span class="del">-&lt;b&gt;one&lt;/b&gt;</span><span class="add">+two</span>' in page
    assert "a &lt;comment&gt;" in page


@pytest.mark.parametrize("odd", ["\f", "\v", "\x1c", "\x85", "\u2028", "\r"])
def test_a_line_of_a_diff_ends_where_diffoscope_ended_it(odd: str) -> None:
    assert list(html._lines(f"-one{odd}two\n+three\n")) == [("del", f"-one{odd}two"), ("add", "+three")]
    assert list(html._lines("")) == []


def test_a_page_without_end_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "PAGE_LINES", 3)
    details = [{"source1": str(n), "source2": str(n), "unified_diff": "@@\n-x\n"} for n in range(3)]
    finding = findings(tmp_path)[0]
    finding.difference = structured(tmp_path, {"source1": "a/x", "source2": "b/x", "details": details})
    write(comparison(finding), tmp_path / "report")
    page = (tmp_path / "report/pages/0001.html").read_text()
    assert (page.count('<span class="hunk">'), page.count('<span class="del">')) == (2, 1)
    assert "1 more lines are left out" in page
    assert "2 more lines are left out" in page


def test_troubles_warnings_and_over_runs_are_in_the_report(tmp_path: Path) -> None:
    finding = Finding("f", Kind.DIFFERENT, entry("f"), entry("f"))
    finding.difference = Difference(Ending.OVER_TIME, detail="stopped after 3 s")
    result = comparison(finding)
    result.warnings.append("A is compared with itself")
    result.troubles.append(Trouble("a/<g>", "cannot be read"))
    index = write(result, tmp_path / "report")
    for words in ("A is compared with itself", "a/&lt;g&gt;", "ran over time: stopped after 3 s"):
        assert words in index


def test_no_finding_is_good_news(tmp_path: Path) -> None:
    result = comparison()
    result.same = result.total = 3
    assert "All 3 artefacts are the same" in write(result, tmp_path / "report")


def test_the_same_comparison_gives_the_same_report(tmp_path: Path) -> None:
    assert write(comparison(*findings(tmp_path)), tmp_path / "1") == write(
        comparison(*findings(tmp_path)), tmp_path / "2"
    )


def test_an_earlier_reports_pages_go_and_other_files_stay(tmp_path: Path) -> None:
    report = tmp_path / "report"
    write(comparison(*findings(tmp_path)), report)
    (report / "pages/notes.html").write_text("mine")
    write(comparison(), report)
    assert [page.name for page in (report / "pages").iterdir()] == ["notes.html"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CompareError, match="cannot write the report"):
        html.prepare(tmp_path / "file")


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (1 << 50, "1048576.0 GiB")],
)
def test_sizes_are_for_people(size: int, expected: str) -> None:
    assert html.human_size(size) == expected


@pytest.mark.parametrize(
    ("a", "b", "marked"),
    [
        ("/build-a/x.c", "/build-b/x.c", ("a", "b")),
        ("aa", "aaa", ("", "a")),
        ("one", "two", ("", "")),
        ("same end", "other end", ("same", "other")),
    ],
)
def test_what_differs_between_two_values_is_marked_and_nothing_is_lost(a: str, b: str, marked: tuple[str, str]) -> None:
    shown = html.pieces(Change((), "text", a, b, before="path: "))
    assert [("".join(parts[1:]), parts[0]) for _side, _css, parts in shown] == [(a, "path: "), (b, "path: ")]
    assert tuple(parts[2] for _side, _css, parts in shown) == marked


def test_a_page_names_the_file_in_b_by_its_own_name_and_notes_are_told(tmp_path: Path) -> None:
    renamed = Finding("img-20261121.ext4", Kind.DIFFERENT, entry("a"), entry("b"), other="img-20261122.ext4")
    result = comparison(renamed)
    result.notes.append("1 artefact was matched by names without date or hash")
    assert result.notes[0] in write(result, tmp_path / "report")
    page = (tmp_path / "report/pages/0001.html").read_text()
    assert "/builds/a/img-20261121.ext4" in page
    assert "/builds/b/img-20261122.ext4" in page


def test_roots_beyond_the_first_dozen_are_folded(tmp_path: Path) -> None:
    result = comparison(*(Finding(f"f{n}", Kind.ONLY_IN_A, entry("f"), recipe=f"r{n}") for n in range(20)))
    result.roots = [Root(f"r{n}", "missing", [result.findings[n]]) for n in range(20)]
    text = write(result, tmp_path / "report")
    assert text.index("recipe r11:") < text.index("8 more roots") < text.index("recipe r12:")
