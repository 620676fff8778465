from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from making import as_nobody, make_deb, readable_by_all

from detbuild.compare import Comparing, Options
from detbuild.compare.limits import Limits
from detbuild.compare.model import Comparison, Ending, Kind


def write(tree: Path, files: dict[str, str]) -> Path:
    tree.mkdir(exist_ok=True)
    for name, contents in files.items():
        (tree / name).write_text(contents)
    return tree


def compare(a: Path, b: Path, options: Options | None = None) -> Comparison:
    with Comparing(a, b, options or Options()) as comparing:
        streamed = list(comparing.run())
    assert sorted(streamed, key=lambda finding: finding.artefact) == comparing.result.findings
    return comparing.result


def found(result: Comparison) -> dict[str, Kind]:
    return {finding.artefact: finding.kind for finding in result.findings}


def test_every_path_of_the_union_is_counted_once(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"same": "1", "changed": "1", "left": "1"})
    b = write(tmp_path / "b", {"same": "1", "changed": "2", "right": "1"})
    result = compare(a, b)
    assert dict(result.counts()) == {"Same": 1, "Different": 1, "Missing": 2, "Total": 4}
    assert found(result) == {"changed": Kind.DIFFERENT, "left": Kind.ONLY_IN_A, "right": Kind.ONLY_IN_B}
    assert (result.unknown, result.status) == (0, 1)


def test_empty_trees_are_the_same(tmp_path: Path) -> None:
    result = compare(write(tmp_path / "a", {}), write(tmp_path / "b", {}))
    assert (result.total, result.status, result.warnings) == (0, 0, [])


def test_a_tree_compared_with_itself_is_the_same_and_warned_about(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"f": "1"})
    result = compare(a, a)
    assert (result.same, result.status) == (1, 0)
    assert len(result.warnings) == 1


def test_a_finding_carries_package_recipe_and_digests(tmp_path: Path) -> None:
    make_deb(tmp_path / "a", "libz1", "zlib", "one\n")
    make_deb(tmp_path / "b", "libz1", "zlib", "two\n")
    make_deb(tmp_path / "b", "extra", "other")
    extra, zlib = compare(tmp_path / "a", tmp_path / "b").findings
    assert (extra.kind, extra.package, extra.recipe) == (Kind.ONLY_IN_B, "extra", "other")
    assert (zlib.kind, zlib.package, zlib.recipe) == (Kind.DIFFERENT, "libz1", "zlib")
    assert zlib.digests is not None
    assert len(set(zlib.digests)) == 2
    assert zlib.difference is None, "no format was asked for, so diffoscope has nothing to write"


def test_a_slow_first_pair_keeps_no_other_finding_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pair is not done before all the others were shown; the result is in order all the same."""
    a = write(tmp_path / "a", dict.fromkeys("abcd", "1"))
    b = write(tmp_path / "b", dict.fromkeys("abcd", "2"))
    program = tmp_path / "fake"
    program.write_text(
        "#!/bin/sh\nfor last; do :; done\n"
        f'case $last in */a) until [ -e {tmp_path}/go ]; do sleep 0.05; done;; esac\necho "$last" > text\nexit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr("detbuild.compare.differ.find_diffoscope", lambda: str(program))
    options = Options(formats=("text",), jobs=2, limits=Limits(seconds=30))
    streamed = []
    with Comparing(a, b, options) as comparing:
        for finding in comparing.run():
            streamed.append(finding.artefact)
            if len(streamed) == 3:
                (tmp_path / "go").touch()
        texts = [finding.difference and finding.difference.read_text() for finding in comparing.result.findings]
    assert (sorted(streamed[:3]), streamed[3]) == (["b", "c", "d"], "a")
    assert texts == ["b/a\n", "b/b\n", "b/c\n", "b/d\n"]


def test_one_pair_over_its_time_costs_the_others_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = write(tmp_path / "a", {"hangs": "1", "works": "1"})
    b = write(tmp_path / "b", {"hangs": "2", "works": "2"})
    program = tmp_path / "fake"
    program.write_text(
        "#!/bin/sh\nfor last; do :; done\ncase $last in */hangs) sleep 300;; esac\necho x > text\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr("detbuild.compare.differ.find_diffoscope", lambda: str(program))
    result = compare(a, b, Options(formats=("text",), jobs=1, limits=Limits(seconds=1)))
    endings = {f.artefact: f.difference.ending for f in result.findings if f.difference}
    assert endings == {"hangs": Ending.OVER_TIME, "works": Ending.COMPLETE}
    assert result.status == 1


def test_a_missing_diffoscope_is_trouble_after_the_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detbuild.compare.differ.find_diffoscope", lambda: None)
    a, b = write(tmp_path / "a", {"f": "1"}), write(tmp_path / "b", {"f": "2"})
    result = compare(a, b, Options(formats=("text",)))
    assert found(result) == {"f": Kind.DIFFERENT}
    assert result.status == 2
    assert "apt-get install diffoscope" in result.troubles[0].message


def test_a_missing_diffoscope_is_no_trouble_where_nothing_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detbuild.compare.differ.find_diffoscope", lambda: None)
    a, b = write(tmp_path / "a", {"f": "1"}), write(tmp_path / "b", {"f": "1", "extra": ""})
    assert compare(a, b, Options(formats=("text",))).status == 1
    assert compare(a, a).status == 0


@pytest.mark.parametrize("contents_of_b", ["2", "of another size"])
def test_an_unreadable_file_is_trouble_and_the_rest_is_done(contents_of_b: str) -> None:
    with readable_by_all() as top:
        for name, contents in (("a", "1"), ("b", contents_of_b)):
            write(top / name, {"closed": contents, "open": contents})
            (top / name).chmod(0o755)
        (top / "b/closed").chmod(0o000)
        with as_nobody():
            result = compare(top / "a", top / "b")
    assert found(result) == {"open": Kind.DIFFERENT}
    assert [trouble.path for trouble in result.troubles] == [str(top / "b/closed")]
    assert (result.unknown, result.status) == (1, 2)


def test_below_an_unreadable_directory_nothing_is_called_missing() -> None:
    with readable_by_all() as top:
        for name in ("a", "b"):
            write(top / name, {"open": "1"})
            write(top / name / "sub", {"f": "1"})
        (top / "a/sub").chmod(0o000)
        with as_nobody():
            result = compare(top / "a", top / "b")
        (top / "a/sub").chmod(0o755)
    assert dict(result.counts()) == {"Same": 1, "Different": 0, "Missing": 0, "Total": 2}
    assert (result.unknown, result.status) == (1, 2)


def test_leaving_early_ends_diffoscope_and_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = write(tmp_path / "a", {"f": "1"}), write(tmp_path / "b", {"f": "2"})
    program = tmp_path / "fake"
    program.write_text(
        f"#!/bin/sh\necho $$ $PWD > {tmp_path}/up.part; mv {tmp_path}/up.part {tmp_path}/up; sleep 300\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr("detbuild.compare.differ.find_diffoscope", lambda: str(program))

    def interrupt(what: str, done: int, of: int, name: str) -> None:
        while not (tmp_path / "up").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    started = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        Comparing(a, b, Options(formats=("text",)), interrupt) as comparing,
    ):
        list(comparing.run())
    pid, work = (tmp_path / "up").read_text().split()
    assert time.monotonic() - started < 60
    assert not Path(work).exists()
    assert not Path(f"/proc/{pid}").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("digest", "diffoscope"))]


def test_progress_ends_with_everything_done(tmp_path: Path) -> None:
    a = write(tmp_path / "a", dict.fromkeys("abc", "1"))
    b = write(tmp_path / "b", {name: "2" if name == "a" else "1" for name in "abc"})
    steps: list[tuple[str, int, int, str]] = []
    with Comparing(a, b, Options(formats=("json",)), lambda *step: steps.append(step)) as comparing:
        list(comparing.run())
    assert ("reading", 3, 3) in [step[:3] for step in steps]
    assert {step[3] for step in steps if step[0] == "reading"} == {"a", "b", "c"}
    assert steps[-1] == ("taking apart", 1, 1, "a")


def test_a_thousand_files_are_read_side_by_side(tmp_path: Path) -> None:
    contents = {f"{number:04d}": os.urandom(8).hex() for number in range(1000)}
    a, b = write(tmp_path / "a", contents), write(tmp_path / "b", contents | {"0500": "0" * 16})
    result = compare(a, b, Options(jobs=8))
    assert (result.same, [finding.artefact for finding in result.findings]) == (999, ["0500"])


def test_a_finding_names_its_cause_with_both_values(tmp_path: Path) -> None:
    make_deb(tmp_path / "a", "hello", "hello", "built 2026-11-21 10:11:12\n")
    make_deb(tmp_path / "b", "hello", "hello", "built 2026-11-22 20:31:42\n")
    (finding,) = compare(tmp_path / "a", tmp_path / "b").findings
    assert finding.cause == "timestamp"
    change = finding.causes[0].evidence[0].change
    assert (change.a, change.b) == ("2026-11-21 10:11:12", "2026-11-22 20:31:42")
    assert change.where == ("data.tar.gz", "./usr/share/hello")
