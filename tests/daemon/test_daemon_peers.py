"""A peer puts itself and its own descendants of the same user into a session, and nobody else."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from daemons import LIBRARY, NOBODY, Daemon, as_user, ask, child, command, handle, needs_root, open_session

from conftest import wait_for
from detbuild.daemon import peers
from detbuild.engine import detbuildd
from detbuild.errors import EngineUnavailable, SessionError
from detbuild.linux import proc

pytestmark = needs_root

USER, OTHER = 12345, 12346


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One that other users can reach, by the group that they have here."""
    with tempfile.TemporaryDirectory(prefix="detbuildd-") as name:
        os.chmod(name, 0o755)
        with Daemon(Path(name), group=NOBODY) as running:
            yield running


def opened(daemon: Daemon, opener: int, supervisor: int, **fields: Any) -> str:
    """ "ready", or why not."""
    with daemon.client() as peer:
        answer = open_session(peer, opener, supervisor, **fields)
        if answer["kind"] != "ready":
            return str(answer["refused"])
        ask(peer, "close")
        return "ready"


def user_process(uid: int) -> int:
    """A process of a user's, a child of this one."""
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(uid, uid, uid)
        os.execvp("sleep", ["sleep", "1000"])
    assert wait_for(lambda: os.stat(f"/proc/{pid}").st_uid == uid and command(pid) == "sleep")
    return pid


@pytest.fixture
def others_process() -> Iterator[int]:
    pid = user_process(OTHER)
    yield pid
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def test_an_ordinary_user_puts_its_child_into_a_session(daemon: Daemon) -> None:
    def work() -> str:
        with child() as opener, child() as supervisor:
            return opened(daemon, opener.pid, supervisor.pid)

    assert as_user(USER, work) == "ready"


def test_an_ordinary_user_puts_itself_into_a_session(daemon: Daemon) -> None:
    def work() -> str:
        with child() as supervisor:
            return opened(daemon, os.getpid(), supervisor.pid)

    assert as_user(USER, work) == "ready"


def test_a_descendant_far_below_is_one(daemon: Daemon) -> None:
    with child("sh", "-c", "sh -c 'sh -c \"sleep 1000; :\"; :'; :") as top, child() as supervisor:
        # Not before the last of them has executed its program.
        assert wait_for(lambda: list(map(command, chain(top.pid))) == ["sh", "sh", "sh", "sleep"])
        assert opened(daemon, chain(top.pid)[-1], supervisor.pid) == "ready"
        for pid in chain(top.pid)[1:]:
            os.kill(pid, 9)


def chain(pid: int) -> list[int]:
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(chain(int(below[0])) if below else [])]


def test_another_users_process_is_refused(daemon: Daemon, others_process: int) -> None:
    def work() -> str:
        with child() as supervisor:
            return opened(daemon, others_process, supervisor.pid)

    assert as_user(USER, work) == f"process {others_process} is not user {USER}'s own, but of user {OTHER}"


def test_roots_process_is_refused_to_others_and_others_to_root(daemon: Daemon, others_process: int) -> None:
    with child() as roots, child() as supervisor:

        def work() -> str:
            return opened(daemon, roots.pid, supervisor.pid)

        assert as_user(USER, work) == f"process {roots.pid} is not user {USER}'s own, but of user 0"
        assert f"of user {OTHER}" in opened(daemon, others_process, supervisor.pid)


def test_another_users_supervisor_is_refused(daemon: Daemon, others_process: int) -> None:
    def work() -> str:
        with child() as opener:
            return opened(daemon, opener.pid, others_process)

    assert f"is not user {USER}'s own" in as_user(USER, work)


def test_a_process_that_descends_from_somebody_else_is_refused(daemon: Daemon) -> None:
    with child() as elder, child() as supervisor:

        def work() -> str:
            return opened(daemon, elder.pid, supervisor.pid)

        # A child of ours, root like us, that asks for its own elder sibling, and then for its parent.
        assert as_user(0, work, 0).startswith(f"process {elder.pid} is no descendant of process ")
        own = os.getpid()
        assert "is no descendant" in as_user(0, lambda: opened(daemon, own, supervisor.pid), 0)


def test_a_zombie_and_a_reaped_process_are_refused(daemon: Daemon) -> None:
    with child("true") as dead, handle(dead.pid) as fd, child() as supervisor, handle(supervisor.pid) as other:
        terms = {"tid": dead.pid, "epoch": 1, "policy": "time", "spare_root": False}
        assert wait_for(lambda: Path(f"/proc/{dead.pid}/stat").read_text().split()[2] == "Z")
        with daemon.client() as peer:
            assert ask(peer, "open", (fd, other), **terms)["refused"] == "the process has ended"
            dead.wait()
            assert ask(peer, "open", (fd, other), **terms)["refused"] == "the process has ended"
            assert ask(peer, "open", (other, fd), **terms)["refused"] == "the process has ended"


def test_a_number_that_another_process_got_is_refused(daemon: Daemon) -> None:
    last = Path("/proc/sys/kernel/ns_last_pid")
    if not last.exists():
        pytest.skip("this kernel cannot choose the next pid (CONFIG_CHECKPOINT_RESTORE)")
    with child() as supervisor, handle(supervisor.pid) as other, daemon.client() as peer:
        for _ in range(100):
            dead = subprocess.Popen(["true"])
            with handle(dead.pid) as fd:
                dead.wait()
                last.write_text(str(dead.pid - 1))
                with child() as heir:
                    if heir.pid != dead.pid:
                        continue
                    answer = ask(peer, "open", (fd, other), tid=heir.pid, epoch=1, policy="time", spare_root=False)
                    assert answer["refused"] == "the process has ended"
                    return
    pytest.skip("others forked in between, a hundred times")


def test_process_one_is_refused(daemon: Daemon) -> None:
    with child() as supervisor:
        assert opened(daemon, 1, supervisor.pid) == "process 1 is never in a session"
        assert opened(daemon, supervisor.pid, 1) == "process 1 is never in a session"


def test_a_kernel_thread_is_refused(daemon: Daemon) -> None:
    with child() as supervisor:
        assert opened(daemon, 2, supervisor.pid) == "process 2 is a kernel thread"


def test_a_set_user_id_program_of_the_user_is_not_the_users(daemon: Daemon) -> None:
    program = daemon.directory / "becomes-root"
    shutil.copy("/bin/sleep", program)
    program.chmod(0o4755)

    def work() -> str:
        with child(str(program), "1000") as opener, child() as supervisor:
            assert wait_for(lambda: os.stat(f"/proc/{opener.pid}").st_uid == 0)
            return opened(daemon, opener.pid, supervisor.pid)

    assert as_user(USER, work).endswith(f"is not user {USER}'s own, but of user 0")


def with_capabilities(daemon: Daemon, source: str) -> str:
    """A copy of a program that gets CAP_NET_RAW, whoever executes it."""
    program = daemon.directory / "privileged"
    shutil.copy(source, program)
    program.chmod(0o755)
    net_raw = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # linux/capability.h, struct vfs_cap_data
    try:
        os.setxattr(program, "security.capability", net_raw)
    except OSError as error:
        pytest.skip(f"this file system keeps no capabilities: {error}")
    return str(program)


def of_another_group(daemon: Daemon, source: str) -> str:
    """A copy of a program that is set-group-ID."""
    program = daemon.directory / "privileged"
    shutil.copy(source, program)
    os.chown(program, 0, OTHER)
    program.chmod(0o2755)
    return str(program)


def test_a_program_with_capabilities_that_its_user_has_not_is_refused(daemon: Daemon) -> None:
    program = with_capabilities(daemon, "/bin/sleep")

    def work() -> str:
        with child(program, "1000") as opener, child() as supervisor:
            assert wait_for(lambda: "2000" in Path(f"/proc/{opener.pid}/status").read_text())
            return opened(daemon, opener.pid, supervisor.pid)

    assert as_user(USER, work).endswith("has capabilities that its peer has not")


@pytest.mark.parametrize("privileged", [with_capabilities, of_another_group])
def test_a_peer_that_has_become_a_privileged_program_is_refused(
    daemon: Daemon, privileged: Callable[[Daemon, str], str]
) -> None:
    """Its child has the connection, and names it."""
    program = privileged(daemon, "/bin/sleep")

    def work() -> str:
        reader, writer = os.pipe()
        first = os.fork()
        if first == 0:
            connect_and_become(daemon, program, writer)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            answer = pipe.read()
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
        return answer.replace(str(first), "PID")

    assert as_user(USER, work) == "process PID runs a privileged program, which believes no time that a user chose"


def connect_and_become(daemon: Daemon, program: str, writer: int) -> NoReturn:
    """Execute a program that sleeps, while a child asks for a session of the process that connected."""
    own = os.getpid()
    try:
        with daemon.client() as peer:
            if os.fork():
                os.execv(program, [program, "1000"])
            with child() as supervisor:
                assert wait_for(lambda: (command(own), proc.status(own, "State")[:1]) == ("privileged", "S"))
                os.write(writer, open_session(peer, own, supervisor.pid).get("refused", "ready").encode())
    finally:
        os._exit(0)


def test_what_a_privileged_program_executes_without_its_privilege_is_the_users_own(daemon: Daemon) -> None:
    program = with_capabilities(daemon, "/usr/bin/env")

    def work() -> str:
        with child(program, "sleep", "1000") as opener, child() as supervisor:
            assert wait_for(lambda: command(opener.pid) == "sleep")
            return opened(daemon, opener.pid, supervisor.pid)

    assert as_user(USER, work) == "ready"


def test_an_execution_that_does_not_end_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps the auxiliary vector back, as long as a file system of the user's own likes."""
    read, over = proc.read, threading.Event()

    def held_up(pid: int | str, name: str) -> bytes:
        if name == "auxv":
            over.wait()
        return read(pid, name)

    with child() as process, handle(process.pid) as fd:
        monkeypatch.setattr(proc, "read", held_up)
        peer = peers.Peer(os.getuid(), os.getgid(), peers.here(os.getpid()))
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(SessionError, match="executed a program while it was put into a session"):
                peers.opener(peer, fd)
        assert time.monotonic() - began < 5
        over.set()
        assert wait_for(lambda: not [each for each in threading.enumerate() if each.name.startswith("vector of")])
        assert peers.opener(peer, fd).vector
        peer.close()


def test_a_process_in_a_user_namespace_of_its_own_is_not_privileged(daemon: Daemon) -> None:
    def work(*options: str) -> str:
        with child("unshare", "--user", *options, "sleep", "1000") as opener, child() as supervisor:
            if not wait_for(lambda: opener.poll() is not None or command(opener.pid) == "sleep") or opener.returncode:
                return "none"
            return opened(daemon, opener.pid, supervisor.pid)

    said = [as_user(USER, work), as_user(USER, lambda: work("--map-root-user"))]
    if "none" in said:
        pytest.skip("no user namespaces here")
    assert said == ["ready", "ready"]


def test_a_thread_is_found_by_the_number_that_it_calls_itself(daemon: Daemon) -> None:
    def work() -> list[str]:
        said = []
        with child() as supervisor:
            thread = threading.Thread(
                target=lambda: said.append(opened(daemon, os.getpid(), supervisor.pid, tid=threading.get_native_id()))
            )
            thread.start()
            thread.join()
            said.append(opened(daemon, os.getpid(), supervisor.pid, tid=supervisor.pid))
        return said

    first, second = as_user(USER, work)
    assert first == "ready"
    assert "has no thread" in second


def test_a_pidfd_of_a_thread_is_no_process(daemon: Daemon) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        fd = os.pidfd_open(thread.native_id or 0, os.O_EXCL)  # PIDFD_THREAD
        with child() as supervisor, handle(supervisor.pid) as other, daemon.client() as peer:
            answer = ask(peer, "open", (fd, other), tid=1, epoch=1, policy="time", spare_root=False)
        os.close(fd)
        assert answer["refused"] == f"a pidfd names thread {thread.native_id}, not a process"
    except OSError as error:
        pytest.skip(f"this kernel has no pidfds of threads (Linux 6.9): {error}")
    finally:
        over.set()
        thread.join()


class KernelsSocket(socket.socket):
    """On a kernel that answers SO_PEERPIDFD with an error."""

    error = 0

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        if option == peers.SO_PEERPIDFD:
            raise OSError(self.error, os.strerror(self.error))
        return super().getsockopt(level, option, size)


@pytest.mark.parametrize(
    ("error", "found"),
    [(errno.ESRCH, False), (errno.EINVAL, False), (errno.ENODATA, False), (errno.ENOPROTOOPT, True)],
    ids=errno.errorcode.get,
)
def test_a_peer_is_found_by_its_number_only_where_the_kernel_has_no_better_name(error: int, found: bool) -> None:
    """Else a peer that has ended would be whoever has its number now: here this very process."""
    ours, theirs = socket.socketpair()
    with theirs, KernelsSocket(fileno=ours.detach()) as connection:
        connection.error = error
        peer = peers.of(connection)
        assert (peer.process is not None) is found
        peer.close()


def test_a_peer_that_cannot_be_asked_for_is_not_taken_for_one_that_has_ended() -> None:
    ours, theirs = socket.socketpair()
    with theirs, KernelsSocket(fileno=ours.detach()) as connection:
        connection.error = errno.ENFILE
        with pytest.raises(OSError, match=os.strerror(errno.ENFILE)):
            peers.of(connection)


def test_a_peer_that_has_ended_is_nobody(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        pid = os.fork()
        if pid == 0:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(tmp_path / "sock"))
            os._exit(0)
        os.waitpid(pid, 0)
        connection, _ = listener.accept()
        with connection:
            assert peers.of(connection) == peers.Peer(0, os.getegid(), None)


def test_who_is_not_in_the_group_is_told_what_to_do(daemon: Daemon) -> None:
    def work() -> list[str]:
        try:
            detbuildd.connect(str(daemon.path)).close()
        except EngineUnavailable as error:
            return [error.refused, error.remedy]
        return []

    refused, remedy = as_user(USER, work, gid=USER)
    assert refused == f"this user may not talk to the daemon at {daemon.path}"
    assert "usermod -a -G detbuild" in remedy


def test_one_users_connections_do_not_use_up_anothers(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="detbuildd-") as name:
        os.chmod(name, 0o755)
        with Daemon(Path(name), {"connections_per_user": 5}, group=NOBODY) as daemon:
            peers = [daemon.client() for _ in range(5)]
            for peer in peers:
                ask(peer, "hello")
            assert as_user(USER, daemon.serves) is True
            for peer in peers:
                peer.close()


# Containers -----------------------------------------------------------------------------------------------------

CONTAINED = """
import json, os, subprocess, sys, threading
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from daemons import Daemon, ask, child, handle, open_session
daemon = Daemon(Path(sys.argv[1]))
assert os.getpid() == 1, os.getpid()
with child() as supervisor, daemon.client() as peer:
    answer = open_session(peer, 1, supervisor.pid)
    with daemon.client() as again:
        hello = ask(again, "hello")
    pin = daemon.directory / "pins" / str(answer.get("session"))
    seen = {"answer": answer, "hello": hello, "supervisor": supervisor.pid, "uid": os.getuid()}
    print(json.dumps({**seen, "pin": json.loads(pin.read_text()) if pin.exists() else None}))
"""


@pytest.fixture(scope="module")
def public_files(daemon: Daemon) -> list[str]:
    """The library and these tests where every user can read them."""
    tests = Path(__file__).resolve().parents[1]
    target = daemon.directory / "files"
    shutil.copytree(LIBRARY, target / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(tests / "daemon", target / "daemon", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(tests / "conftest.py", target / "conftest.py")
    (daemon.directory / "pins").chmod(0o755)
    return [str(target / "lib"), str(target / "daemon"), str(target)]


@pytest.mark.parametrize("uid", [0, USER])
def test_from_a_container_with_its_own_pid_and_user_namespace(
    daemon: Daemon, public_files: list[str], uid: int
) -> None:
    """Its first process calls itself 1, and root; the daemon knows better."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount", "--mount-proc"]
    done = subprocess.run(
        [*unshare, "/usr/bin/python3", "-c", CONTAINED, str(daemon.directory), *public_files],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        user=uid,
        group=NOBODY if uid else 0,
        extra_groups=[],
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": site_packages()},
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr}")
    # Not the exit code: unshare(1) of util-linux 2.38 fails to restore its signal mask after the fact.
    assert done.stdout, done.stderr
    seen = json.loads(done.stdout)
    assert seen["answer"]["kind"] == "ready", seen
    assert seen["uid"] == 0
    pin = seen["pin"]
    assert pin["opener"] > 1
    assert pin["tid"] == pin["opener"]
    assert pin["supervisor"] not in (pin["opener"], seen["supervisor"])
    assert seen["hello"]["held"] is True
    assert seen["hello"]["supervisor"] == seen["supervisor"]
    assert f"opened: user {uid}, process {pin['opener']}" in daemon.log


def site_packages() -> str:
    """Where pytest and yaml are, for a Python outside the virtual environment."""
    return os.pathsep.join(path for path in sys.path if path.endswith("-packages"))


def test_hello_from_outside_a_session_says_that_there_is_none(daemon: Daemon) -> None:
    with detbuildd.connect(str(daemon.path)) as peer:
        assert detbuildd.supervisor(detbuildd.ask(peer, "hello")) == 0
