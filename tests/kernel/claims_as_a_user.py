"""What is claimed of the engine as a user meets it: by the daemon, the supervisor and the BPF programs together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hand import EPOCH, LATER, PLACE, State, read_clock

import sources
from conftest import wait_for
from daemon import PINS
from detbuild import Session
from detbuild.engine import detbuildd
from detbuild.errors import EngineDied, EngineUnavailable


def session(command: list[str], epoch: int = EPOCH, policy: str = "time", **options: Any) -> tuple[str, Session]:
    """What a command writes in a session of its own under the engine, which must have held everything."""
    within = Session(epoch, policy, "ebpf")
    result = within.run(command, stdout=subprocess.PIPE, text=True, timeout=400, check=True, cwd="/", **options)
    assert not within.audit.gaps, dict(within.audit.gaps)
    return result.stdout, within


def program(name: str) -> str:
    return str(PLACE / "programs" / name)


def a_command_sees_the_epoch_and_the_audit_names_it(state: State) -> None:
    out, within = session(["sh", "-c", "date +%s; perl -e 'print time'"])
    assert out.split() == [str(EPOCH)] * 2
    reads = {(os.path.basename(read.program), read.source, read.outcome) for read in within.audit.reads}
    assert reads == {("date", "clock_gettime", "fixed"), ("perl", "time", "fixed")}, reads


def a_session_that_observes_changes_nothing_and_reports_every_read(state: State) -> None:
    path = PLACE / "seen"
    path.write_text("seen\n")
    script = f"date +%s; perl -e 'print time, qq(\\n)'; stat -c %Y {path}; uname -n; (date +%s)"
    out, within = session(["sh", "-c", script], policy="observe")
    *moments, node, moment = out.split()
    assert all(int(each) > LATER for each in (*moments, moment)), out
    assert node == os.uname().nodename
    reads = {(os.path.basename(read.program), read.source, read.outcome) for read in within.audit.reads}
    seen = {("date", "clock_gettime"), ("perl", "time"), ("stat", "statx"), ("uname", "uname")}
    assert {(*each, "leaked") for each in seen} <= reads, reads
    assert "fixed" not in {outcome for *_, outcome in reads}, reads


def a_program_that_makes_keys_has_real_random_numbers(state: State) -> None:
    _, within = session(["sh", "-c", "openssl rand -hex 8; true"], policy="strict")
    reads = {(os.path.basename(read.program), read.outcome) for read in within.audit.reads if "rand" in read.source}
    assert ("openssl", "leaked") in reads, reads
    assert ("openssl", "fixed") not in reads, reads


def _shown(path: Path) -> list[list[str]]:
    """What every kind of program is shown of a file: call, inode, size, and the four times, a row each call."""
    kinds = ("dynamic", "static", "dynamic32", "static32")
    out, _ = session(["sh", "-c", "; ".join(f"{program(f'file_times-{kind}')} show {path}" for kind in kinds)])
    rows = [line.split() for line in out.splitlines() if len(line.split()) == 7]
    assert len(rows) >= 40, out
    return rows


def every_stat_call_shows_the_epoch(state: State) -> None:
    path = PLACE / "young"
    path.write_text("young\n")
    wrong = [row for row in _shown(path) if set(row[3:]) - {"-", f"{EPOCH}.000000000", "0.000000000"}]
    assert not wrong, wrong


def an_older_time_is_shown_as_it_is(state: State) -> None:
    path = PLACE / "old"
    path.write_text("old\n")
    os.utime(path, ns=(1_200_000_000_123_456_789,) * 2)
    # The first stat calls of Linux know whole seconds only.
    rows = [row for row in _shown(path) if not row[0].startswith("old")]
    wrong = [row for row in rows if row[4] != "1200000000.123456789"]
    assert not wrong, wrong


def make_compares_true_times_and_what_it_runs_sees_shown_ones(state: State) -> None:
    place = PLACE / "make"
    place.mkdir()
    (place / "source").write_text("")
    (place / "Makefile").write_text("all: out\nout: source\n\t@stat -c %Y source | tee out\n")
    assert session(["make", "-s", "-C", str(place)])[0] == f"{EPOCH}\n"
    assert session(["make", "-s", "-C", str(place)])[0] == ""
    time.sleep(0.05)
    (place / "source").write_text("newer")
    assert session(["make", "-s", "-C", str(place)])[0] == f"{EPOCH}\n"


def a_loop_of_programs_that_waits_for_the_clock_ends(state: State) -> None:
    script = f"n=0; until [ $(date +%s) -gt {EPOCH + 2} ]; do n=$((n+1)); done; echo $n"
    assert session(["sh", "-c", script])[0] == "18\n"


def parallel_jobs_with_one_command_line_see_one_time(state: State) -> None:
    out, _ = session(["sh", "-c", "for i in $(seq 60); do date +%s & done; wait"])
    assert out.split() == [str(EPOCH)] * 60, out


def sessions_at_once_keep_their_own_epochs(state: State) -> None:
    epochs = [EPOCH + 1_000_000 * number for number in range(6)]
    script = "for i in 1 2 3 4 5; do date +%s; perl -e 'print time, \"\\n\"'; done"
    sessions = [Session(epoch, engine="ebpf") for epoch in epochs]
    running = [each.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, cwd="/") for each in sessions]
    outside = read_clock()
    for epoch, process in zip(epochs, running, strict=True):
        out, _ = process.communicate(timeout=400)
        assert out.split() == [str(epoch)] * 10, (epoch, out)
    assert outside > LATER * 1_000_000_000
    assert not [gap for each in sessions for gap in each.audit.gaps]


def of_1009_processes_in_one_session_each_is_counted(state: State) -> None:
    source = PLACE / "many.c"
    source.write_text(
        "#include <stdio.h>\n#include <sys/wait.h>\n#include <time.h>\n#include <unistd.h>\n"
        "int main(void) {\n  int status, early = 0; struct timespec t; int gate[2]; char c; pipe(gate);\n"
        "  for (int i = 0; i < 1009; i++) if (!fork()) {\n    close(gate[1]); read(gate[0], &c, 1);\n"
        f"    clock_gettime(0, &t); _exit(t.tv_sec != {EPOCH}); }}\n"
        "  close(gate[1]);\n  while (wait(&status) > 0) early += status != 0;\n"
        '  printf("%d\\n", early); return 0; }\n'
    )
    subprocess.run(["gcc", "-O1", "-w", "-o", PLACE / "many", source], check=True)
    out, within = session([str(PLACE / "many")])
    assert out == "0\n", out
    counts = {read.source: count for read, count in within.audit.reads.items()}
    assert counts == {"clock_gettime": 1009}, counts


_READER = """
import os, sys, time
print("up", flush=True)
while not os.path.exists(sys.argv[1]):
    child = os.fork()
    if not child:
        os._exit(time.time() > 1600000000)
    status, now = os.waitpid(child, 0)[1], time.time()
    if status or now > 1600000000:
        sys.exit(print(f"the child's status was {status}, and then it was {now}"))
    time.sleep(0.01)
print("fixed")
"""


@contextmanager
def _reader() -> Iterator[Session]:
    """A session whose processes read the clock all the time, and all that they read until its end was fixed."""
    done = PLACE / "done"
    within = Session(EPOCH, engine="ebpf")
    command = ["/usr/bin/python3", "-u", "-I", "-S", "-c", _READER, str(done)]
    process = within.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/")
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    yield within
    assert process.poll() is None, (process.communicate(), dict(within.audit.gaps))
    time.sleep(1)
    done.write_text("")
    out, _ = process.communicate(timeout=400)
    done.unlink()
    assert out == "fixed\n", out


def _another_daemon(state: State) -> None:
    problem = state.daemon.start()
    assert not problem, problem


def a_daemon_that_is_killed_lets_no_process_see_the_real_time(state: State) -> None:
    links = sum(1 for _ in PINS.glob("*/links/*"))
    with _reader() as within:
        state.daemon.kill()
        time.sleep(1)
        _another_daemon(state)
    assert not within.audit.gaps, dict(within.audit.gaps)
    assert links
    assert sum(1 for _ in PINS.glob("*/links/*")) == links
    assert session(["date", "+%s"])[0] == f"{EPOCH}\n"


def an_upgrade_leaves_sessions_to_the_programs_that_hold_them(state: State) -> None:
    """First to a daemon with other programs, which can read what is there; then to one that cannot, and says so."""
    [old] = PINS.iterdir()
    config = Path("/etc/detbuild/detbuildd.yaml")
    config.parent.mkdir(exist_ok=True)
    with _reader() as within:
        state.daemon.kill()
        config.write_text("limits:\n  processes: 20000\n")
        _another_daemon(state)
        assert session(["date", "+%s"])[0] == f"{EPOCH}\n"
        assert len(list(PINS.iterdir())) == 2
    assert not within.audit.gaps, dict(within.audit.gaps)
    assert sum(within.audit.reads.values()) > 1
    session(["true"])
    assert wait_for(lambda: len(list(PINS.iterdir())) == 1, 300)  # those held nobody any more
    [new] = PINS.iterdir()
    with _reader() as within:
        orphan = Session(EPOCH, engine="ebpf")
        sleeper = orphan.Popen(["sleep", "1000"], cwd="/")
        state.daemon.kill()
        config.unlink()
        _rename(new, "ffffffff_0123456789abcdef")
        _another_daemon(state)
        state.__dict__.pop("kernel", None)  # it was the old set
        assert session(["date", "+%s"])[0] == f"{EPOCH}\n"
        assert len(list(PINS.iterdir())) == 2
        os.kill(sleeper._connection.pid, signal.SIGKILL)  # type: ignore[union-attr]
        with _raises(EngineDied):
            sleeper.wait(timeout=200)
    [gap] = within.audit.gaps
    assert gap.kind == "daemon away", gap
    assert "another release" in gap.detail, gap
    session(["true"])
    assert wait_for(lambda: [path.name for path in PINS.iterdir()] == [old.name], 300)


def _rename(programs: Path, name: str) -> None:
    """As if a release of another shape had loaded them."""
    programs.rename(programs.with_name(name))
    for record in Path("/run/detbuild/sessions").glob("*.json"):
        record.write_text(record.read_text().replace(programs.name, name))


def a_session_that_ends_while_no_daemon_runs_says_so(state: State) -> None:
    within = Session(EPOCH, engine="ebpf")
    process = within.Popen(["sh", "-c", "echo up; read x; date +%s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           text=True, cwd="/")  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    state.daemon.kill()
    try:
        out, _ = process.communicate("\n", timeout=400)
        assert out == f"{EPOCH}\n", out
        kinds = {gap.kind for gap in within.audit.gaps}
        assert kinds == {"daemon away"}, dict(within.audit.gaps)
    finally:
        problem = state.daemon.start()
    assert not problem, problem


def a_supervisor_that_is_killed_takes_its_session_with_it(state: State) -> None:
    within = Session(EPOCH, engine="ebpf")
    process = within.Popen(["sleep", "100"], cwd="/")
    os.kill(process._connection.pid, signal.SIGKILL)  # type: ignore[union-attr]
    with _raises(EngineDied):
        process.wait(timeout=200)


@contextmanager
def _raises(kind: type[BaseException]) -> Iterator[None]:
    try:
        yield
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


def whoever_is_not_in_the_group_is_refused(state: State) -> None:
    script = "from detbuild.engine.ebpf import EbpfEngine; EbpfEngine.check()"
    command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--", "/usr/bin/python3", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=300)
    assert result.returncode
    assert "may not talk to the daemon" in result.stderr, result.stderr
    allowed = [word if word != "--clear-groups" else "--groups=detbuild" for word in command]
    subprocess.run(allowed, check=True, cwd="/", timeout=300)


def _refusal(opener: int, handle: int = -1) -> str:
    """What the daemon says to a wish to put a process into a session, "" where it does; the supervisor is our child.

    ``handle`` is a pidfd of the process, where it has ended.
    """
    supervisor = os.fork()
    if supervisor == 0:
        signal.pause()
    try:
        with detbuildd.connect() as peer, os.fdopen(os.pidfd_open(supervisor), "rb") as other:
            own = os.pidfd_open(opener) if handle < 0 else os.dup(handle)
            with os.fdopen(own, "rb"):
                fds = [own, other.fileno()]
                detbuildd.ask(peer, "open", fds=fds, tid=opener, epoch=EPOCH, policy="time", spare_root=False)
                detbuildd.ask(peer, "close")
    except EngineUnavailable as error:
        return error.refused
    finally:
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)
    return ""


@contextmanager
def _sleeper(uid: int = 0) -> Iterator[int]:
    """A child of ours that sleeps as a user, once it does."""
    process = subprocess.Popen(["sleep", "1000"], user=uid)
    try:
        assert wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _refusal_of_a_child(opener: int) -> tuple[int, str]:
    """A child of ours, and what the daemon says to it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, _refusal(opener).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return child, said


def nobody_is_put_into_a_session_by_a_stranger(state: State) -> None:
    kernel_thread = next(
        int(path.name) for path in Path("/proc").glob("[0-9]*") if (path / "comm").read_text() == "kthreadd\n"
    )
    with _sleeper() as own:
        child, said = _refusal_of_a_child(own)
        assert said == f"process {own} is no descendant of process {child}"
        assert _refusal(own) == ""  # ours it is
    assert _refusal(1) == "process 1 is never in a session"
    assert _refusal(kernel_thread) == f"process {kernel_thread} is a kernel thread"
    with _sleeper(uid=65534) as others:
        assert _refusal(others) == f"process {others} is not user 0's own, but of user 65534"
    dead = subprocess.Popen(["sleep", "100"])
    with os.fdopen(os.pidfd_open(dead.pid), "rb") as handle:
        dead.kill()
        dead.wait()
        assert _refusal(dead.pid, handle.fileno()) == "the process has ended"


def a_container_with_namespaces_of_its_own_has_sessions(state: State) -> None:
    """Its own pid, user and mount namespace; the socket is seen at another place, as when it is mounted in."""
    command = ["sh", "-c", "date +%s; perl -e 'print time, qq(\\n)'; (date +%s)"]
    script = (
        f"from detbuild import Session; s = Session({EPOCH}, engine='ebpf'); s.run({command!r}, check=True)\n"
        "assert not s.audit.gaps, s.audit.to_text()"
    )
    other = Path("/run/elsewhere")
    other.mkdir(exist_ok=True)
    shell = 'mount --bind /run/detbuild /run/elsewhere && export DETBUILD_SOCKET=/run/elsewhere/detbuildd.sock && "$@"'
    command = ["unshare", "-Urpfm", "--mount-proc", "sh", "-c", shell, "sh", "/usr/bin/python3", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=400)
    assert result.stdout.split() == [str(EPOCH)] * 3, (result.stdout, result.stderr)


def a_fakeroot_task_has_a_session(state: State) -> None:
    libraries, database = "/usr/lib/x86_64-linux-gnu/pseudo", PLACE / "pseudo"
    environment = {**os.environ, "PSEUDO_PREFIX": "/usr", "PSEUDO_LIBDIR": libraries, "LD_LIBRARY_PATH": libraries}
    environment["PSEUDO_LOCALSTATEDIR"] = str(database)
    database.mkdir()
    made = PLACE / "made"
    script = f"date +%s; perl -e 'print time, qq(\\n)'; touch {made}; chown 5:6 {made}; stat -c %u:%g {made}"
    detbuild = ["/usr/bin/python3", "-m", "detbuild", "run", "--engine", "ebpf", "--epoch", str(EPOCH), "--"]
    try:
        result = subprocess.run(
            ["pseudo", *detbuild, "sh", "-c", script], capture_output=True, text=True, check=False, cwd="/",
            env=environment, timeout=400,
        )  # fmt: skip
    finally:
        subprocess.run(["pseudo", "-S"], env=environment, check=False, timeout=200)
    assert result.stdout.split() == [str(EPOCH), str(EPOCH), "5:6"], result.stdout + result.stderr


_BITBAKE = """
import sys
from embedded import Build
place, here, layer = sys.argv[1:]
settings = 'INHERIT += "detbuild"\\nBBMASK = "/recipes-devtools/"\\n'
settings += 'DETBUILD_ENGINE = "ebpf"\\nDETBUILD_REQUIRE = "1"\\n'
result = Build(place, [here + "/examples/meta-quickstart", here, layer], settings).run("task", task="do_compile")
print(*result.messages, *(task.log for task in result.failed), sep="\\n")
sys.exit(result.exit_code)
"""


def a_task_of_bitbake_is_in_a_session_of_the_engine(state: State) -> None:
    place = PLACE / "bitbake"
    layer = place / "meta-task"
    (layer / "conf").mkdir(parents=True)
    (layer / "conf/layer.conf").write_text(
        'BBPATH .= ":${LAYERDIR}"\nBBFILES += "${LAYERDIR}/*.bb"\nBBFILE_COLLECTIONS += "task"\n'
        'BBFILE_PATTERN_task = "^${LAYERDIR}/"\nLAYERSERIES_COMPAT_task = "wrynose"\n'
    )
    (layer / "task_1.0.bb").write_text(
        f'LICENSE = "MIT"\nSRC_URI = ""\nS = "${{UNPACKDIR}}"\nSOURCE_DATE_EPOCH = "{EPOCH}"\n'
        "do_compile() {\n    date +%s > ${T}/seen\n    perl -e 'print time' >> ${T}/seen\n}\n"
    )
    words = [str(word) for word in (place / "build", PLACE, layer)]
    environment = {**os.environ, "PYTHONPATH": f"{PLACE / 'lib'}:{PLACE / 'examples'}"}
    result = subprocess.run(
        [sys.executable, "-c", _BITBAKE, *words], capture_output=True, text=True, check=False, cwd="/", env=environment
    )
    temp = place / "build/tmp/work/task/1.0/temp"
    assert result.returncode == 0, result.stdout + result.stderr
    assert (temp / "seen").read_text().split() == [str(EPOCH)] * 2
    record = json.loads((temp / "detbuild.do_compile.json").read_text())
    assert '"engine": "ebpf"' in json.dumps(record), record
    assert not record.get("gaps"), record
    seen = {(row["name"], *row["parents"]) for row in record["reads"]}
    assert {("date", "run.do_compile"), ("perl", "run.do_compile")} <= seen, record


def lua_built_twice_is_the_same(state: State) -> None:
    found = []
    for number in range(2):
        place = PLACE / f"lua-{number}"
        sources.unpack("lua5.4", place)
        # What no release build should hold: the moment of its compilation.
        with (place / "src/lua.c").open("a") as source:
            source.write('const char built[] = __DATE__ " " __TIME__;\n')
        within = Session(EPOCH, engine="ebpf")
        command = ["make", "-s", "-j2", "-C", str(place / "src"), "linux", "MYCFLAGS=-O0"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        within.run(command, check=True, timeout=1000, cwd=place, **quiet)
        assert not within.audit.gaps, dict(within.audit.gaps)
        binary = (place / "src/lua").read_bytes()
        assert b"Mar 13 2011 07:06:40" in binary
        found.append((binary, (place / "src/liblua.a").read_bytes()))
        place.rename(PLACE / f"lua-built-{number}")
        time.sleep(1)
    assert found[0] == found[1]
