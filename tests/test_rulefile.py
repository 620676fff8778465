"""The user's own rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from detbuild import programs, rulefile
from detbuild.errors import PolicyError
from detbuild.program import Program

ROW = {"names": ["gen*"], "clock": "real", "reads": "true", "writes": "kept", "reason": "r", "argument": "^-t$"}


def test_a_row_travels_as_plain_data() -> None:
    for row in (*programs.BUILTIN, programs.DEFAULT):
        assert Program.from_dict(json.loads(json.dumps(row.to_dict()))) == row


def test_what_is_left_out_is_as_in_the_rule_for_everybody_else() -> None:
    row = Program.from_dict({"names": "gen"})
    default = programs.DEFAULT
    assert (row.names, row.clock, row.reads, row.writes) == (("gen",), default.clock, default.reads, default.writes)


@pytest.mark.parametrize("reads", ["true", '"true"'])
def test_a_yaml_true_is_the_word(tmp_path: Path, reads: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(f"- names: [gen]\n  reads: {reads}\n")
    assert rulefile.load(path)[0].reads == "true"


def test_a_file_holds_a_list_or_a_named_version_of_it(tmp_path: Path) -> None:
    plain, named = tmp_path / "a.json", tmp_path / "b.yml"
    plain.write_text(json.dumps([ROW, {"names": "x"}]))
    named.write_text(json.dumps({"format": "detbuild-rules", "version": 1, "rules": [ROW, {"names": "x"}]}))
    assert rulefile.load(plain) == rulefile.load(named)
    assert [row.names for row in rulefile.load(plain)] == [("gen*",), ("x",)]


def test_the_variable_holds_a_row_a_list_or_paths(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text(json.dumps([ROW]))
    one = (Program.from_dict(ROW),)
    assert rulefile.parse(json.dumps(ROW)) == rulefile.parse(f"  {json.dumps([ROW])} ") == one
    assert rulefile.parse(f" {path}\n {path} ") == one + one
    assert rulefile.parse("") == ()


def test_json_needs_no_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "rules.json").write_text(json.dumps([ROW]))
    (tmp_path / "rules.yaml").write_text("[]")
    assert rulefile.load(tmp_path / "rules.json")
    with pytest.raises(PolicyError, match=r"no PyYAML.*as JSON"):
        rulefile.load(tmp_path / "rules.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"names": "x", "colour": "red"}', r"no key 'colour'.*Known keys: names, clock, reads"),
        ('{"names": "x", "clock": "mine"}', r"clock cannot be 'mine'.*Known values: fixed, real"),
        ('{"names": "x", "writes": true}', r"writes cannot be True.*Known values: now, kept"),
        ('{"names": "x", "argument": "("}', r"no regular expression"),
        ('{"names": [1]}', r"names are names, not \[1\]"),
        ('{"names": "x", "reason": 1}', r"reason is a text"),
        ('{"clock": "real"}', r"names no program"),
        ("[3]", r"mapping of keys to values, not 3"),
        ('{"rules": [], "version": 2}', r"not rules of version 1"),
        ('{"rules": [], "verison": 1}', r"no key 'verison'"),
        ("{names: x}", r"DETBUILD_RULES is not JSON.*double quotes"),
        ("conf/rules.json", r"neither JSON nor an absolute path"),
        ("/nonexistent/rules.json", r"cannot read the rules /nonexistent/rules.json: No such file"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        rulefile.parse(text)


def test_broken_yaml_is_refused_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("- names: [x\n")
    with pytest.raises(PolicyError, match=str(path)):
        rulefile.load(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.yaml", "- names: x\n  names: y\n", "not YAML: the key names stands twice"),
        ("r.yaml", "- names: 2001-99-99\n", "not YAML: a value is not what it looks like"),
        ("r.json", '[{"names": "x", "names": "y"}]', "not JSON: the key names stands twice"),
        ("r.yaml", "[" * 5000, "not YAML"),
        ("r.json", "[" * 100_000, "not JSON"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(PolicyError, match=f"{path} are {message}"):
        rulefile.load(path)


def test_a_signature_is_the_same_however_the_rows_are_written(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text("- reason: r\n  argument: ^-t$\n  names: gen*\n  writes: kept\n  clock: real\n  reads: true\n")
    assert rulefile.to_json(rulefile.load(path)) == rulefile.to_json(rulefile.parse(json.dumps(ROW)))
