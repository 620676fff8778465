"""A daemon that was killed, stopped or replaced finds its sessions again, and nobody else can claim them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemons import EPOCH, Daemon, ask, child, children, gone, handle, needs_root, open_session, settle

from conftest import wait_for
from detbuild.linux import proc

pytestmark = needs_root


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as running:
        yield running


def records(daemon: Daemon) -> list[Path]:
    """Of the sessions that are not closed."""
    return sorted(path for path in (daemon.directory / "state").glob("*.json") if not closed(path))


def closed(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text())["closed"])
    except FileNotFoundError:  # meanwhile
        return True


def resume(daemon: Daemon, session: int, token: str, supervisor: int) -> dict[str, Any]:
    with daemon.client() as peer, handle(supervisor) as fd:
        return ask(peer, "resume", (fd,), session=session, token=token)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_session_goes_on_under_the_next_daemon(daemon: Daemon, number: int) -> None:
    with child() as opener, child() as supervisor:
        with daemon.client() as peer:
            ready = open_session(peer, opener.pid, supervisor.pid)
        daemon.stop(number)
        assert not (daemon.directory / "pins" / "unloaded").exists()
        assert opener.poll() is None
        daemon.start()
        with daemon.client() as peer, handle(supervisor.pid) as fd:
            again = ask(peer, "resume", (fd,), session=ready["session"], token=ready["token"])
            assert again["kind"] == "ready"
            assert ask(peer, "counters")["reads"][0]["count"] == EPOCH
            assert ask(peer, "counters")["gaps"] == []
            assert ask(peer, "close")["kind"] == "closed"
        assert opener.poll() is None
        assert records(daemon) == []
    assert f"session {ready['session']} of user 0 goes on at epoch {EPOCH}" in daemon.log
    assert f"session {ready['session']} resumed by process {supervisor.pid}" in daemon.log


def test_a_session_has_one_connection_and_who_resumes_ends_the_one_before(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor, contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(daemon.client()) for _ in range(2))
        ready = open_session(first, opener.pid, supervisor.pid)
        with handle(supervisor.pid) as fd:
            terms = {"session": ready["session"], "token": ready["token"]}
            assert ask(second, "resume", (fd,), **terms)["kind"] == "ready"
            assert first.recv(1) == b""
            assert ask(second, "resume", (fd,), **terms)["kind"] == "ready"
        assert ask(second, "counters")["reads"][0]["count"] == EPOCH


def test_a_supervisor_that_ends_while_no_daemon_runs_takes_its_session_along(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor:
        with daemon.client() as peer:
            open_session(peer, opener.pid, supervisor.pid)
        daemon.stop(signal.SIGKILL)
        supervisor.kill()
        supervisor.wait()
        settle()
        assert opener.poll() is None
        daemon.start()
        assert gone(opener.pid)
    assert wait_for(lambda: records(daemon) == [])


def test_after_a_restart_the_supervisor_is_watched_before_it_resumes(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor:
        with daemon.client() as peer:
            open_session(peer, opener.pid, supervisor.pid)
        daemon.stop(signal.SIGKILL)
        daemon.start()
        supervisor.kill()
        assert gone(opener.pid)


def test_only_the_supervisor_with_its_token_resumes(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor:
        with daemon.client() as peer:
            ready = open_session(peer, opener.pid, supervisor.pid)
        number, token = ready["session"], ready["token"]
        daemon.stop(signal.SIGKILL)
        daemon.start()
        refused = f"this is not the supervisor of session {number}"
        assert resume(daemon, number, "0" * 64, supervisor.pid)["refused"] == refused
        assert resume(daemon, number, "", supervisor.pid)["refused"] == refused
        assert resume(daemon, number, token, opener.pid)["refused"] == refused
        assert resume(daemon, number + 1, token, supervisor.pid)["refused"] == f"there is no session {number + 1}"
        with daemon.client() as peer:
            assert "with one pidfd" in ask(peer, "resume", session=number, token=token)["refused"]
        assert resume(daemon, number, token, supervisor.pid)["kind"] == "ready"


def test_records_are_roots_alone_and_hold_no_token(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor, daemon.client() as peer:
        token = open_session(peer, opener.pid, supervisor.pid)["token"]
        (record,) = records(daemon)
        assert len(token) == 64
        assert token not in record.read_text()
        assert stat.S_IMODE(record.stat().st_mode) == 0o600
        assert stat.S_IMODE(record.parent.stat().st_mode) == 0o700


def lose(daemon: Daemon, session: int) -> None:
    """Replace the daemon by one for which the session is nowhere in the kernel."""
    daemon.stop(signal.SIGKILL)
    (daemon.directory / "pins" / str(session)).unlink()
    daemon.start()


@pytest.fixture
def upgrade(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replace the daemon by one of another release, whose BPF programs are others, and who cannot read the former's."""

    def work(release: str) -> None:
        daemon.stop(signal.SIGKILL)
        monkeypatch.setenv("RELEASE", release)
        daemon.start()

    return work


ELSEWHERE = "BPF programs of another release hold the session: what they counted is not in the record"
DETACHED = "the session's BPF programs are gone: its programs may have seen the real time"


def test_a_session_that_the_kernel_lost_meanwhile_says_so_at_its_end(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor:
        with daemon.client() as peer:
            ready = open_session(peer, opener.pid, supervisor.pid)
        lose(daemon, ready["session"])
        with daemon.client() as peer, handle(supervisor.pid) as fd:
            assert ask(peer, "resume", (fd,), session=ready["session"], token=ready["token"])["kind"] == "ready"
            counters = ask(peer, "counters")
            assert counters["reads"] == []
            assert counters["gaps"] == [{"kind": "daemon away", "detail": DETACHED, "count": 1}]
            assert ask(peer, "close")["kind"] == "closed"
    assert f"session {ready['session']} of user 0 is lost: {DETACHED}" in daemon.log
    assert records(daemon) == []


def test_an_upgrade_leaves_a_session_to_the_programs_that_hold_it(
    daemon: Daemon, upgrade: Callable[[str], None]
) -> None:
    sleep = os.path.realpath("/bin/sleep")
    # What is older than its supervisor is none of a session's programs.
    with child() as supervisor, child("sh", "-c", "sleep 1000 & wait") as opener, child() as other:
        with daemon.client() as peer:
            ready = open_session(peer, opener.pid, supervisor.pid)
        assert wait_for(lambda: [proc.program(pid) for pid in children(opener.pid)] == [sleep])
        upgrade("2")
        pin = daemon.directory / "pins" / str(ready["session"])
        with daemon.client() as peer, handle(supervisor.pid) as fd:
            assert ask(peer, "resume", (fd,), session=ready["session"], token=ready["token"])["kind"] == "ready"
            counters = ask(peer, "counters")
            assert counters["gaps"] == [{"kind": "daemon away", "detail": ELSEWHERE, "count": 1}]
            assert counters["survivors"] == [sleep]
            with daemon.client() as second:
                refusal = open_session(second, opener.pid, supervisor.pid)
                assert refusal["refused"] == f"process {opener.pid} is in session {ready['session']} already"
                assert open_session(second, other.pid, supervisor.pid)["kind"] == "ready"
            assert ask(peer, "close")["kind"] == "closed"
        assert pin.exists()  # it is not the new release's to touch
        assert opener.poll() is None
    assert not [path for path in records(daemon) if path.stem == str(ready["session"])]


def test_after_an_upgrade_a_supervisor_is_watched_as_before(daemon: Daemon, upgrade: Callable[[str], None]) -> None:
    with child("sh", "-c", "sleep 1000 & sleep 0.5; exec sleep 1001") as opener:
        assert wait_for(lambda: len(children(opener.pid)) == 2)
        before = children(opener.pid)[0]
        settle()
        with child() as supervisor:
            with daemon.client() as peer:
                ready = open_session(peer, opener.pid, supervisor.pid)
            upgrade("2")
            supervisor.kill()
            assert gone(opener.pid)
        assert wait_for(lambda: records(daemon) == [])
        # What was there before the session is none of its processes.
        assert not proc.ended(before)
        os.kill(before, signal.SIGKILL)
    assert f"session {ready['session']}: its supervisor is gone, and its processes are killed" in daemon.log


def test_a_supervisor_that_ends_during_an_upgrade_takes_its_session_along(
    daemon: Daemon, upgrade: Callable[[str], None]
) -> None:
    with child() as supervisor, child("sh", "-c", "sleep 1000 & wait; exec sleep 1001") as opener:
        with daemon.client() as peer:
            open_session(peer, opener.pid, supervisor.pid, spare_root=True)
        assert wait_for(lambda: len(children(opener.pid)) == 1)
        (below,) = children(opener.pid)
        supervisor.kill()
        supervisor.wait()
        upgrade("2")
        assert wait_for(lambda: not os.path.exists(f"/proc/{below}") or proc.ended(below))
        assert wait_for(lambda: records(daemon) == [])
        assert opener.poll() is None


def test_a_downgrade_reads_its_own_sessions_again_and_keeps_the_gap(
    daemon: Daemon, upgrade: Callable[[str], None]
) -> None:
    with child() as opener, child() as supervisor:
        with daemon.client() as peer:
            ready = open_session(peer, opener.pid, supervisor.pid)
        upgrade("2")
        upgrade("1")
        with daemon.client() as peer, handle(supervisor.pid) as fd:
            ask(peer, "resume", (fd,), session=ready["session"], token=ready["token"])
            counters = ask(peer, "counters")
            assert counters["reads"][0]["count"] == EPOCH
            assert [gap["detail"] for gap in counters["gaps"]] == [ELSEWHERE]


@pytest.mark.parametrize("text", ["", "{}", "[]", "\0", '{"version": 2}', "[" * 100_000])
def test_a_damaged_record_is_named_and_the_daemon_starts(daemon: Daemon, text: str) -> None:
    with child() as opener, child() as supervisor:
        with daemon.client() as peer:
            number = open_session(peer, opener.pid, supervisor.pid)["session"]
        daemon.stop(signal.SIGKILL)
        (record,) = records(daemon)
        record.write_text(text)
        daemon.start()
        assert daemon.serves()
        assert not record.exists()
    assert f"the record {record} cannot be understood" in daemon.log
    assert f"session {number} has no record" in daemon.log


def test_a_spared_opener_is_spared_after_a_restart_too(daemon: Daemon) -> None:
    with child() as opener, child() as supervisor:
        with daemon.client() as peer:
            open_session(peer, opener.pid, supervisor.pid, spare_root=True)
        daemon.stop(signal.SIGKILL)
        supervisor.kill()
        supervisor.wait()
        daemon.start()
        assert wait_for(lambda: records(daemon) == [])
        settle()
        assert opener.poll() is None
        assert os.path.exists(f"/proc/{opener.pid}")
