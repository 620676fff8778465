"""What a peer sends may make close(2) wait, and the daemon serves the others meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Daemon, ask, handle, needs_root

from conftest import wait_for
from detbuild import protocol
from detbuild.daemon import peers
from detbuild.daemon.closer import Closer

LINGERS = 15  # seconds
AT_ONCE = 5


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as running:
        yield running


@contextlib.contextmanager
def lingering() -> Iterator[socket.socket]:
    """A socket whose last close waits, since nobody reads what it has sent."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sender:
        receiver, _ = server.accept()
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGERS))
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(bytes(65536))
        yield sender
        receiver.close()


def serves_at_once(daemon: Daemon) -> bool:
    began = time.monotonic()
    return wait_for(daemon.serves) and time.monotonic() - began < AT_ONCE


@needs_root
@pytest.mark.parametrize("before", [0, 100], ids=["asked for nothing", "one of too many"])
def test_a_descriptor_whose_close_waits_holds_up_nobody(daemon: Daemon, before: int) -> None:
    with lingering() as sender, open(os.devnull) as null:
        with daemon.client() as peer:
            protocol.send(peer, "hello", fds=[null.fileno()] * before + [sender.fileno()])
            sender.close()
            protocol.receive(peer)
        assert serves_at_once(daemon)


@needs_root
def test_a_descriptor_that_was_never_received_holds_up_nobody(tmp_path: Path) -> None:
    """It waits in a connection that is refused, and closes with it."""
    with Daemon(tmp_path, {"connections": 1}) as daemon, lingering() as sender, only_connection(daemon) as first:
        assert daemon.process
        daemon.process.send_signal(signal.SIGSTOP)
        with daemon.client() as refused:
            protocol.send(refused, "hello", fds=[sender.fileno()])
        sender.close()
        daemon.process.send_signal(signal.SIGCONT)
        began = time.monotonic()
        assert ask(first, "hello")["kind"] == "hello"
        assert wait_for(lambda: "1 connections, which is the limit" in daemon.log)
        assert ask(first, "hello")["kind"] == "hello"
        assert time.monotonic() - began < AT_ONCE


def only_connection(daemon: Daemon) -> socket.socket:
    """One that is served, once those before it have gone."""
    while True:
        peer = daemon.client()
        if ask(peer, "hello")["kind"] == "hello":
            return peer
        peer.close()


def test_a_pidfd_is_known_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose file system is a peer's own must not be asked about it."""
    monkeypatch.chdir(tmp_path)
    name = Path("anon_inode:[pidfd]")
    name.touch()
    with handle(os.getpid()) as fd, name.open() as file:
        assert peers.is_pidfd(fd)
        assert not peers.is_pidfd(file.fileno())
        assert not peers.is_pidfd(1 << 20)


def test_one_user_waits_and_another_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, blocked = os.pipe()
    waits = os.fdopen(reader, "rb")
    real = os.close

    def close(fd: int) -> None:
        if fd == blocked:
            time.sleep(1)
        real(fd)

    monkeypatch.setattr("os.close", close)
    within, (other, others) = Closer(), os.pipe()
    within.close(1, [blocked, os.dup(others)])
    within.close(2, [others])
    assert wait_for(lambda: within.waiting(2) == 0)
    assert within.waiting(1) == 2
    assert wait_for(lambda: within.waiting(1) == 0)
    assert waits.read() == b""
    assert os.read(other, 1) == b""
    real(other)
    waits.close()
