"""The eBPF engine's client: it says quickly why it cannot, changes nothing by asking, and believes nothing unproved."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import LIBRARY, wait_for
from detbuild import doctor, protocol
from detbuild.engine import detbuildd, ebpf, refusals, select
from detbuild.engine.ebpf import EbpfEngine
from detbuild.errors import EngineUnavailable
from detbuild.linux import auxv

Answer = Callable[[socket.socket], None]

DAEMON = Path(__file__).resolve().parents[1] / "daemon"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the daemon should listen."""
    monkeypatch.setenv(detbuildd.VARIABLE, str(tmp_path / "sock"))
    return tmp_path / "sock"


@pytest.fixture
def listening(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], None]]:
    """Starts a daemon of make-believe that does one thing with each connection."""
    monkeypatch.setattr(detbuildd, "connect", functools.partial(detbuildd.connect, seconds=0.5))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen()

    def serve(answer: Answer) -> None:
        def work() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    answer(peer)

        threading.Thread(target=work, daemon=True).start()

    yield serve
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def hello(peer: socket.socket, **other: Any) -> None:
    protocol.receive(peer)
    protocol.send(peer, "hello", **{"pid": 1, "started": 1, "gaps": [], "held": False, "supervisor": 0, **other})


def timed(work: Callable[[], None]) -> float:
    """In seconds."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def refusal() -> EngineUnavailable:
    with pytest.raises(EngineUnavailable) as caught:
        EbpfEngine.check()
    return caught.value


def test_without_a_daemon_there_is_one_sentence_and_what_to_do(place: Path) -> None:
    error = refusal()
    assert error.refused == f"no daemon listens: there is no {place}"
    assert "scripts/detbuildd" in error.remedy


def test_without_a_daemon_auto_takes_the_tracer_and_the_doctor_says_why(place: Path) -> None:
    assert select.NAMES == ("auto", "ebpf", "tracer")
    report = doctor.examine()
    ebpf_, tracer = report.engines
    assert (ebpf_.name, ebpf_.usable) == ("ebpf", False)
    assert ebpf_.reason == f"no daemon listens: there is no {place}"
    if not tracer.usable:
        pytest.skip(f"the tracer does not work here either: {tracer.reason}")
    assert select.choose().name == "tracer"
    assert report.engine == "tracer"
    assert "ebpf would be preferred" in report.why


def test_a_daemon_that_was_killed_is_told_from_one_that_is_not_there(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
    assert refusal().refused == f"no daemon answers at {place} (Connection refused)"


def test_a_daemon_that_says_nothing_is_not_waited_for(listening: Callable[[Answer], None]) -> None:
    listening(lambda peer: time.sleep(300))
    started = time.monotonic()
    assert "did not answer in 0.5 seconds" in refusal().refused
    assert time.monotonic() - started < 60


def test_a_daemon_that_accepts_nobody_is_not_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detbuildd, "connect", functools.partial(detbuildd.connect, seconds=0.3))
    waiting = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen(0)
        for _ in range(3):
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(str(place))
        started = time.monotonic()
        assert f"no daemon answers at {place}" in refusal().refused
        assert time.monotonic() - started < 5
        for each in waiting:
            each.close()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "of no use: a peer announces a message"),
        (b"", "hung up"),
        (b"\0\0", "of no use: a peer ended in the middle"),
        (b"\0\0\0\2{}", "of no use: a peer sent JSON that is not a message"),
    ],
)
def test_what_is_no_daemon_is_found_out(listening: Callable[[Answer], None], data: bytes, said: str) -> None:
    def answer(peer: socket.socket) -> None:
        protocol.receive(peer)
        peer.sendall(data)

    listening(answer)
    assert said in refusal().refused


def test_a_daemon_of_another_release_is_told_so(
    listening: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(peer: socket.socket) -> None:
        protocol.receive(peer)
        body = protocol.encode("hello").replace(b'"version": 1', b'"version": 2')
        peer.sendall(len(body).to_bytes(4, "big") + body)

    listening(answer)
    error = refusal()
    assert "a peer speaks version 2 of the protocol" in error.refused
    assert "same release" in error.remedy


def test_the_daemons_own_refusal_arrives_whole(listening: Callable[[Answer], None]) -> None:
    listening(lambda peer: protocol.send(peer, "error", refused="too many", cause="a loop", remedy="fewer"))
    error = refusal()
    assert (error.refused, error.cause, error.remedy) == ("too many", "a loop", "fewer")


def test_with_a_daemon_the_check_passes(listening: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "yama_scope", lambda: 0)
    listening(hello)
    EbpfEngine.check()
    assert select.choose("ebpf") is EbpfEngine
    assert select.choose() is EbpfEngine


def test_the_check_is_cheap_and_leaves_nothing_behind(
    listening: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "yama_scope", lambda: 0)
    listening(hello)
    EbpfEngine.check()
    time.sleep(0.1)
    before = len(os.listdir("/proc/self/fd"))
    fastest = min(timed(EbpfEngine.check) for _ in range(50))  # the others tell of the machine's load
    assert fastest < 0.02
    # The daemon's end is a thread of this process, and closes its own descriptor in its own time.
    assert wait_for(lambda: len(os.listdir("/proc/self/fd")) == before)
    assert "\nSeccomp:\t0\n" in Path("/proc/self/status").read_text()


def test_a_restrictive_ptrace_scope_is_told_before_anything_happens(
    listening: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "yama_scope", lambda: 1)
    monkeypatch.setattr(ebpf, "_CAP_SYS_PTRACE", 63)
    listening(hello)
    error = refusal()
    assert error.refused.endswith("kernel.yama.ptrace_scope is 1")
    assert "sysctl" in error.remedy


def test_a_privileged_program_asks_for_no_session(
    listening: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "yama_scope", lambda: 0)
    monkeypatch.setattr(auxv, "own", {auxv.AT_SECURE: 1}.get)
    listening(hello)
    assert refusal().refused == "this process runs a privileged program, which the daemon puts into no session"


FILTERED = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from detbuild.engine import ebpf, refusals
from detbuild.errors import EngineUnavailable
from detbuild.linux import notify, seccomp
refusals.yama_scope = lambda: 0
allow = seccomp.Assembler()
allow.ret(seccomp.RET_ALLOW)
if sys.argv[2] == "listener":
    notify.install(allow.assemble())
else:
    seccomp.install(allow.assemble())
try:
    ebpf.EbpfEngine.check()
except EngineUnavailable as error:
    print(error)
else:
    print("fits")
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child")
"""


@pytest.mark.parametrize(
    ("kind", "said"), [("listener", "this process's seccomp filters have a listener already"), ("plain", "fits")]
)
def test_one_more_listener_is_tried_before_it_matters(
    listening: Callable[[Answer], None], kind: str, said: str
) -> None:
    listening(hello)
    done = subprocess.run(
        [sys.executable, "-c", FILTERED, str(LIBRARY), kind], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.startswith(said), done.stderr
    assert done.stdout.endswith("no child\n")


def test_who_is_in_a_session_already_is_served_by_that_one(
    listening: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ebpf, "_check_process", lambda: pytest.fail("not asked inside a session"))
    listening(functools.partial(hello, held=True, supervisor=os.getppid()))
    EbpfEngine.check()
    from detbuild.engine.base import Terms

    connection = EbpfEngine.open(Terms(1))
    assert connection.peer is None
    assert connection.pid == os.getppid()


# The whole of it, with the daemon and its kernel of make-believe, and a real supervisor -------------------------
# Nothing hides the vDSO here: programs make the system call itself.

PROLOGUE = """
import functools, json, os, subprocess, sys, time
sys.path[:0] = sys.argv[1:3]
from detbuild.audit import Audit
from detbuild.engine import ebpf, refusals, supervisor
from detbuild.errors import DetbuildError
from detbuild.session import attach
from supervised import DoubleBell
refusals.yama_scope = lambda: 0
EPOCH = 1_300_000_000
supervisor.start = functools.partial(supervisor.start, bell=lambda: DoubleBell(EPOCH))
def seccomp(): return [line for line in open("/proc/self/status") if line.startswith("Seccomp:")][0].split()[1]
def show(**values): print(json.dumps(values), flush=True)
"""


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if os.geteuid() != 0:
        pytest.skip("only root can start the daemon")
    monkeypatch.syspath_prepend(str(DAEMON))
    from daemons import Daemon

    with Daemon(tmp_path) as running:
        monkeypatch.setenv(detbuildd.VARIABLE, str(running.path))
        yield running


def task(body: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + body, str(LIBRARY), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_session_from_the_check_to_its_record(daemon: Any) -> None:
    seen = task("""
ebpf._prove = lambda epoch: None
attached = attach(EPOCH, engine="ebpf")
out = subprocess.run(["perl", "-e", "print syscall(201, 0)"], capture_output=True, text=True).stdout
audit = attached.close()
show(out=out, name=attached.engine, audit=audit.to_dict(), pid=attached.engine_pid)
""")
    assert seen["out"] == "1300000000"
    assert seen["name"] == "ebpf"
    assert seen["audit"]["engine"] == "ebpf"
    assert seen["audit"]["gaps"] == []
    reads = {(row["source"], row["outcome"]): row["count"] for row in seen["audit"]["reads"]}
    assert reads["clock_gettime", "fixed"] == 1_300_000_000  # what the kernel of make-believe says it counted
    assert reads["time", "fixed"] == 1
    assert "opened: user 0" in daemon.log


def test_bpf_that_holds_nothing_is_found_out_by_the_proof(daemon: Any) -> None:
    seen = task("""
try: attach(EPOCH, engine="ebpf")
except DetbuildError as error: show(said=str(error))
""")
    assert seen["said"].startswith("the daemon's BPF does not hold this process: clock_gettime(2) returned ")


def test_a_session_that_the_daemon_refuses_leaves_the_process_as_it_was(daemon: Any) -> None:
    seen = task("""
try: attach(666, engine="ebpf")
except DetbuildError as error: show(said=str(error), seccomp=seccomp())
""")
    assert seen["said"].startswith("this kernel has had enough")
    assert seen["seccomp"] == "0"


@pytest.mark.parametrize("call", ["process_vm_readv", "process_vm_writev"])
def test_an_outer_filter_that_hides_memory_is_named_and_the_process_left_as_it_was(daemon: Any, call: str) -> None:
    seen = task(f"""
from detbuild.linux import seccomp
from detbuild.linux.x86_64 import NATIVE
code = seccomp.Assembler()
code.load(seccomp.NR)
code.jump_equal(NATIVE.numbers[{call!r}], "refuse")
code.ret(seccomp.RET_ALLOW)
code.label("refuse")
code.ret(seccomp.RET_ERRNO | 1)
seccomp.install(code.assemble())
def filters(): return [line for line in open("/proc/self/status") if line.startswith("Seccomp_filters:")]
before = filters()
try: attach(EPOCH, engine="ebpf")
except DetbuildError as error: show(said=str(error), same=filters() == before)
""")
    assert seen["said"].startswith("the kernel refused process_vm_readv or process_vm_writev (Operation not permitted)")
    assert seen["same"]
    assert wait_for(lambda: "closed" in daemon.log)


def test_a_session_within_one_is_the_outer_one(daemon: Any) -> None:
    seen = task("""
ebpf._prove = lambda epoch: None
outer = attach(EPOCH, engine="ebpf")
inner = attach(EPOCH + 5, engine="ebpf")
show(same=inner.engine_pid == outer.engine_pid, audit=inner.close().to_dict())
""")
    assert seen["same"]
    assert [gap["kind"] for gap in seen["audit"]["gaps"]] == ["outer session"]


def test_a_tracers_session_within_one_is_the_outer_one_too(daemon: Any) -> None:
    seen = task("""
ebpf._prove = lambda epoch: None
outer = attach(EPOCH, engine="ebpf")
inner = attach(EPOCH + 5, engine="tracer")
show(same=inner.engine_pid == outer.engine_pid, audit=inner.close().to_dict())
""")
    assert seen["same"]
    assert [gap["kind"] for gap in seen["audit"]["gaps"]] == ["outer session"]


def test_the_daemon_may_be_replaced_while_a_session_runs(daemon: Any) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROLOGUE
            + """
ebpf._prove = lambda epoch: None
attached = attach(EPOCH, engine="ebpf")
show(open=True)
sys.stdin.readline()
out = subprocess.run(["perl", "-e", "print syscall(201, 0)"], capture_output=True, text=True).stdout
show(out=out, audit=attached.close().to_dict())
""",
            str(LIBRARY),
            str(Path(__file__).parent),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    assert json.loads(process.stdout.readline())["open"]
    daemon.stop(9)
    daemon.start()
    out, _ = process.communicate("\n", timeout=120)
    seen = json.loads(out)
    assert seen["out"] == "1300000000"
    assert seen["audit"]["gaps"] == []
    assert "resumed by process" in daemon.log


def test_when_the_supervisor_is_killed_the_daemon_ends_its_programs(daemon: Any) -> None:
    seen = task("""
import signal
ebpf._prove = lambda epoch: None
attached = attach(EPOCH, engine="ebpf")
child = subprocess.Popen(["sleep", "1000"])
os.kill(attached.engine_pid, signal.SIGKILL)
code = child.wait(timeout=120)
try: attached.close()
except DetbuildError as error: show(code=code, said=str(error))
""")
    assert seen["code"] == -9
    assert "engine died" in seen["said"]
