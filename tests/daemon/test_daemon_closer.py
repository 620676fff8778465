"""What a peer sends may make close(2) wait, and the daemon serves the others meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import NOBODY, Daemon, as_user, ask, handle, needs_root

from conftest import wait_for
from detbuild import protocol
from detbuild.daemon import peers
from detbuild.daemon.closer import Closer

LINGERS = 15  # seconds
AT_ONCE = 5
USER = 12345


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


@needs_root
def test_a_user_whose_descriptors_do_not_close_is_refused_and_others_are_served() -> None:
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="detbuildd-"))
        os.chmod(name, 0o755)
        daemon = stack.enter_context(Daemon(Path(name), {"connections_per_user": 5}, group=NOBODY))
        senders = [stack.enter_context(lingering()) for _ in range(4)]
        with only_connection(daemon) as peer:
            assert daemon.process
            daemon.process.send_signal(signal.SIGSTOP)
            protocol.send(peer, "hello", fds=[sender.fileno() for sender in senders])
            for sender in senders:
                sender.close()
            daemon.process.send_signal(signal.SIGCONT)
            protocol.receive(peer)
            with daemon.client() as again:
                refusal = protocol.receive(again)
            assert refusal is not None
            assert refusal["refused"] == "user 0 has 5 connections to the daemon, which is the limit"
            assert refusal["cause"].startswith("4 of them are descriptors that it sent or left unread")
            assert as_user(USER, daemon.serves) is True
            assert ask(peer, "hello")["kind"] == "hello"


@needs_root
def test_a_descriptor_beside_out_of_band_data_holds_up_nobody(daemon: Daemon) -> None:
    """Which recvmsg(2) would close with the byte that it skips."""
    with lingering() as sender, daemon.client() as peer:
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", sender.fileno()))]
        peer.sendmsg([b"x"], beside, socket.MSG_OOB)
        sender.close()
        peer.sendall(b"more")
        assert serves_at_once(daemon)


@pytest.mark.parametrize("unread", [b"", b"x", bytes(100_000)], ids=len)
def test_a_connection_with_mere_bytes_unread_is_closed_at_once(monkeypatch: pytest.MonkeyPatch, unread: bytes) -> None:
    monkeypatch.setattr(Closer, "close", lambda *_: pytest.fail("in time, not at once"))
    within, (ours, theirs) = Closer(), socket.socketpair()
    with theirs:
        theirs.sendall(unread)
        fd = ours.fileno()
        within.hang_up(1, ours)
        assert not os.path.exists(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("flags", [0, socket.MSG_OOB], ids=["in turn", "out of band"])
def test_a_connection_with_descriptors_unread_is_closed_by_the_users_own_thread(
    monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    closed: list[list[int]] = []
    monkeypatch.setattr(Closer, "close", lambda _self, _uid, fds: closed.append(fds))
    within, (ours, theirs), (reader, writer) = Closer(), socket.socketpair(), os.pipe()
    with theirs:
        theirs.sendall(bytes(1000))
        theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", writer))], flags)
        theirs.sendall(bytes(1000))
        os.close(writer)
        fd = ours.fileno()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        within.hang_up(1, ours)
    assert closed == [[fd]]
    os.close(fd)
    assert os.read(reader, 1) == b""
    os.close(reader)


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
