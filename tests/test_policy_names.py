"""How a policy is written: its name, and single rules added or removed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from detbuild import Session, policy
from detbuild.calls import TIME
from detbuild.engine import ebpf, select
from detbuild.engine.base import Terms
from detbuild.engine.ebpf import EbpfEngine
from detbuild.engine.service import TracerEngine
from detbuild.errors import EngineUnavailable, PolicyError
from detbuild.policy import RULES, Policy, Treatment

# What engines do for the rules that policy strict adds.
ADDED = {rule.kind for name in RULES for rule in policy.added(name)} - {""}
# Of what strict fixes, these show nothing that a build could take up, and observe does not count them.
NO_READS = {
    "sleep",  # a wait's length stays
    "deadline",
    "write times",
    "untraced",
    "layout",  # a flag for programs to come
    "devices",  # the open of the device is counted
    "told",  # nobody was told another number
}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("time", "time"),
        ("  strict ", "strict"),
        ("time +layout", "time +layout"),
        ("strict   -random", "strict -random"),
        ("strict -order -random", "strict -random -order"),
        ("strict -order -random -layout", "time +pid +identity"),
        ("strict -random +random", "strict"),
        ("strict -random -order -layout -pid -identity", "time"),
        ("time +random +order +layout +identity +pid", "strict"),
        ("time +order +layout +pid +identity", "strict -random"),
        ("strict -order -layout -identity -pid", "time +random"),
        ("observe -order", "observe -order"),
        ("observe -order +order", "observe"),
    ],
)
def test_spellings_of_one_policy_are_one(text: str, name: str) -> None:
    assert str(Policy.parse(text)) == name
    assert Policy.parse(name) == Policy.parse(text)
    assert Terms(1, text).policy == name


@pytest.mark.parametrize("text", ["", "tiem", "+random", "random", "STRICT", "time,strict"])
def test_an_unknown_policy_is_an_error_that_lists_the_known_ones(text: str) -> None:
    with pytest.raises(PolicyError, match="time, strict, observe"):
        Policy.parse(text)


@pytest.mark.parametrize("text", ["strict random", "strict -randon", "time +", "time ++order", "strict strict"])
def test_an_unknown_rule_is_an_error_that_lists_the_known_ones(text: str) -> None:
    with pytest.raises(PolicyError, match=", ".join(RULES)):
        Policy.parse(text)


def test_the_policy_time_stops_at_no_more_than_its_own_rows() -> None:
    rows = [(name, group.treatment) for group in TIME for name in group.names]
    assert [(rule.call, rule.treatment) for rule in policy.table("time")] == rows
    assert not {rule.kind for rule in policy.rules("time")} & ADDED


@pytest.mark.parametrize("name", RULES)
def test_a_rule_replaces_its_own_calls_and_no_other(name: str) -> None:
    plain, more = policy.table("time"), policy.table(f"time +{name}")
    assert [rule.call for rule in plain] == [rule.call for rule in more]
    changed = {new for old, new in zip(plain, more, strict=True) if old != new}
    assert changed == set(policy.added(name))
    assert all(rule.treatment is not Treatment.PASSED and len(rule.reason) > 20 for rule in changed)


def test_one_rule_may_report_what_another_one_fixes() -> None:
    treatments = {text: {r.call: r.treatment for r in policy.table(text)} for text in ("strict", "strict -pid")}
    assert treatments["strict"]["getpid"] is Treatment.FIXED
    assert treatments["strict -pid"]["getpid"] is Treatment.REPORTED


def test_under_observe_nothing_is_fixed_but_what_keeps_a_program_in_its_session() -> None:
    fixed = {rule.call for rule in policy.rules("observe") if rule.treatment is Treatment.FIXED}
    assert fixed == {"clone"}


def test_observe_reports_every_read_that_strict_fixes() -> None:
    fixed = [rule for rule in policy.rules("strict") if rule.treatment is Treatment.FIXED]
    observed = {rule.call: rule.kind for rule in policy.rules("observe") if rule.treatment is Treatment.REPORTED}
    assert {rule.kind for rule in fixed} >= ADDED
    reads = {rule.call: rule.kind for rule in fixed if rule.kind not in NO_READS}
    assert reads.items() <= observed.items()
    assert not NO_READS & set(observed.values())
    assert {"open", "openat2", "getpid", "getrandom", "getdents64", "uname", "statx", "time"} <= set(reads)
    asked = {rule.call: rule.when for rule in policy.rules("observe")}
    assert asked["ioctl"] == "window or address"
    assert "ioctl" not in {rule.call for rule in policy.rules("observe -identity")}
    assert "getrandom" not in {rule.call for rule in policy.rules("observe -random")}


def test_the_command_prints_the_table_of_the_policy_that_is_asked_for() -> None:
    command = [sys.executable, "-m", "detbuild", "policy", "--json", "--policy"]
    for text in ("time", "strict  -order", "observe"):
        data = json.loads(subprocess.run([*command, text], capture_output=True, check=True).stdout)
        assert data["policy"] == str(Policy.parse(text))
        assert [row["treatment"] for row in data["calls"]] == [rule.treatment.value for rule in policy.table(text)]
    wrong = subprocess.run([*command, "strickt"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "time, strict, observe" in wrong.stderr


@pytest.mark.parametrize("text", ["time", "strict", "observe", *(f"time +{rule}" for rule in RULES)])
def test_every_engine_holds_every_rule(text: str) -> None:
    for engine in select.ENGINES:
        engine.holds(text)


def test_auto_takes_an_engine_that_holds_all_of_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EbpfEngine, "check", classmethod(lambda cls: None))
    for text in ("time", "strict", "observe"):
        assert select.choose("auto", text) is EbpfEngine


@pytest.fixture
def without_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule whose calls the supervisor does not answer."""
    monkeypatch.setattr(ebpf, "_KINDS", ebpf._KINDS - {"random"})
    monkeypatch.setattr(EbpfEngine, "check", classmethod(lambda cls: None))


@pytest.mark.usefixtures("without_random")
@pytest.mark.parametrize("text", ["strict", "observe", "time +random"])
def test_the_ebpf_engine_refuses_by_name_what_it_does_not_hold(text: str) -> None:
    for refused in (lambda: EbpfEngine.holds(text), lambda: select.choose("ebpf", text)):
        with pytest.raises(EngineUnavailable, match="does not hold random, of the policy"):
            refused()
    EbpfEngine.holds("strict -random")


@pytest.mark.usefixtures("without_random")
def test_auto_takes_the_tracer_for_what_ebpf_does_not_hold() -> None:
    assert select.choose("auto") is EbpfEngine
    assert select.choose("auto", "strict -random") is EbpfEngine
    assert select.choose("auto", "strict") is TracerEngine
    assert Session(1, "strict").engine == "tracer"


def test_a_record_names_the_policy_by_its_one_name() -> None:
    with Session(1, "strict  -layout", engine="tracer") as session:
        session.run(["true"], check=True)
    assert session.audit.policy == "strict -layout"
    assert not session.audit.gaps
