"""What docs/daemon.md claims of containers, with its own options: docker's and podman's defaults otherwise."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import containers
from claims_as_a_user import session
from containers import USER, Manager
from hand import EPOCH, PLACE, State

from daemon import PINS
from detbuild import Session
from detbuild.engine import detbuildd
from detbuild.errors import EngineUnavailable

SOCKET = ("-v", "/run/detbuild:/run/detbuild")
AS_USER = ("--user", f"{USER}:{USER}")
# Docker before release 23 forbids process_vm_readv(2) without it.
PTRACE = ("--cap-add", "SYS_PTRACE")
DAEMON = (
    "--privileged", "--pid=host", *SOCKET, "-v", "/etc/group:/etc/group:ro",
    "-v", "/sys/fs/bpf:/sys/fs/bpf", "-v", "/sys/kernel/debug:/sys/kernel/debug",
    "-v", "/sys/kernel/tracing:/sys/kernel/tracing",
)  # fmt: skip
NAME = "detbuildd"  # of the daemon's container
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
PROFILE = Path("/usr/share/containers/seccomp.json")
_STARTS = 600.0  # seconds, of which an emulated compiler takes most

# Reads by BPF and by the supervisor, of a grandchild, and of a program without a loader.
_COMMAND = f"date +%s; perl -e 'print time, qq(\\n)'; (date +%s); {PLACE}/programs/static plain time | cut -d' ' -f1"
_READS = {("date", "clock_gettime", "fixed"), ("perl", "time", "fixed"), ("static", "time", "fixed")}


def a_docker_container_has_sessions_by_the_daemons_socket(state: State) -> None:
    docker = containers.docker()
    YAMA.write_text("1")
    try:
        _holds(docker, *PTRACE)
    finally:
        YAMA.write_text("0")
    _works(docker, *PTRACE, *AS_USER, "--group-add", _group())
    _refused(docker, "this user may not talk to the daemon", *PTRACE, *AS_USER)


def a_profile_that_hides_memory_opens_no_session(state: State) -> None:
    profile = _profile()
    for row in profile["syscalls"]:
        row["names"] = [name for name in row["names"] if not name.startswith("process_vm_")]
    refusal = "the kernel refused process_vm_readv or process_vm_writev (Operation not permitted)"
    _refused(containers.docker(), refusal, *_under(profile))


def a_podman_container_has_sessions_by_the_daemons_socket(state: State) -> None:
    podman = containers.podman()
    _works(podman, "--runtime", "crun")
    _holds(podman, "--runtime", "runc", *AS_USER, "--group-add", _group())


def a_rootless_container_has_sessions_where_crun_keeps_the_users_groups(state: State) -> None:
    rootless = containers.rootless()
    _works(rootless, "--group-add", "keep-groups")
    _refused(rootless, "this user may not talk to the daemon", "--runtime", "runc", "--group-add", "keep-groups")


def a_container_needs_another_seccomp_profile_for_the_rule_layout(state: State) -> None:
    profile = _profile()
    layout = {"index": 0, "value": 0x40000, "valueTwo": 0, "op": "SCMP_CMP_EQ"}
    profile["syscalls"].append({"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [layout]})
    for manager, options in ((containers.docker(), PTRACE), (containers.podman(), ())):
        _refused(manager, "the kernel refused a fixed address layout", *options, policy="strict")
        _holds(manager, *options, *_under(profile), policy="strict")
    _holds(containers.podman(), policy="strict -layout")


def daemons_in_containers_serve_the_machine_and_take_over_from_others(state: State) -> None:
    docker, podman = containers.docker(), containers.podman()
    within = Session(EPOCH, engine="ebpf")
    process = within.Popen(["sh", "-c", "echo up; read x; date +%s"], stdin=PIPE, stdout=PIPE, text=True, cwd="/")
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    state.daemon.kill()
    try:
        with _daemon_in(podman):
            out, _ = process.communicate("\n", timeout=400)
            assert out == f"{EPOCH}\n", out
            assert not within.audit.gaps, dict(within.audit.gaps)
            # Emulated, its end takes nearly the ten seconds after which it is killed.
            assert podman.ask("stop", "-t", "200", NAME).returncode == 0
            log = podman.ask("logs", NAME)
            assert log.stderr.endswith("stopped\n"), log
            assert not list(PINS.iterdir())
        with _daemon_in(docker):
            assert session(["sh", "-c", _COMMAND])[0].split() == [str(EPOCH)] * 4
            _holds(docker, *PTRACE, *AS_USER, "--group-add", _group())
            links = sum(1 for _ in PINS.glob("*/links/*"))
            assert docker.ask("kill", NAME).returncode == 0
            assert sum(1 for _ in PINS.glob("*/links/*")) == links > 0
    finally:
        problem = state.daemon.start()
    assert not problem, problem
    assert session(["date", "+%s"])[0] == f"{EPOCH}\n"


def _profile() -> dict[str, Any]:
    """The one of docker and podman, as podman's package installs it."""
    return dict(json.loads(PROFILE.read_text()))


def _under(profile: dict[str, Any]) -> list[str]:
    path = PLACE / "seccomp.json"
    path.write_text(json.dumps(profile))
    return ["--security-opt", f"seccomp={path}"]


def _group() -> str:
    return str(os.stat(detbuildd.SOCKET).st_gid)


def _works(manager: Manager, *options: str) -> None:
    """The doctor believes in the engine there, and a session holds what its command reads."""
    doctor = _holds(manager, *options, first="detbuild doctor && ")
    assert "\nok  daemon's group   " in doctor, doctor
    assert "\nok  engine ebpf      works\n" in doctor, doctor
    assert "\nauto takes ebpf: " in doctor, doctor


def _holds(manager: Manager, *options: str, policy: str = "time", first: str = "") -> str:
    """What is printed before the session: each start of a container takes an emulated machine ten seconds."""
    run = ["detbuild", "run", "--engine", "ebpf", "--epoch", str(EPOCH), "--policy", policy, "--audit", "/tmp/audit"]
    command = ["sh", "-c", first + '"$@" && cat /tmp/audit', "sh", *run, "--", "sh", "-c", _COMMAND]
    result = manager.run(*command, options=[*SOCKET, *options])
    printed, _, rest = result.stdout.partition("{")
    assert printed.split()[-4:] == [str(EPOCH)] * 4, (options, result.stdout, result.stderr)
    audit = json.loads("{" + rest)
    assert audit["engine"] == "ebpf", audit
    assert not audit["gaps"], audit["gaps"]
    reads = {(os.path.basename(read["program"]), read["source"], read["outcome"]) for read in audit["reads"]}
    assert reads >= _READS, reads
    return printed


def _refused(manager: Manager, refusal: str, *options: str, policy: str = "time") -> None:
    command = ["detbuild", "run", "--engine", "ebpf", "--epoch", str(EPOCH), "--policy", policy, "--", "echo", "it ran"]
    result = manager.run(*command, options=[*SOCKET, *options])
    assert result.returncode == 125, (options, result)
    assert refusal in result.stderr, (options, result.stderr)
    assert not result.stdout, result.stdout


@contextmanager
def _daemon_in(manager: Manager) -> Iterator[None]:
    """The documented daemon in a container, for a while."""
    manager.start(NAME, "detbuildd", "--foreground", options=DAEMON)
    try:
        _await(manager)
        yield
    finally:
        manager.ask("rm", "-f", NAME)


def _await(manager: Manager) -> None:
    end = time.monotonic() + _STARTS
    while time.monotonic() < end:
        try:
            detbuildd.connect(seconds=1).close()
            return
        except EngineUnavailable:
            time.sleep(0.5)
        if manager.ask("inspect", "--format", "{{.State.Running}}", NAME).stdout.strip() != "true":
            break
    log = manager.ask("logs", NAME)
    raise AssertionError(f"the container's daemon does not serve: {log.stdout}{log.stderr}")
