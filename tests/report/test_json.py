from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from detbuild.compare.model import Comparison, Difference, Ending, Entry, Finding, Inspected, Kind, Trouble
from detbuild.errors import CompareError
from detbuild.report import json as report


def comparison(*findings: Finding) -> Comparison:
    return Comparison(Path("a"), Path("b"), same=1, total=1 + len(findings), findings=list(findings))


def written(result: Comparison, path: Path) -> Any:
    report.write(result, path)
    return json.loads(path.read_text(encoding="ascii"))


def test_it_starts_with_its_name_and_version(tmp_path: Path) -> None:
    report.write(comparison(), tmp_path / "out.json")
    lines = (tmp_path / "out.json").read_text().splitlines()
    assert lines[1:3] == ['  "format": "detbuild-compare",', '  "version": 1,']


def test_a_finding_has_every_field_even_where_nothing_is_known(tmp_path: Path) -> None:
    entry = Entry("f", stat.S_IFREG, 12, (1, 2))
    document = written(comparison(Finding("f", Kind.ONLY_IN_A, a=entry)), tmp_path / "out.json")
    assert document["findings"] == [
        {
            "artefact": "f",
            "kind": "only-in-a",
            "package": None,
            "recipe": None,
            "cause": None,
            "causes": [],
            "origins": [],
            "culprits": [],
            "owners": {},
            "expected": None,
            "path_in_b": None,
            "inspected": None,
            "note": None,
            "a": {"size": 12, "sha256": None},
            "b": None,
            "diffoscope": None,
        }
    ]
    assert {key: document[key] for key in ("same", "different", "missing", "total", "unknown")} == {
        "same": 1,
        "different": 0,
        "missing": 1,
        "total": 2,
        "unknown": 0,
    }


def test_a_name_that_is_not_utf8_can_be_had_whole(tmp_path: Path) -> None:
    document = written(comparison(Finding("odd\udcff", Kind.DIFFERENT)), tmp_path / "out.json")
    (finding,) = document["findings"]
    assert finding["artefact"] == "odd\ufffd"
    assert base64.b64decode(finding["artefact_base64"]) == b"odd\xff"
    assert "\\ud" not in (tmp_path / "out.json").read_text()


def test_warnings_and_troubles_are_in_it(tmp_path: Path) -> None:
    result = comparison()
    result.warnings.append("shared")
    result.troubles.append(Trouble("a/odd\udcff", "cannot be read"))
    document = written(result, tmp_path / "out.json")
    assert document["warnings"] == ["shared"]
    assert document["troubles"] == [{"path": "a/odd\ufffd", "message": "cannot be read"}]


def test_a_pair_over_its_limits_says_so(tmp_path: Path) -> None:
    over = Difference(Ending.OVER_MEMORY, 1.23456, "more than 1 MiB wanted")
    document = written(comparison(Finding("f", Kind.DIFFERENT, difference=over)), tmp_path / "out.json")
    expected = {"ending": "over-memory", "detail": "more than 1 MiB wanted", "seconds": 1.235, "structure": None}
    assert document["findings"][0]["diffoscope"] == expected


def test_an_earlier_report_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("x" * 10_000)
    assert written(comparison(), path)["total"] == 1
    assert [item.name for item in tmp_path.iterdir()] == ["out.json"]


def test_a_link_is_written_through_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    assert written(comparison(), tmp_path / "link")["total"] == 1
    assert (tmp_path / "link").is_symlink()


def test_a_place_that_cannot_be_written_is_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CompareError, match="No such file or directory"):
        report.write(comparison(), tmp_path / "no/out.json")


def test_nothing_that_diffoscope_or_an_error_quotes_puts_a_lone_surrogate_into_it(tmp_path: Path) -> None:
    structure = {"source1": "a\ud800", "details": [{"unified_diff": "-\udcff\n+\udfff\n", "comments": ["\udc80"]}]}
    (tmp_path / "structure").write_text(json.dumps(structure))
    finding = Finding("f", Kind.DIFFERENT, inspected=Inspected(Ending.FAILED, 0.0, "odd\udcff"))
    finding.difference = Difference(Ending.COMPLETE, 0.0, "odd\ud800", json=tmp_path / "structure")
    finding.owners = {"odd\udcff": ("odd\udcff", None)}
    document = written(comparison(finding), tmp_path / "out.json")
    assert "\\ud" not in (tmp_path / "out.json").read_text()
    (found,) = document["findings"]
    assert (found["inspected"]["detail"], found["owners"]) == ("odd\ufffd", {"odd\ufffd": ["odd\ufffd", None]})
    assert found["diffoscope"]["detail"] == "odd\ufffd"
    assert found["diffoscope"]["structure"] == {
        "source1": "a\ufffd",
        "details": [{"unified_diff": "-\ufffd\n+\ufffd\n", "comments": ["\ufffd"]}],
    }
