"""A supervisor's beginning and end: what it holds, who outlives whom, and a daemon that goes and comes back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervised import EPOCH, LIBRARY, DoubleBell

from conftest import wait_for
from detbuild import protocol
from detbuild.audit import Gap, Read
from detbuild.engine import lineage, supervisor
from detbuild.engine.base import Terms

HERE = Path(__file__).resolve().parent
TIME = "ctypes.CDLL(None).syscall(201, None)"


def script(text: str) -> list[str]:
    """A Python program that may enter a session, as its own process."""
    head = f"import ctypes, os, signal, sys, subprocess, time\nfrom supervised import *\nterms = Terms({EPOCH})\n"
    return [sys.executable, "-u", "-c", head + textwrap.dedent(text)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{LIBRARY}:{HERE}:{HERE.parent}"}


def said(text: str, seconds: float = 30) -> list[str]:
    result = subprocess.run(
        script(text), env=environment(), capture_output=True, text=True, timeout=seconds, check=False
    )
    assert not result.stderr
    return result.stdout.splitlines()


def gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def test_a_supervisor_holds_none_of_the_tasks_descriptors_and_ends_with_the_last_program() -> None:
    lines = said("""
        log = open("/dev/null", "w"); reader, writer = os.pipe()
        connection = enter(terms)
        place = f"/proc/{connection.pid}"
        links = {os.readlink(f"{place}/fd/{fd}") for fd in os.listdir(f"{place}/fd")}
        print(connection.pid, sorted({link.split(":")[0] for link in links}), os.readlink(f"{place}/cwd"))
        print(os.readlink(f"/proc/self/fd/{reader}") in links)
        print(open(f"{place}/comm").read().strip())
        collect(connection)
    """)
    pid, kinds = lines[0].split(" ", 1)
    assert kinds == f"['/dev/null', '/proc/{pid}/mountinfo', 'anon_inode', 'socket'] /"
    assert lines[1:] == ["False", "detbuild-superv"]
    assert wait_for(lambda: gone(int(pid)))


def test_a_signal_interrupts_no_answer() -> None:
    """The kernel takes back a descriptor that is given when a signal comes, and the caller has none."""
    lines = said(f"""
        connection = enter(Terms({EPOCH}, "strict"))
        busy = os.fork()
        if not busy:
            while True:
                os.kill(connection.pid, signal.SIGCHLD)
        opens = "print({{open('/proc/uptime').read() for _ in range(1000)}})"
        child = subprocess.run([sys.executable, "-I", "-S", "-c", opens])
        os.kill(busy, signal.SIGKILL)
        print(child.returncode, collect(connection).degraded)
    """)
    assert lines == ["{'86400.00 345600.00\\n'}", "0 False"]


def test_programs_that_outlive_the_close_stay_in_the_session() -> None:
    lines = said(f"""
        connection = enter(terms)
        late = "import ctypes, time; time.sleep(0.5); print({TIME}, flush=True)"
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", late])
        audit = collect(connection)
        print(audit.degraded, child.wait())
    """)
    assert lines == [str(EPOCH), "False 0"]


def test_a_client_that_is_killed_takes_its_session_with_it() -> None:
    process = subprocess.Popen(
        script(f"""
            from detbuild.linux.proc import status
            connection = enter(terms)
            if os.fork() == 0:
                connection.peer.close(); print(os.getpid(), connection.pid, flush=True)
                time.sleep(1); print({TIME}, flush=True); os._exit(0)
            time.sleep(300)
        """),
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    with process:
        _, pid = map(int, process.stdout.readline().split())
        process.kill()
        # Whoever is left lives on under the epoch.
        assert process.stdout.readline() == f"{EPOCH}\n"
    assert wait_for(lambda: gone(pid))


def test_a_client_that_hangs_up_without_a_close_is_killed() -> None:
    process = subprocess.run(
        script("connection = enter(terms); connection.peer.close(); time.sleep(300)"), env=environment(), check=False
    )
    assert process.returncode == -signal.SIGKILL


def test_a_supervisor_that_is_killed_is_missed_and_its_waiting_programs_end() -> None:
    lines = said(f"""
        import threading
        connection = enter(terms)
        until = (ctypes.c_long * 2)({EPOCH} + 60, 0)
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).syscall(230, 0, 1, until, None); os._exit(0)
        time.sleep(0.5)
        os.kill(connection.pid, signal.SIGKILL)
        print(os.waitpid(child, 0)[1] == signal.SIGKILL)  # it was traced for its call
        print({TIME})  # no clock is better than the real one
        try: collect(connection)
        except Exception as error: print(type(error).__name__, error.cause)
    """)
    assert lines == ["True", "-1", "EngineDied it was killed, by a person or for want of memory (see dmesg)"]


def test_a_supervisor_that_fails_says_why() -> None:
    lines = said(f"""
        import supervised
        supervised.DoubleBell.ring = lambda *_, **__: 1 / 0
        connection = enter(terms)
        {TIME}; print({TIME})
        try: collect(connection)
        except Exception as error: print(type(error).__name__, error.cause)
    """)
    assert lines == ["-1", "EngineDied it failed with ZeroDivisionError: division by zero"]


def test_a_client_that_never_installs_a_filter_leaves_nothing_behind() -> None:
    peer = supervisor.start(Terms(EPOCH), lambda: DoubleBell(EPOCH))
    hello, own = protocol.receive_fd(peer)
    assert hello
    assert own is not None
    os.close(own)
    ours, theirs = socket.socketpair()
    protocol.send(peer, "open", [theirs.fileno()], pid=os.getpid(), tid=os.getpid(), session=1, token="", socket="")
    theirs.close()
    assert protocol.receive(peer)
    peer.close()
    closing = protocol.receive(ours)
    assert closing
    assert closing["kind"] == "close"
    ours.close()
    assert wait_for(lambda: gone(hello["pid"]))


def test_without_bpf_the_epoch_holds_with_a_gap() -> None:
    lines = said(f"""
        import supervised
        from detbuild.engine.bell import Silent
        def silent(*_, **__): raise Silent("nobody is there")
        supervised.DoubleBell.ring = silent
        connection = enter(terms)
        {TIME}; print({TIME})
        print(subprocess.run(["true"]).returncode)
        print([tuple(gap) for gap in collect(connection).gaps])
    """)
    assert lines == [str(EPOCH), "0", "[('BPF is gone', 'nobody is there')]"]


def test_a_program_that_left_the_session_sees_the_real_time() -> None:
    lines = said(f"""
        import supervised
        def left(*_, **__): raise ProcessLookupError()
        supervised.DoubleBell.ring = left
        connection = enter(terms)
        {TIME}; print(abs({TIME} - time.time()) < 2, bool(collect(connection).gaps))
    """)
    assert lines == ["True False"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[socket.socket, Path]]:
    place = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()
        listening.settimeout(20)
        yield listening, place


IN_A_SESSION = """
connection, where = socket.socket(socket.AF_UNIX), sys.argv[1]
connection.connect(where)
{1}
entered = enter(terms, connection=connection, where=where)
{0}
print("ready", flush=True); sys.stdin.readline()
audit = collect(entered)
print(sorted([*map(tuple, audit.reads), *map(tuple, audit.gaps), *audit.survivors], key=str))
"""


def session(place: Path, text: str = "", before: str = "") -> subprocess.Popen[str]:
    command = [*script(IN_A_SESSION.format(text, before)), str(place)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True)


def end(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate("\n", timeout=120)
    return out


def test_what_the_daemon_counted_is_in_the_record(daemon: tuple[socket.socket, Path]) -> None:
    listening, place = daemon
    with session(place, f"{TIME}; {TIME}") as process:
        assert process.stdin
        connection, _ = listening.accept()
        process.stdin.write("\n")
        process.stdin.flush()
        assert expected(connection) == "counters"
        rows = [{"program_key": 0, "source": "clock_gettime", "outcome": "fixed", "count": 3}]
        gaps = [{"kind": "map full", "detail": "processes", "count": 1}]
        protocol.send(connection, "counters", reads=rows, gaps=gaps, survivors=["/bin/sleep"])
        out = end(process).splitlines()[-1]
        python = os.path.realpath(sys.executable)
        shown = Path(python).name, lineage.arguments([*script(IN_A_SESSION.format(f"{TIME}; {TIME}", "")), str(place)])
        reads = [Read(python, source, "fixed", *shown) for source in ("clock_gettime", "time")]
        record = [*reads, Gap("map full", "processes")]
        assert out == str(sorted([*map(tuple, record), "/bin/sleep"], key=str))
        assert expected(connection) == "close"
        protocol.send(connection, "closed")


def test_what_the_daemon_counted_by_key_has_its_programs_arguments_and_parents(
    daemon: tuple[socket.socket, Path],
) -> None:
    listening, place = daemon
    told = (
        "collected = collect\ndef collect(line): print(sorted((told := collected(line)).reads.values())); return told"
    )
    with session(place, "subprocess.run(['sh', '-c', 'env true 2; :'])", before=told) as process:
        assert process.stdout
        connection, _ = listening.accept()
        assert process.stdout.readline() == "ready\n"
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        assert expected(connection) == "counters"
        rows = [
            {"program_key": key, "source": "clock_gettime", "outcome": "fixed", "count": key} for key in (999, 4, 3, 2)
        ]
        protocol.send(connection, "counters", reads=rows, gaps=[])
        counts, out = end(process).splitlines()
    assert counts == "[2, 3, 4, 999]"
    name, shell = Path(os.path.realpath(sys.executable)).name, os.path.realpath("/bin/sh")
    kind = ("clock_gettime", "fixed")
    env, true = os.path.realpath("/usr/bin/env"), os.path.realpath("/usr/bin/true")
    by_shell = (Path(shell).name, name)
    assert str(Read(shell, *kind, Path(shell).name, "-c 'env true 2; :'", (name,))[:]) in out
    assert str(Read(env, *kind, "env", "true 2", by_shell)[:]) in out
    assert str(Read(true, *kind, "true", "2", by_shell)[:]) in out
    assert str(Read("?", *kind, "?")[:]) in out


def test_a_daemon_that_comes_back_is_found_and_asked(daemon: tuple[socket.socket, Path]) -> None:
    listening, place = daemon
    with session(place) as process:
        assert process.stdout
        connection, _ = listening.accept()
        assert process.stdout.readline() == "ready\n"
        connection.close()
        connection, _ = listening.accept()
        message, own = protocol.receive_fd(connection)
        assert message
        assert own is not None
        os.close(own)
        assert (message["kind"], message["session"], message["token"]) == ("resume", 1, "t")
        protocol.send(connection, "ready")
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        assert expected(connection) == "counters"
        protocol.send(connection, "counters", reads=[], gaps=[])
        assert end(process) == "[]\n"
        connection.close()


def test_a_daemon_that_refuses_to_go_on_is_a_gap(daemon: tuple[socket.socket, Path]) -> None:
    listening, place = daemon
    with session(place) as process:
        assert process.stdout
        connection, _ = listening.accept()
        assert process.stdout.readline() == "ready\n"
        connection.close()
        connection, _ = listening.accept()
        protocol.send(connection, "error", refused="no such session", cause="", remedy="")
        start = time.monotonic()
        out = end(process)
        assert "the session could not be resumed: no such session" in out
        assert "what BPF counted is not in the record" in out
        assert time.monotonic() - start < 5
        connection.close()


def test_a_daemon_that_stays_away_is_a_gap(daemon: tuple[socket.socket, Path]) -> None:
    listening, place = daemon
    with session(place, before="supervisor.PATIENCE = 2.0") as process:
        assert process.stdout
        connection, _ = listening.accept()
        assert process.stdout.readline() == "ready\n"
        listening.close()
        connection.close()
        start = time.monotonic()
        assert "it did not answer in 2 seconds" in end(process)
        assert time.monotonic() - start > 1.9


def test_a_daemon_is_away_while_programs_are_served(daemon: tuple[socket.socket, Path]) -> None:
    listening, place = daemon
    text = f"time.sleep(0.6); {TIME}; print({TIME})"
    with session(place, text) as process:
        connection, _ = listening.accept()
        listening.close()
        connection.close()
        assert process.stdout
        assert process.stdout.readline() == f"{EPOCH}\n"
        process.kill()


def expected(connection: socket.socket) -> str:
    connection.settimeout(20)
    message = protocol.receive(connection)
    assert message
    return str(message["kind"])
