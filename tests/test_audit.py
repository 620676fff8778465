"""A session's record: counts, merges, and goes through JSON unchanged."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detbuild import audit as audits
from detbuild.audit import FIXED, LEAKED, ROWS_WITH_PARENTS, WHOLE_ROWS, Audit, Gap, Read
from detbuild.errors import DetbuildError

READS = st.builds(
    Read,
    st.text(),
    st.sampled_from(["time", "clock_gettime"]),
    st.sampled_from([FIXED, LEAKED]),
    st.text(),
    st.text(),
    st.lists(st.text()).map(tuple),
)
AUDITS = st.builds(
    Audit,
    st.sampled_from(["tracer", "ebpf"]),
    st.integers(0, 1 << 62),
    st.just("time"),
    reads=st.dictionaries(READS, st.integers(1, 1 << 40)).map(Counter),
    gaps=st.dictionaries(st.builds(Gap, st.text(), st.text()), st.integers(1, 99)).map(Counter),
    survivors=st.lists(st.text()).map(sorted),
    merged=st.dictionaries(st.sampled_from(["arguments", "parents"]), st.integers(1, 99)),
)

ONE = Audit("tracer", 7, "time", reads=Counter({Read("/bin/a", "time", FIXED): 2, Read("/bin/b", "time", LEAKED): 3}))


@given(audit=AUDITS)
def test_json_gives_back_the_same_record(audit: Audit) -> None:
    assert Audit.from_json(audit.to_json()) == audit


@given(first=AUDITS, second=AUDITS)
def test_merging_adds_counts(first: Audit, second: Audit) -> None:
    merged = first + second
    assert sum(merged.reads.values()) == sum(first.reads.values()) + sum(second.reads.values())
    assert merged.degraded == (first.degraded or second.degraded)
    assert (merged.engine, merged.epoch) == (first.engine, first.epoch)


def test_an_empty_record_is_neutral() -> None:
    assert Audit() + ONE == ONE
    assert ONE + Audit() == ONE


def test_a_gap_degrades_and_a_leak_does_not() -> None:
    assert not ONE.degraded
    assert list(ONE.leaks.items()) == [(Read("/bin/b", "time", LEAKED), 3)]
    assert (ONE + Audit(gaps=Counter({Gap("lost", "who"): 1}))).degraded


def test_the_epoch_0_survives_a_merge() -> None:
    assert (Audit("tracer", 0) + Audit("tracer", 5)).epoch == 0


def test_json_names_its_format_and_is_sorted() -> None:
    data = json.loads(ONE.to_json())
    assert (data["format"], data["version"], data["degraded"]) == ("detbuild-audit", 2, False)
    assert [row["program"] for row in data["reads"]] == ["/bin/a", "/bin/b"]


def test_json_holds_name_arguments_and_parents() -> None:
    read = Read("/bin/dash", "time", LEAKED, "mkversion.sh", "mkversion.sh -o 'a b'", ("make", "run.do_compile"))
    (row,) = json.loads(Audit(reads={read: 5}).to_json())["reads"]
    assert row == {
        "program": "/bin/dash",
        "source": "time",
        "outcome": "leaked",
        "name": "mkversion.sh",
        "arguments": "mkversion.sh -o 'a b'",
        "parents": ["make", "run.do_compile"],
        "count": 5,
    }


def test_the_same_reads_in_another_order_are_the_same_text() -> None:
    reads = [Read("/bin/gcc", "time", FIXED, "gcc", f"-c {number}.c", ("make",)) for number in range(97)]
    first, second = Audit(), Audit()
    for read in reads:
        first.count(read)
    for read in reversed(reads):
        second.count(read)
    assert first.to_json() == second.to_json()
    assert first.to_text() == second.to_text()


def test_a_record_with_enough_rows_leaves_arguments_out_and_says_so() -> None:
    audit = Audit()
    for number in range(WHOLE_ROWS + 31):
        audit.count(Read("/bin/gcc", "time", FIXED, "gcc", f"-c {number}.c", ("make",)))
    assert len(audit.reads) == WHOLE_ROWS + 1
    assert audit.reads[Read("/bin/gcc", "time", FIXED, "gcc", "", ("make",))] == 31
    assert audit.reads.total() == WHOLE_ROWS + 31
    assert json.loads(audit.to_json())["merged"] == {"arguments": 31, "parents": 0}
    assert "note: the arguments of 31 reads are not on record" in audit.to_text()
    audit.count(Read("/bin/gcc", "time", FIXED, "gcc", "-c 0.c", ("make",)))
    assert audit.merged["arguments"] == 31  # a row that was whole stays so


def test_a_record_with_many_rows_leaves_parents_and_scripts_out_and_says_so() -> None:
    audit = Audit()
    for number in range(ROWS_WITH_PARENTS + 17):
        audit.count(Read("/bin/sh", "time", FIXED, f"conftest{number}", "", (f"configure{number}",)))
    assert len(audit.reads) == ROWS_WITH_PARENTS + 1
    assert audit.reads[Read("/bin/sh", "time", FIXED)] == 17
    assert audit.merged == {"parents": 17}
    assert "note: the parents and scripts of 17 reads are not on record" in audit.to_text()


def test_merging_records_keeps_to_the_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "WHOLE_ROWS", 3)
    first, second = (
        Audit(reads={Read("/bin/gcc", "time", FIXED, "gcc", f"{side}{number}.c"): 7 for number in range(3)})
        for side in "ab"
    )
    merged = first + second
    assert merged.reads == {**first.reads, Read("/bin/gcc", "time", FIXED, "gcc"): 21}
    assert merged.merged == {"arguments": 21}


def test_text_tells_gaps_then_leaks_then_what_was_fixed() -> None:
    audit = ONE + Audit(gaps=Counter({Gap("lost", "who and why"): 1}), survivors=["/bin/daemon"])
    assert audit.to_text().splitlines() == [
        "gap: lost: who and why (1 times)",
        "leaked: /bin/b read time (3 times)",
        "fixed: /bin/a read time (2 times)",
        "still running: /bin/daemon",
    ]
    assert Audit().to_text() == "no read of the outside world\n"


def test_text_names_the_script_and_its_parents_and_adds_up_over_arguments() -> None:
    reads = {
        Read("/bin/dash", "time", FIXED, "mkversion.sh", "mkversion.sh a", ("make", "sh")): 2,
        Read("/bin/dash", "time", FIXED, "mkversion.sh", "mkversion.sh b", ("make", "sh")): 3,
        Read("/usr/bin/date", "time", FIXED, "date", "+%s", ("mkversion.sh",)): 1,
    }
    assert Audit(reads=reads).to_text().splitlines() == [
        "fixed: mkversion.sh (/bin/dash) <- make <- sh read time (5 times)",
        "fixed: /usr/bin/date <- mkversion.sh read time (1 times)",
    ]


def damaged(**changes: Any) -> str:
    return json.dumps({**ONE.to_dict(), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"format": "detbuild-audit", "version": 2}',
        damaged(version=1),
        damaged(version=3),
        damaged(format="other"),
        damaged(reads=[{}]),
        damaged(reads=[1]),
        damaged(reads=[{"program": "a", "source": "b", "outcome": "fixed", "count": "many"}]),
        damaged(gaps=None),
        damaged(epoch="now"),
        damaged(survivors=5),
        damaged(merged=5),
        damaged(merged={"arguments": "many"}),
        damaged(reads=[{**ONE.to_dict()["reads"][0], "parents": "make"}]),
    ],
)
def test_what_is_no_audit_is_refused(text: str) -> None:
    with pytest.raises(DetbuildError, match="audit"):
        Audit.from_json(text)


def test_an_audit_of_the_former_version_is_refused_with_what_to_do() -> None:
    with pytest.raises(DetbuildError, match=r"not an audit of version 2.*version 1.*[Rr]un the task again"):
        Audit.from_json(damaged(version=1))
