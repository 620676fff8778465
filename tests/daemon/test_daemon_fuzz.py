"""Whatever bytes, messages and descriptors come in whatever order, the daemon answers the next one who asks."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import EPOCH, Daemon, child, framed, handle, needs_root, open_session
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conftest import wait_for
from detbuild import protocol

pytestmark = needs_root

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=8,
)
KINDS = st.sampled_from(["hello", "open", "counters", "close", "resume", "error", ""]) | st.text(max_size=8)
NUMBERS = st.integers(-2, 1 << 63) | st.sampled_from([0, 1, (1 << 31) - 1, 1 << 31, 1 << 62])
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "epoch": NUMBERS | JSON,
        "tid": NUMBERS | JSON,
        "policy": st.just("time") | JSON,
        "spare_root": st.booleans() | JSON,
        "session": NUMBERS | JSON,
        "token": st.text(max_size=80) | JSON,
    },
)
MESSAGES = st.builds(lambda kind, fields: framed(protocol.encode(kind, **fields)), KINDS, FIELDS)
CHUNKS = st.one_of(
    st.binary(max_size=64),
    MESSAGES,
    st.builds(lambda data, size: data[:size], MESSAGES, st.integers(0, 200)),
    st.builds(lambda value: framed(repr(value).encode()), JSON),
)
# Not ourselves: a session would kill its opener with its supervisor.
DESCRIPTORS = st.lists(st.sampled_from(["pipe", "opener", "supervisor", "socket", "directory"]), max_size=6)
# What the open session is asked: beside the right descriptors, or beside any.
BESIDE = {"open": ["opener", "supervisor"], "resume": ["supervisor"], "counters": [], "close": [], "hello": []}
ASKED = st.sampled_from(sorted(BESIDE)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.just(BESIDE[kind]) | DESCRIPTORS)
)
Step = tuple[bytes | str, list[str]]
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(ASKED, ASKED, st.tuples(CHUNKS, DESCRIPTORS)), min_size=1, max_size=6
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="detbuildd-") as name, Daemon(Path(name)) as running:
        yield running


@pytest.fixture(scope="module")
def descriptors() -> Iterator[dict[str, int]]:
    reader, writer = os.pipe()
    end, other = socket.socketpair()
    directory = os.open("/proc/self", os.O_RDONLY)
    with end, other:
        yield {"pipe": writer, "socket": end.fileno(), "directory": directory}
    for fd in (reader, writer, directory):
        os.close(fd)


@pytest.fixture(scope="module")
def answered() -> Counter[str]:
    """How often the daemon gave each kind of answer."""
    return Counter()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(steps=[("counters", []), ("resume", ["supervisor"]), ("close", [])], opened=True, half_closed=True)
@given(steps=STEPS, opened=st.booleans(), half_closed=st.booleans())
def test_whatever_comes_the_next_one_is_served(
    daemon: Daemon,
    descriptors: dict[str, int],
    answered: Counter[str],
    *,
    steps: list[Step],
    opened: bool,
    half_closed: bool,
) -> None:
    with (
        child() as opener,
        child() as supervisor,
        handle(opener.pid) as one,
        handle(supervisor.pid) as two,
        daemon.client() as peer,
    ):
        known = {"tid": opener.pid, "epoch": EPOCH, "policy": "time", "spare_root": False, "session": 0, "token": ""}
        if opened:
            ready = open_session(peer, opener.pid, supervisor.pid)
            assert ready["kind"] == "ready"
            known |= {"session": ready["session"], "token": ready["token"]}
        fds = {**descriptors, "opener": one, "supervisor": two}
        try:
            for what, names in steps:
                data = framed(protocol.encode(what, **known)) if isinstance(what, str) else what or b"\0"
                socket.send_fds(peer, [data], [fds[name] for name in names])
            if half_closed:
                peer.shutdown(socket.SHUT_WR)
                while message := protocol.receive(peer):
                    answered[message["kind"]] += 1
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert daemon.serves()
    assert daemon.process
    assert daemon.process.poll() is None


def test_after_all_that_nothing_is_left_open(daemon: Daemon) -> None:
    assert daemon.serves()
    assert wait_for(lambda: not [pin for pin in (daemon.directory / "pins").iterdir() if pin.name.isdigit()])
    assert wait_for(lambda: daemon.descriptors() < 15)
    assert "failed: " not in daemon.log


def test_all_that_has_reached_open_sessions(daemon: Daemon, answered: Counter[str]) -> None:
    for event in ("opened: user 0", "resumed by process", "closed"):
        assert re.search(rf" session \d+ {event}", daemon.log), event
    assert answered.keys() >= {"ready", "counters", "closed"}
