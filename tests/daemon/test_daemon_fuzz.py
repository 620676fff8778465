"""Whatever bytes, messages and descriptors come in whatever order, the daemon answers the next one who asks."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import Daemon, child, framed, needs_root
from hypothesis import HealthCheck, given, settings
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
DESCRIPTORS = st.lists(st.sampled_from(["pipe", "self", "child", "socket", "directory"]), max_size=6)
STEPS = st.lists(st.tuples(CHUNKS, DESCRIPTORS), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="detbuildd-") as name, Daemon(Path(name)) as running:
        yield running


@pytest.fixture(scope="module")
def descriptors() -> Iterator[dict[str, int]]:
    reader, writer = os.pipe()
    end, other = socket.socketpair()
    with child() as process, end, other:
        fds = {
            "pipe": writer,
            "self": os.pidfd_open(os.getpid()),
            "child": os.pidfd_open(process.pid),
            "socket": end.fileno(),
            "directory": os.open("/proc/self", os.O_RDONLY),
        }
        yield fds
    os.close(reader)
    for name in ("pipe", "self", "child", "directory"):
        os.close(fds[name])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, half_closed=st.booleans())
def test_whatever_comes_the_next_one_is_served(
    daemon: Daemon, descriptors: dict[str, int], steps: list[tuple[bytes, list[str]]], half_closed: bool
) -> None:
    with daemon.client() as peer:
        try:
            for data, names in steps:
                socket.send_fds(peer, [data or b"\0"], [descriptors[name] for name in names])
            if half_closed:
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert daemon.serves()
    assert daemon.process
    assert daemon.process.poll() is None


def test_after_all_that_nothing_is_left_open(daemon: Daemon) -> None:
    assert daemon.serves()
    sessions = len(list((daemon.directory / "state").glob("*.json")))
    assert wait_for(lambda: daemon.descriptors() < 15 + 2 * sessions)
    assert "failed: " not in daemon.log
