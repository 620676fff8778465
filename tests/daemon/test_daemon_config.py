"""The configuration: all has a default, and what cannot be meant is an error that says what can."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detbuild.daemon import config
from detbuild.daemon.config import Config, Limits, Settings
from detbuild.errors import DaemonError

# What YAML takes for a date, a number or another value by its looks or its tag, and is none.
NO_VALUES = ("2001-99-99", "!!int x", "!!int ''", "!!float x", "!!bool x", "!!timestamp x")


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    found = config.load(tmp_path / "none.yaml")
    assert found == Config()
    assert found.socket == "/run/detbuild/detbuildd.sock"
    assert found.group == "detbuild"
    assert found.settings == Settings()


def test_an_empty_file_is_one_of_defaults(tmp_path: Path) -> None:
    path = tmp_path / "detbuildd.yaml"
    path.write_text("# nothing yet\n")
    assert config.load(path) == Config()


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="there is no configuration"):
        config.load(tmp_path / "none.yaml", required=True)


def test_what_is_set_is_set_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "detbuildd.yaml"
    path.write_text("group: builders\nprobes: kprobe\nlimits:\n  sessions: 7\n  processes: 99\n")
    found = config.load(path)
    assert found.group == "builders"
    assert found.limits == Limits(sessions=7, processes=99)
    assert found.settings == Settings(max_processes=99, max_sessions=7, probes="kprobe")


def test_a_group_is_named_by_its_number_too(tmp_path: Path) -> None:
    path = tmp_path / "detbuildd.yaml"
    for text in ("group: 7", "group: '7'"):
        path.write_text(text)
        assert config.load(path).group == "7"


@pytest.mark.parametrize(
    ("text", "said", "known"),
    [
        ("sockets: /x", "has no key sockets", "socket, group, state, pins, probes, limits"),
        ("limits: {session: 1}", "has no key limits.session", "sessions, sessions_per_user"),
        ("probes: fentry", "probes cannot be 'fentry'", "auto, fexit, kprobe"),
        ("socket: run/sock", "socket is 'run/sock'", "absolute path"),
        ("group: true", "group is a text, not True", "quotes"),
        ("group: ''", "group is a text", "quotes"),
        ("limits: {sessions: many}", "limits.sessions is a number from 1 to 65536, not 'many'", "number"),
        ("limits: {sessions: 0}", "limits.sessions is a number from 1 to 65536, not 0", "number"),
        ("limits: {sessions: true}", "limits.sessions is a number from 1 to 65536", "number"),
        ("limits: {processes: 1}", "limits.processes is a number from 64 to 1048576, not 1", "number"),
        ("limits: {processes: 2147483647}", "limits.processes is a number from 64 to 1048576", "number"),
        ("limits: {message: 100}", "limits.message is a number from 1024 to 16777216, not 100", "number"),
        ("limits: [1]", "limits is not a mapping", "KEY: VALUE"),
        ("- a", "content is not a mapping", "KEY: VALUE"),
        ("a: [", "is not YAML", ""),
        ("[" * 5000, "is not YAML", ""),
        *((f"a: {value}", "is not YAML: a value is not what it looks like", "") for value in NO_VALUES),
        ("group: a\nsocket: /s\ngroup: b", "is not YAML: the key group stands twice", ""),
        ("limits: {sessions: 1, 'sessions': 2}", "is not YAML: the key sessions stands twice", ""),
    ],
)
def test_what_cannot_be_meant_is_an_error_that_says_what_can(tmp_path: Path, text: str, said: str, known: str) -> None:
    path = tmp_path / "detbuildd.yaml"
    path.write_text(text)
    with pytest.raises(DaemonError) as caught:
        config.load(path)
    assert said in caught.value.refused
    assert known in caught.value.remedy


def test_a_merged_key_may_be_set_anew(tmp_path: Path) -> None:
    path = tmp_path / "detbuildd.yaml"
    path.write_text("limits: {<<: {sessions: 1, processes: 64}, sessions: 2}")
    assert config.load(path).limits == Limits(sessions=2, processes=64)


def test_every_limit_has_a_range_that_its_default_is_in() -> None:
    defaults = asdict(Limits())
    assert defaults.keys() == config.RANGES.keys()
    assert not [name for name, (least, most) in config.RANGES.items() if not least <= defaults[name] <= most]


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "detbuildd.yaml"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DaemonError, match="cannot read the configuration"):
        config.load(path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
        lambda children: st.lists(children) | st.dictionaries(st.text() | st.integers(), children),
        max_leaves=10,
    )
)
def test_any_yaml_is_a_configuration_or_an_error(data: Any) -> None:
    with contextlib.suppress(DaemonError):
        assert isinstance(config.parse(yaml.safe_load(yaml.safe_dump(data))), Config)
