"""The share of causes named right first time, over pairs made by real programs."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pairs_archive
import pairs_boot
import pairs_host
import pairs_more
import pairs_order
import pairs_place
import pairs_time
import pytest
from making_pairs import PAIRS, Pair, build

from detbuild.compare import cause
from detbuild.compare.change import ASPECTS, Collected, Facts
from detbuild.compare.inspect import Inspector

MODULES = (pairs_archive, pairs_boot, pairs_host, pairs_more, pairs_order, pairs_place, pairs_time)
TARGET = 0.95
# The causes that the comparison promises to tell.
PROMISED = {
    "timestamp",
    "build-path",
    "path-length",
    "host-name",
    "user",
    "kernel-version",
    "random",
    "file-order",
    "symbol-order",
    "process-id",
    "locale",
    "compression",
    "archive-metadata",
    "build-id",
    "hash-seed",
    "cpu-features",
    "embedded-signature",
    "unknown",
}


def named(one: Pair, top: Path) -> tuple[str, list[cause.Cause]]:
    a, b = build(one, top)
    assert a.read_bytes() != b.read_bytes(), f"{one.name}: both sides are the same, so there is nothing to tell"
    # Where a build stands is told as it is for two trees: by their paths, or not at all.
    facts = Facts.of(str(a), str(b), time.time()) if not one.same_place else Facts("/one", "/two", time.time())
    collected = Collected()
    scratch = top / "scratch"
    scratch.mkdir()
    Inspector(facts, scratch, collected).pair(a, b)
    found = cause.gather(collected.changes, facts)
    return (found[0].name if found else ""), found


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, list[cause.Cause]]]:
    top = tmp_path_factory.mktemp("pairs")
    made = [one for one in PAIRS if not one.missing]

    def work(item: tuple[int, Pair]) -> tuple[str, list[cause.Cause]]:
        place = top / str(item[0])
        place.mkdir()
        return named(item[1], place)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip((one.name for one in made), pool.map(work, enumerate(made)), strict=True))


def test_nearly_every_cause_is_named_right_first_time(
    verdicts: dict[str, tuple[str, list[cause.Cause]]], capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {one.name: one.cause for one in PAIRS}
    wrong = {name: found for name, (found, _all) in verdicts.items() if found != labels[name]}
    share = 1 - len(wrong) / len(verdicts)
    with capsys.disabled():
        print(f"\n{len(verdicts) - len(wrong)} of {len(verdicts)} pairs named right first time: {share:.1%}")
        for name, found in wrong.items():
            print(f"  {name}: {labels[name]}, named {found or 'nothing'}")
    assert len(verdicts) >= 120 or any(one.missing for one in PAIRS)
    assert share >= TARGET


def test_the_true_cause_is_always_among_those_named(verdicts: dict[str, tuple[str, list[cause.Cause]]]) -> None:
    labels = {one.name: one.cause for one in PAIRS}
    absent = [name for name, (_first, found) in verdicts.items() if labels[name] not in {one.name for one in found}]
    assert len(absent) <= (1 - TARGET) * len(verdicts), absent


def test_every_piece_of_evidence_has_its_values_and_its_place(
    verdicts: dict[str, tuple[str, list[cause.Cause]]],
) -> None:
    for name, (_first, found) in verdicts.items():
        for one in found:
            assert one.remedy, name
            assert one.evidence, name
            for proof in one.evidence:
                change = proof.change
                assert change.aspect in ASPECTS
                assert change.a != change.b or change.line_a or change.where, (name, proof)


def test_no_promised_cause_is_without_pairs() -> None:
    counts = Counter(one.cause for one in PAIRS)
    assert {name for name in PROMISED if counts[name] < 3} == set()
    assert len(PAIRS) >= 120


def test_names_of_pairs_are_unique() -> None:
    found = defaultdict(list)
    for one in PAIRS:
        found[one.name].append(one)
    assert [name for name, all_of_it in found.items() if len(all_of_it) > 1] == []


def test_what_cannot_be_made_here_is_named() -> None:
    missing = {one.name: one.missing for one in PAIRS if one.missing}
    if missing:
        pytest.skip(f"not made, for lack of {', '.join(sorted(set(missing.values())))}: {', '.join(sorted(missing))}")
