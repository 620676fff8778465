"""The daemon serves those who ask properly, whatever the others do."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from daemons import (
    EPOCH,
    LIBRARY,
    Daemon,
    ask,
    child,
    children,
    command,
    executor,
    framed,
    gone,
    handle,
    needs_root,
    open_session,
    settle,
)
from fake import BROKEN_EPOCH, EXECUTES_EPOCH, KILLED_EPOCH, LARGE_EPOCH, REFUSED_EPOCH

from conftest import wait_for
from detbuild import __version__, protocol
from detbuild.daemon.closer import Closer
from detbuild.daemon.config import Limits
from detbuild.daemon.peers import Peer
from detbuild.daemon.server import Server
from detbuild.daemon.wire import Wire
from detbuild.errors import SessionError

pytestmark = needs_root

USER = 12345


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as running:
        yield running


def test_hello_says_who_serves(daemon: Daemon) -> None:
    with daemon.client() as peer:
        hello = ask(peer, "hello")
    assert daemon.process
    assert hello["pid"] == daemon.process.pid
    assert hello["release"] == __version__
    assert hello["held"] is False


def test_the_socket_is_for_root_and_one_group(daemon: Daemon) -> None:
    mode = daemon.path.stat()
    assert stat.S_IMODE(mode.st_mode) == 0o660
    assert (mode.st_uid, mode.st_gid) == (0, 0)


def test_a_session_opens_counts_and_closes(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor, daemon.client() as peer:
        ready = open_session(peer, opener.pid, supervisor.pid)
        assert ready["kind"] == "ready", ready
        assert (daemon.directory / "pins" / str(ready["session"])).exists()
        counters = ask(peer, "counters")
        assert counters["reads"] == [{"program_key": 0, "source": "clock_gettime", "outcome": "fixed", "count": EPOCH}]
        assert ask(peer, "close")["kind"] == "closed"
        assert not (daemon.directory / "pins" / str(ready["session"])).exists()
        settle()
        assert opener.poll() is None
    assert f"session {ready['session']} opened: user 0, process {opener.pid}" in daemon.log
    assert f"session {ready['session']} closed" in daemon.log


def test_sessions_at_once_have_their_own_counters(daemon: Daemon) -> None:
    with child() as one, child() as other, child() as supervisor, daemon.client() as left, daemon.client() as right:
        first = open_session(left, one.pid, supervisor.pid, epoch=1000)
        second = open_session(right, other.pid, supervisor.pid, epoch=2000)
        assert first["session"] != second["session"]
        assert ask(left, "counters")["reads"][0]["count"] == 1000
        assert ask(right, "counters")["reads"][0]["count"] == 2000


@pytest.mark.parametrize(("policy", "observes"), [("time", False), ("strict -random", False), ("observe", True)])
def test_the_kernel_is_told_which_sessions_only_observe(daemon: Daemon, policy: str, observes: bool) -> None:
    with child() as opener, child() as supervisor, daemon.client() as peer:
        number = open_session(peer, opener.pid, supervisor.pid, policy=policy)["session"]
        assert json.loads((daemon.directory / "pins" / str(number)).read_text())["observes"] == observes


def test_a_process_in_a_session_is_told_so_and_gets_no_second_one(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor, daemon.client() as peer, daemon.client() as again:
        number = open_session(peer, opener.pid, supervisor.pid)["session"]
        refusal = open_session(again, opener.pid, supervisor.pid)
        assert refusal["refused"] == f"process {opener.pid} is in session {number} already"


def test_a_connection_opens_one_session(daemon: Daemon) -> None:
    with child() as one, child() as other, child() as supervisor, daemon.client() as peer:
        open_session(peer, one.pid, supervisor.pid)
        assert "one session" in open_session(peer, other.pid, supervisor.pid)["refused"]


def test_when_the_supervisor_ends_the_sessions_processes_are_killed(daemon: Daemon) -> None:
    with child("sh", "-c", "sleep 1000 & sleep 1001 & wait") as opener, child() as supervisor, daemon.client() as peer:
        bystander = child()
        with bystander as other:
            open_session(peer, opener.pid, supervisor.pid)
            assert wait_for(lambda: len(children(opener.pid)) == 2)
            below = children(opener.pid)
            supervisor.kill()
            assert gone(opener.pid)
            assert wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in below))
            settle()
            assert other.poll() is None
    assert "its supervisor is gone, and its processes are killed" in daemon.log
    assert wait_for(lambda: not list((daemon.directory / "state").glob("*.json")))


def test_a_spared_opener_outlives_its_supervisor(daemon: Daemon) -> None:
    shell = ("sh", "-c", "sleep 1000 & wait; exec sleep 1000")
    with child(*shell) as opener, child() as supervisor, daemon.client() as peer:
        open_session(peer, opener.pid, supervisor.pid, spare_root=True)
        assert wait_for(lambda: len(children(opener.pid)) == 1)
        (below,) = children(opener.pid)
        supervisor.kill()
        assert wait_for(lambda: not os.path.exists(f"/proc/{below}"))
        settle()
        assert opener.poll() is None
        assert "no session was opened" in ask(peer, "counters")["refused"]


def test_a_connection_that_ends_leaves_the_session_to_its_supervisor(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor:
        with daemon.client() as peer:
            open_session(peer, opener.pid, supervisor.pid)
        settle()
        assert opener.poll() is None
        supervisor.kill()
        assert gone(opener.pid)


# What the kernel part refuses, and where it breaks --------------------------------------------------------------


def test_a_refusal_of_the_kernels_reaches_the_client_whole(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor, daemon.client() as peer:
        refusal = open_session(peer, opener.pid, supervisor.pid, epoch=REFUSED_EPOCH)
        assert refusal["refused"] == "this kernel has had enough"
        assert refusal["remedy"] == "ask another one"
        assert not list((daemon.directory / "state").glob("*.json"))
        assert open_session(peer, opener.pid, supervisor.pid)["kind"] == "ready"


def test_a_bug_for_one_peer_is_told_and_logged_and_ends_nothing(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor, daemon.client() as peer:
        refusal = open_session(peer, opener.pid, supervisor.pid, epoch=BROKEN_EPOCH)
        assert "a bug in the kernel part" in refusal["refused"]
        assert open_session(peer, opener.pid, supervisor.pid)["kind"] == "ready"
    assert "open failed: RuntimeError('a bug in the kernel part') in " in daemon.log


def test_a_process_that_is_killed_while_it_is_put_into_a_session_is_in_none(daemon: Daemon) -> None:
    """As a zombie it keeps its number, until its parent wants that to be somebody else's."""
    with child() as opener, child() as supervisor, daemon.client() as peer:
        refusal = open_session(peer, opener.pid, supervisor.pid, epoch=KILLED_EPOCH)
        assert refusal["refused"] == "the process has ended"
        assert nothing_is_held(daemon)


def test_a_process_that_executes_a_program_while_it_is_put_into_a_session_is_in_none(daemon: Daemon) -> None:
    """Nobody has decided what holds for that program, or seen whether it is privileged."""
    with executor("/bin/sleep") as opener, child() as supervisor, daemon.client() as peer:
        refusal = open_session(peer, opener.pid, supervisor.pid, epoch=EXECUTES_EPOCH)
        assert refusal["refused"] == f"process {opener.pid} executed a program while it was put into a session"
        assert nothing_is_held(daemon)
        assert opener.poll() is None
        assert open_session(peer, opener.pid, supervisor.pid)["kind"] == "ready"


def nothing_is_held(daemon: Daemon) -> bool:
    left = [*(daemon.directory / "state").glob("*.json"), *(daemon.directory / "pins").iterdir()]
    return not left


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epoch", -1, "epoch is a number"),
        ("epoch", 1 << 62, "epoch is a number"),
        ("epoch", True, "epoch is a number"),
        ("epoch", "1", "epoch is a number"),
        ("tid", None, "tid is a number"),
        ("tid", 1, "has no thread 1"),
        ("spare_root", 1, "spare_root is true or false"),
        ("policy", "none", "there is no policy 'none'"),
        ("policy", None, "there is no policy 'None'"),
    ],
)
def test_terms_that_make_no_sense_are_refused(daemon: Daemon, field: str, value: object, said: str) -> None:
    with child() as opener, child() as supervisor, daemon.client() as peer:
        assert said in open_session(peer, opener.pid, supervisor.pid, **{field: value})["refused"]


def test_a_session_wants_two_pidfds(daemon: Daemon) -> None:
    with daemon.client() as peer:
        refusal = ask(peer, "open", tid=1, epoch=1, policy="time", spare_root=True)
    assert "two pidfds" in refusal["refused"]


def test_what_is_no_pidfd_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    # The name of a file, and its content, are a peer's to choose.
    (tmp_path / "pidfd").write_text("Pid:\t1\n")
    with open(tmp_path / "pidfd") as file, daemon.client() as peer:
        fds = (file.fileno(), file.fileno())
        assert "no pidfd" in ask(peer, "open", fds, tid=1, epoch=1, policy="time", spare_root=True)["refused"]


@pytest.mark.parametrize("kind", ["counters", "close"])
def test_without_a_session_there_is_nothing_to_count_or_close(daemon: Daemon, kind: str) -> None:
    with daemon.client() as peer:
        assert "no session was opened" in ask(peer, kind)["refused"]


# Peers that behave badly ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        struct.pack(">I", 65537),
        framed(b"{}"),
        framed(b"[" * 60_000),
        framed(protocol.encode("dance")),
        framed(protocol.encode("hello").replace(b'"version": 1', b'"version": 2')),
    ],
)
def test_garbage_is_answered_with_an_error_and_hung_up_on(daemon: Daemon, data: bytes) -> None:
    with daemon.client() as peer:
        peer.sendall(data)
        message = protocol.receive(peer)
        assert message is not None
        assert message["kind"] == "error"
        assert ended(peer)
    assert daemon.serves()


def ended(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


def test_half_messages_wait_without_harm(daemon: Daemon) -> None:
    whole = framed(protocol.encode("hello"))
    peers = [daemon.client() for _ in range(len(whole) - 1)]
    try:
        for size, peer in enumerate(peers, 1):
            peer.sendall(whole[:size])
        assert daemon.serves()
        for size, peer in enumerate(peers, 1):
            peer.sendall(whole[size:])
            message = protocol.receive(peer)
            assert message is not None
            assert message["kind"] == "hello"
    finally:
        for peer in peers:
            peer.close()


def test_a_peer_that_ends_in_the_middle_is_forgotten(daemon: Daemon) -> None:
    assert daemon.serves()
    before = daemon.descriptors()
    for _ in range(50):
        with daemon.client() as peer:
            peer.sendall(b"\0\0\1")
    assert daemon.serves()
    assert wait_for(lambda: daemon.descriptors() <= before)


def test_a_thousand_idle_connections_leave_the_daemon_serving(daemon: Daemon) -> None:
    peers = []
    try:
        for _ in range(1000):
            peers.append(daemon.client())
        assert daemon.serves()
        with child() as opener, child() as supervisor:
            assert open_session(peers[500], opener.pid, supervisor.pid)["kind"] == "ready"
    finally:
        for peer in peers:
            peer.close()
    assert wait_for(lambda: daemon.descriptors() < 50)


def test_a_peer_that_never_reads_holds_up_nobody(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor, daemon.client() as deaf:
        open_session(deaf, opener.pid, supervisor.pid, epoch=LARGE_EPOCH)
        deaf.setblocking(False)
        request, sent = framed(protocol.encode("counters")), 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += deaf.send(request)
                settle(0.001)
        assert daemon.serves()
        assert daemon.process
        assert resident(daemon.process.pid) < 200 << 20
        assert sent > len(request)


def resident(pid: int) -> int:
    """In bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_who_takes_no_answers_is_asked_to_before_it_gets_more() -> None:
    with contextlib.ExitStack() as stack:
        ours, theirs, listener = (stack.enter_context(each) for each in (*socket.socketpair(), socket.socket()))
        held = SimpleNamespace(
            held={1: SimpleNamespace(dying=False)}, counters=lambda _: ([], []), survivors=lambda _: []
        )
        server = Server(listener, held, Limits(), print)  # type: ignore[arg-type]
        asks, deaf = (Wire(each, Peer(USER, USER, None), 1, Closer(), session=1) for each in (ours, theirs))
        server._wires = {asks, deaf}
        assert server._counters(asks, {}, [])["kind"] == "counters"
        deaf._out += bytes(65 << 20)
        with pytest.raises(SessionError, match=f"user {USER} has {65 << 20} bytes of answers that nobody took"):
            server._counters(asks, {}, [])
        deaf.peer = Peer(USER + 1, USER, None)
        assert server._counters(asks, {}, [])["kind"] == "counters"


def test_a_hundred_survivors_are_named_and_the_others_counted(daemon: Daemon) -> None:
    with child("bash", "-c", "for n in {1..105}; do sleep 1000 & done; wait") as opener, child() as supervisor:
        # Not before each of them has executed its program.
        assert wait_for(lambda: [command(pid) for pid in children(opener.pid)] == ["sleep"] * 105)
        below = children(opener.pid)
        with daemon.client() as peer:
            open_session(peer, opener.pid, supervisor.pid)
            survivors = ask(peer, "counters")["survivors"]
        for pid in below:
            os.kill(pid, signal.SIGKILL)
    assert len(survivors) == 101
    assert survivors[0].endswith("sleep") or "coreutils" in survivors[0]
    assert survivors[-1] == "5 more programs"


def test_an_answer_in_many_parts_arrives_whole(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor, daemon.client() as peer:
        open_session(peer, opener.pid, supervisor.pid, epoch=LARGE_EPOCH)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert len(ask(peer, "counters")["reads"]) == 20_000


def test_descriptors_that_nobody_asked_for_are_closed(daemon: Daemon) -> None:
    reader, writer = os.pipe()
    with daemon.client() as peer:
        ask(peer, "hello")
        before = daemon.descriptors()
        for count in (1, 4):
            assert ask(peer, "hello", (writer,) * count)["kind"] == "hello"
        assert wait_for(lambda: daemon.descriptors() == before)
        # More than four are a peer's attempt to fill the daemon's table.
        protocol.send(peer, "hello", fds=[writer] * 200)
        assert ended_after_error(peer)
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


def ended_after_error(peer: socket.socket) -> bool:
    try:
        message = protocol.receive(peer)
        return message is not None and message["kind"] == "error" and ended(peer)
    except ConnectionResetError:
        return True


def test_requests_in_one_go_are_answered_in_order_each_with_its_own_descriptors(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor, daemon.client() as peer:
        protocol.send(peer, "hello")
        ready = open_session(peer, opener.pid, supervisor.pid)
        assert ready["kind"] == "hello"
        message = protocol.receive(peer)
        assert message is not None
        assert message["kind"] == "ready"


# Limits ---------------------------------------------------------------------------------------------------------


def test_a_user_has_so_many_sessions_and_no_more(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(tmp_path, {"sessions_per_user": 2}))
        supervisor, a, b, c = (stack.enter_context(child()).pid for _ in range(4))
        one, two, three = (stack.enter_context(daemon.client()) for _ in range(3))
        assert open_session(one, a, supervisor)["kind"] == "ready"
        assert open_session(two, b, supervisor)["kind"] == "ready"
        assert "user 0 has 2 sessions" in open_session(three, c, supervisor)["refused"]
        ask(two, "close")
        os.kill(b, signal.SIGKILL)
        assert gone(b)
        assert open_session(three, c, supervisor)["kind"] == "ready"


@pytest.mark.parametrize("limit", ["sessions_per_user", "sessions"])
def test_a_closed_session_counts_as_long_as_programs_run_in_it(tmp_path: Path, limit: str) -> None:
    """Else one user's would take every row that there is."""
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(tmp_path, {limit: 1}))
        supervisor, a, b = (stack.enter_context(child()).pid for _ in range(3))
        peer = stack.enter_context(daemon.client())
        open_session(peer, a, supervisor)
        ask(peer, "close")
        for _ in range(2):
            with daemon.client() as again:
                refusal = open_session(again, b, supervisor)
            assert "1 sessions, which is the limit" in refusal["refused"]
            assert refusal["cause"] == "1 of them are closed, and programs that they left behind still run"
            daemon.stop()
            daemon.start()
        os.kill(a, signal.SIGKILL)
        assert gone(a)
        with daemon.client() as again:
            number = open_session(again, b, supervisor)["session"]
        assert [path.stem for path in (daemon.directory / "state").glob("*.json")] == [str(number)]


def test_the_daemon_has_so_many_sessions_in_all(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        daemon = stack.enter_context(Daemon(tmp_path, {"sessions": 1}))
        supervisor, a, b = (stack.enter_context(child()).pid for _ in range(3))
        one, two = (stack.enter_context(daemon.client()) for _ in range(2))
        assert open_session(one, a, supervisor)["kind"] == "ready"
        assert "holds 1 sessions" in open_session(two, b, supervisor)["refused"]


@pytest.mark.parametrize("limit", ["connections_per_user", "connections"])
def test_connections_over_the_limit_are_told_so(tmp_path: Path, limit: str) -> None:
    with Daemon(tmp_path, {limit: 3}) as daemon:
        assert daemon.serves()
        peers = [daemon.client() for _ in range(3)]
        for peer in peers:
            assert ask(peer, "hello")["kind"] == "hello"
        with daemon.client() as peer:
            message = protocol.receive(peer)
        assert message is not None
        assert "3 connections" in message["refused"]
        peers.pop().close()
        assert wait_for(daemon.serves)
        for peer in peers:
            peer.close()


# Stop and start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(daemon: Daemon, number: int) -> None:
    with daemon.client():
        assert daemon.stop(number) == 0
    assert not daemon.path.exists()
    assert (daemon.directory / "pins" / "unloaded").exists()
    assert daemon.log.splitlines()[-1].endswith("stopped")


def test_a_second_daemon_does_not_start(daemon: Daemon) -> None:
    done = subprocess.run(
        daemon.command, env=daemon.environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert "another detbuildd has the lock" in done.stderr
    assert daemon.serves()


def test_every_line_of_the_log_is_an_event_with_its_time(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor, daemon.client() as peer:
        open_session(peer, opener.pid, supervisor.pid)
        ask(peer, "close")
        peer.sendall(framed(b'"a\\nb"'))
        protocol.receive(peer)
    daemon.stop()
    for line in daemon.log.splitlines():
        time.strptime(line[:19], "%Y-%m-%d %H:%M:%S")
        assert line[19] == " "


BACKGROUND = """
import sys
from detbuild.daemon import __main__ as entrance
from fake import FakeKernel
entrance.load = FakeKernel.load
entrance.machine.check = lambda: None
sys.exit(entrance.main(["--config", sys.argv[1]]))
"""


def test_without_foreground_it_returns_once_it_serves_and_says_what_is_wrong(daemon: Daemon) -> None:
    """As a user starts it: the terminal is free as soon as clients can connect, and not before."""
    environment = {**daemon.environment, "PYTHONPATH": f"{LIBRARY}:{Path(__file__).parent}"}
    command = [sys.executable, "-c", BACKGROUND, str(daemon.directory / "daemon.yaml")]
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert second.returncode == 1
    assert second.stderr.startswith("detbuildd: another detbuildd has the lock")
    daemon.stop()
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (first.returncode, first.stderr) == (0, "")
    with daemon.client() as peer:
        pid = ask(peer, "hello")["pid"]
    with handle(pid) as fd:
        os.kill(pid, signal.SIGTERM)
        assert select.select([fd], [], [], 20)[0]
    assert not daemon.path.exists()
