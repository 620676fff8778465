"""The rules that engines ask for, and the command that prints them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from detbuild import policy
from detbuild.audit import COUNTER
from detbuild.engine.answers import ANSWERS
from detbuild.errors import PolicyError
from detbuild.policy import Treatment

ROOT = Path(__file__).resolve().parent.parent


def detbuild(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "detbuild", "policy", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_engine_gets_the_rules_that_it_acts_on_and_no_other() -> None:
    rules = policy.rules("time")
    assert rules == tuple(rule for rule in policy.table("time") if rule.treatment is not Treatment.PASSED)
    assert 40 < len(rules) < 100


def test_a_rule_on_a_wall_clock_names_the_clocks() -> None:
    rules = {rule.call: rule for rule in policy.rules("time")}
    assert rules["clock_gettime"].clocks == policy.WALL_CLOCKS
    assert rules["clock_nanosleep"].clocks == ()
    assert all(bool(rule.clocks) == (rule.when == "wall clock") for rule in rules.values())


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PolicyError, match=r"no policy 'tiem'.*known policies are: time, strict, observe"):
        policy.rules("tiem")


def test_the_page_of_the_documents_is_what_the_command_prints() -> None:
    assert (ROOT / "docs" / "rules.md").read_text() == detbuild("--markdown").stdout


@pytest.mark.parametrize(
    ("what", "tracer", "ebpf"),
    [(COUNTER, "reported", "nobody"), ("rdrand", "nobody", "nobody"), ("cpuid", "nobody", "nobody")],
)
def test_the_page_says_which_engine_sees_an_instruction(what: str, tracer: str, ebpf: str) -> None:
    (line,) = [line for line in (ROOT / "docs" / "rules.md").read_text().splitlines() if line.startswith(f"| {what}")]
    cells = line.split(" | ")
    assert (tracer in cells[1], ebpf in cells[2]) == (True, True)


def test_every_call_and_every_row_stands_in_the_json() -> None:
    data = json.loads(detbuild("--json").stdout)
    assert (data["format"], data["version"], data["rules"]) == ("detbuild-policy", 1, policy.VERSION)
    assert [row["call"] for row in data["calls"]] == [rule.call for rule in policy.table("time")]
    assert data["programs"][-1]["names"] == ["*"]


def test_a_pipe_gets_one_line_a_row() -> None:
    lines = detbuild().stdout.splitlines()
    assert lines[0] == f"policy time, version {policy.VERSION}"
    assert len([line for line in lines if line.startswith("fixed\ttime\t")]) == 1
    assert not any("\x1b" in line or "│" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "clock", "reads"),
    [
        (("tar", "--", "-czf", "x.tar.gz", "dir"), "fixed", "shown"),
        (("tar", "--", "-xzf", "x.tar.gz"), "real", "true"),
        (("/usr/bin/perl", "--", "-w", "/usr/bin/automake", "--add-missing"), "real", "true"),
    ],
)
def test_a_command_line_is_told_its_row(arguments: tuple[str, ...], clock: str, reads: str) -> None:
    lines = detbuild("--program", *arguments).stdout.splitlines()
    assert f"clock:   {clock}" in lines
    assert f"reads:   {reads}" in lines
    assert lines[-1].startswith("because: ")


def test_the_users_rows_come_first(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("- names: tar\n  clock: real\n  reason: because I say so\n")
    lines = detbuild("--rules", str(rules), "--program", "tar", "--", "-c").stdout.splitlines()
    assert lines[-1] == "because: because I say so"


def test_a_rule_file_that_is_wrong_is_trouble(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("- names: tar\n  cloc: real\n")
    result = detbuild("--rules", str(rules))
    assert result.returncode == 2
    assert "has no key 'cloc'" in result.stderr
    assert "clock" in result.stderr


@pytest.mark.parametrize("rule", policy.rules("time"), ids=lambda rule: rule.call)
def test_every_clock_that_is_fixed_has_an_answer(rule: policy.Rule) -> None:
    if rule.kind == "clock":
        assert rule.call in ANSWERS
