# SPDX-License-Identifier: MIT
"""What this machine can do for detbuild: findings about the kernel and the tools, and the engine that follows.

Every check degrades to an unknown that says why; none raises. ``root`` stands for / and is another directory in
tests only.
"""

from __future__ import annotations

import ctypes
import grp
import gzip
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detbuild import __version__
from detbuild.daemon import config as configuration
from detbuild.daemon import machine
from detbuild.engine import detbuildd, select
from detbuild.errors import DaemonError, DetbuildError, EngineUnavailable
from detbuild.linux.libc import libc, oserror
from detbuild.session import Session

FORMAT = "detbuild-doctor"
VERSION = 1
CLONE_NEWUSER = 0x10000000
TRIAL_EPOCH = 86400
TRIAL_SECONDS = 20


@dataclass(frozen=True)
class Finding:
    """One fact: ``good`` is None where it is unknown or neither good nor bad; ``note`` says why or what to do."""

    name: str
    value: str
    good: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything found. ``engine`` is what ``auto`` takes, "" where no engine works; ``why`` says why."""

    findings: tuple[Finding, ...]
    engines: tuple[select.Candidate, ...]
    engine: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, with the format's name and version."""
        return {"format": FORMAT, "version": VERSION, "detbuild": __version__, **asdict(self)}


def examine(root: Path = Path("/")) -> Report:
    """Look at everything. Tries an engine by running a program under it, which takes a fraction of a second."""
    engines = tuple(_try(candidate) for candidate in select.candidates())
    findings = tuple(_degrade(check, root) for check in CHECKS)
    chosen = next((engine for engine in engines if engine.usable), None)
    return Report(findings, engines, chosen.name if chosen else "", _why(engines, chosen))


def _why(engines: tuple[select.Candidate, ...], chosen: select.Candidate | None) -> str:
    if chosen is None:
        return "no engine works here"
    better = [engine.name for engine in engines[: engines.index(chosen)]]
    if better:
        return f"it is the best that works here; {', '.join(better)} would be preferred"
    return "it works here" if len(engines) == 1 else "it works here and is preferred"


def _try(candidate: select.Candidate) -> select.Candidate:
    """A candidate is believed only after a program under it has seen the epoch."""
    if not candidate.usable:
        return candidate
    program = [sys.executable, "-I", "-S", "-c", "import time; print(int(time.time()))"]
    try:
        done = Session(epoch=TRIAL_EPOCH, engine=candidate.name).run(
            program, capture_output=True, text=True, timeout=TRIAL_SECONDS
        )
    except (DetbuildError, OSError, ValueError) as error:
        remedy = error.remedy if isinstance(error, DetbuildError) else ""
        return select.Candidate(candidate.name, False, f"a trial session failed: {error}", remedy)
    # The fixed clock may have moved on while Python started.
    if done.stdout.strip().isdigit() and TRIAL_EPOCH <= int(done.stdout) < TRIAL_EPOCH + 60:
        return candidate
    said = (done.stdout + done.stderr).strip()[-200:]
    return select.Candidate(
        candidate.name, False, f"in a trial session a program should see second {TRIAL_EPOCH}, and said {said!r}"
    )


def _degrade(check: Callable[[Path], Finding], root: Path) -> Finding:
    try:
        return check(root)
    except Exception as error:  # whatever one check meets, the others still have something to say
        return Finding(check.__name__.replace("_", " "), f"unknown: {error}")


def kernel(root: Path) -> Finding:
    return Finding("kernel", f"{platform.release()} {platform.machine()}")


def preemption(root: Path) -> Finding:
    """The model in force; only root may read it where it can be switched at run time."""
    name = "preemption"
    try:
        models = (root / "sys/kernel/debug/sched/preempt").read_text()
        return Finding(name, re.findall(r"\((\w+)\)", models)[0])
    except (OSError, IndexError):
        pass
    asked = re.findall(r"(?:^|\s)preempt=(\w+)", _read(root / "proc/cmdline"))
    if asked:
        return Finding(name, asked[-1], note="from the kernel's command line")
    build = _read(root / "proc/version")
    dynamic = "PREEMPT_DYNAMIC" in build
    built = _built_preemption(root)
    if built:
        note = "as built; it can be switched, and only root can see it" if dynamic else "as built"
        return Finding(name, built, note=note)
    if "PREEMPT_RT" in build:
        return Finding(name, "rt")
    if dynamic:
        return Finding(name, "unknown: it can be switched, and the kernel's debugfs cannot be read here")
    return Finding(name, "full" if " PREEMPT " in build else "none or voluntary")


def _built_preemption(root: Path) -> str:
    config = _read(root / f"boot/config-{platform.release()}")
    if not config and (root / "proc/config.gz").exists():
        config = gzip.decompress((root / "proc/config.gz").read_bytes()).decode()
    models = {"PREEMPT_RT": "rt", "PREEMPT_LAZY": "lazy", "PREEMPT": "full", "PREEMPT_VOLUNTARY": "voluntary"}
    for option, model in {**models, "PREEMPT_NONE": "none"}.items():
        if f"\nCONFIG_{option}=y\n" in config:
            return model
    return ""


def lockdown(root: Path) -> Finding:
    try:
        text = (root / "sys/kernel/security/lockdown").read_text()
    except FileNotFoundError:
        return Finding("lockdown", "unknown: no lockdown module, or securityfs is not mounted")
    mode = re.findall(r"\[(\w+)\]", text)[0]
    note = "" if mode == "none" else "BPF may not change a program's memory; ptrace is not affected: use the tracer"
    return Finding("lockdown", mode, note=note)


def btf(root: Path) -> Finding:
    if (root / "sys/kernel/btf/vmlinux").exists():
        return Finding("BTF", "found")
    return Finding("BTF", "not found", note="the daemon needs a kernel with CONFIG_DEBUG_INFO_BTF; the tracer does not")


def ptrace_scope(root: Path) -> Finding:
    try:
        scope = int((root / "proc/sys/kernel/yama/ptrace_scope").read_text())
    except FileNotFoundError:
        return Finding("ptrace scope", "no Yama", True)
    note = "" if scope < 2 else "as root: sysctl kernel.yama.ptrace_scope=1"
    return Finding("ptrace scope", str(scope), scope < 2, note)


def seccomp(root: Path) -> Finding:
    actions = (root / "proc/sys/kernel/seccomp/actions_avail").read_text().split()
    active = re.findall(r"^Seccomp:\s*(\d)", _read(root / "proc/self/status"), re.M)
    note = "this process is already under a filter, of a container perhaps" if active == ["2"] else ""
    return Finding("seccomp", " ".join(actions), "trace" in actions, note)


def user_namespaces(root: Path) -> Finding:
    """BitBake takes the network from a task with one. Tried in a child, since there is no way back."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if libc.unshare(ctypes.c_int(CLONE_NEWUSER)) < 0:
                os.write(writer, str(oserror("unshare")).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, errors="replace") as pipe:
        refusal = pipe.read()
    os.waitpid(pid, 0)
    note = "OE-Core wants them; AppArmor or the container's profile may forbid them" if refusal else ""
    return Finding("user namespaces", refusal or "allowed", not refusal, note)


def bcc(root: Path) -> Finding:
    there = importlib.util.find_spec("bcc") is not None
    note = "" if there else "only the daemon needs it: apt-get install python3-bpfcc, for /usr/bin/python3"
    return Finding("BCC", "found" if there else "not found", note=note)


def daemon(root: Path) -> Finding:
    """Asked as a session would ask it; where none serves, what would keep one from starting."""
    try:
        with detbuildd.connect(_socket(root)) as peer:
            hello = detbuildd.ask(peer, "hello")
    except EngineUnavailable as error:
        return Finding("daemon", error.refused, note=_obstacle(root) or error.remedy)
    return Finding("daemon", f"serves, release {hello.get('release')}, process {hello.get('pid')}", True)


def _obstacle(root: Path) -> str:
    """As root, also what this process lacks: a daemon that it starts has no more."""
    own = (machine.check_capabilities, machine.check_namespace) if os.geteuid() == 0 else ()
    for check in (machine.check_lockdown, machine.check_btf, machine.check_bcc, *own):
        try:
            check(root)
        except DaemonError as error:
            return f"it could not start here: {error}"
    return ""


def daemon_group(root: Path) -> Finding:
    """Whether this user may talk to the daemon: by the socket's group, or the usual one's."""
    name = "daemon's group"
    socket = _socket(root)
    if os.geteuid() == 0:
        # A rootless container's root is an ordinary user outside.
        if os.path.exists(socket) and not os.access(socket, os.W_OK):
            note = "run the container with podman's --group-add keep-groups, under the runtime crun"
            return Finding(name, "not in it, and root in a user namespace alone", note=note)
        return Finding(name, "root needs none", True)
    try:
        group = grp.getgrgid(os.stat(socket).st_gid)
    except (OSError, KeyError):
        if os.access(socket, os.W_OK):  # a container knows groups by their numbers
            return Finding(name, "in one that has no name here", True)
        try:
            group = grp.getgrnam(configuration.Config.group)
        except KeyError:
            known = configuration.Config.group
            return Finding(name, f"there is no group {known}", note=f"as root, groupadd --system {known}")
    if group.gr_gid in {os.getegid(), *os.getgroups()}:
        return Finding(name, f"in {group.gr_name}", True)
    return Finding(name, f"not in {group.gr_name}", note=f"as root, usermod -a -G {group.gr_name} USER; log in again")


def _socket(root: Path) -> str:
    return str(root / detbuildd.path().lstrip("/"))


def bitbake(root: Path) -> Finding:
    program = shutil.which("bitbake")
    if program:
        return Finding("BitBake", program, True)
    if importlib.util.find_spec("bb"):
        return Finding("BitBake", "its library alone", True, "enough for scripts/quickstart, not for a build")
    return Finding("BitBake", "not found", None, "source oe-init-build-env first, if you mean to build")


def diffoscope(root: Path) -> Finding:
    program = shutil.which("diffoscope") or shutil.which("diffoscope", path=os.path.dirname(sys.executable))
    if program:
        return Finding("diffoscope", program, True)
    return Finding("diffoscope", "not found", False, "apt-get install diffoscope, or pip install diffoscope")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


CHECKS = (
    kernel,
    preemption,
    lockdown,
    btf,
    ptrace_scope,
    seccomp,
    user_namespaces,
    bcc,
    daemon,
    daemon_group,
    bitbake,
    diffoscope,
)
