from __future__ import annotations

import stat
import xml.etree.ElementTree as ET
from pathlib import Path

from detbuild.compare.cause import gather
from detbuild.compare.change import Change, Facts
from detbuild.compare.model import Comparison, Entry, Finding, Kind, Trouble
from detbuild.report import junit

FILE = Entry("f", stat.S_IFREG | 0o644, 1, (1, 1))


def parsed(result: Comparison) -> ET.Element:
    return ET.fromstring("".join(junit.pieces(result)))


def finding(name: str, **fields: object) -> Finding:
    causes = gather([Change(("x",), "text", "2026-11-21", "2026-11-22")], Facts())
    return Finding(name, Kind.DIFFERENT, FILE, FILE, causes=causes, **fields)  # type: ignore[arg-type]


def test_counts_are_those_of_the_cases() -> None:
    result = Comparison(Path("a"), Path("b"), same=2, total=5)
    result.findings += [finding("x.deb", recipe="r"), finding("y.deb", recipe="r", expected="known")]
    result.troubles.append(Trouble("a/z", "cannot be read"))
    result.stale.append("gone.deb was expected")
    document = parsed(result)
    assert document.attrib == {
        "name": "detbuild-compare",
        "tests": "5",
        "failures": "2",
        "errors": "1",
        "skipped": "1",
    }
    for kind, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert len(list(document.iter(kind))) == int(document.attrib[attribute])
    for suite in document:
        assert len(suite) == int(suite.attrib["tests"])


def test_a_failure_names_its_cause_and_what_to_do() -> None:
    result = Comparison(Path("a"), Path("b"), total=1, findings=[finding("x.deb", recipe="r", package="p")])
    (failure,) = parsed(result).iter("failure")
    assert failure.attrib["type"] == "timestamp"
    assert "SOURCE_DATE_EPOCH" in (failure.text or "")


def test_names_that_xml_cannot_write_are_written_another_way() -> None:
    result = Comparison(Path("a"), Path("b"), total=1, findings=[finding('\x1b[2J<&">\udcff\ufffe\n.deb')])
    (case,) = parsed(result).iter("testcase")
    assert case.attrib["name"].startswith('\\x1b[2J<&">\\xff')


def test_all_the_same_is_one_good_case() -> None:
    document = parsed(Comparison(Path("a"), Path("b"), same=7, total=7))
    assert [case.attrib["name"] for case in document.iter("testcase")] == ["7 artefacts are the same"]
