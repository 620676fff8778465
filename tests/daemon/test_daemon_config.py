"""The configuration: all has a default, and what cannot be meant is an error that says what can."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detbuild.daemon import config
from detbuild.daemon.config import Config, Limits, Settings
from detbuild.errors import DaemonError


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
        ("limits: {sessions: many}", "limits.sessions is a number above 0, not 'many'", "number"),
        ("limits: {sessions: 0}", "limits.sessions is a number above 0", "number"),
        ("limits: {sessions: true}", "limits.sessions is a number above 0", "number"),
        ("limits: [1]", "limits is not a mapping", "KEY: VALUE"),
        ("- a", "content is not a mapping", "KEY: VALUE"),
        ("a: [", "is not YAML", ""),
        ("[" * 5000, "is not YAML", ""),
    ],
)
def test_what_cannot_be_meant_is_an_error_that_says_what_can(tmp_path: Path, text: str, said: str, known: str) -> None:
    path = tmp_path / "detbuildd.yaml"
    path.write_text(text)
    with pytest.raises(DaemonError) as caught:
        config.load(path)
    assert said in caught.value.refused
    assert known in caught.value.remedy


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
