# SPDX-License-Identifier: MIT
"""What a machine must have for the daemon's BPF programs, and what to do where it has it not.

``root`` stands for / and is another directory in tests only.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path

from detbuild.errors import DaemonError

# linux/capability.h
CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_SYS_PTRACE": 19, "CAP_DAC_READ_SEARCH": 2, "CAP_KILL": 5}
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, linux/proc_ns.h


def lockdown(root: Path = Path("/")) -> str:
    """integrity, confidentiality or none, which it is too where nothing can be read."""
    mode = re.findall(r"\[(\w+)\]", _read(root / "sys/kernel/security/lockdown"))
    return str(mode[0]) if mode else "none"


def check_lockdown(root: Path = Path("/")) -> None:
    """Each check raises DaemonError."""
    mode = lockdown(root)
    if mode != "none":
        raise DaemonError(
            f"the kernel is locked down ({mode}), and lets no BPF program write to a program's memory",
            cause="Secure Boot turns that on",
            remedy="let builds use the tracer; or turn Secure Boot off, if you may",
        )


def check_btf(root: Path = Path("/")) -> None:
    if not (root / "sys/kernel/btf/vmlinux").exists():
        raise DaemonError(
            "this kernel carries no BTF: there is no /sys/kernel/btf/vmlinux",
            remedy="use a kernel with CONFIG_DEBUG_INFO_BTF, as Debian's, Ubuntu's and Fedora's are; or the tracer",
        )


def check_bcc(root: Path = Path("/")) -> None:
    if importlib.util.find_spec("bcc") is None:
        raise DaemonError(
            "BCC is missing for this Python",
            cause="it exists as a distribution's package for /usr/bin/python3 alone",
            remedy="apt-get install python3-bpfcc, and run scripts/detbuildd or /usr/bin/python3 -m detbuild.daemon",
        )


def check_root(root: Path = Path("/")) -> None:
    if os.geteuid() != 0:
        raise DaemonError("only root can load BPF programs that write to memory", remedy="run it with sudo")


def check_capabilities(root: Path = Path("/")) -> None:
    """bpf_probe_write_user wants CAP_SYS_ADMIN, no less; the others are to know, and to kill, other users' tasks."""
    held = re.findall(r"^CapEff:\s*([0-9a-f]+)", _read(root / "proc/self/status"), re.M)
    lacking = [name for name, bit in CAPABILITIES.items() if held and not int(held[0], 16) >> bit & 1]
    if lacking:
        raise DaemonError(
            f"this process lacks {', '.join(lacking)}",
            cause="a container or a unit takes it away",
            remedy="docker run --privileged --pid=host; see docs/daemon.md",
        )


def check_namespace(root: Path = Path("/")) -> None:
    """BPF counts processes in the first pid namespace, and so must the daemon."""
    try:
        inode = (root / "proc/self/ns/pid").stat().st_ino
    except OSError:
        return
    if inode != _FIRST_PID_NAMESPACE:
        raise DaemonError(
            "the daemon runs in a pid namespace of its own, and cannot know the machine's processes",
            cause="it was started in a container",
            remedy="start the container with --pid=host, or the daemon outside",
        )


CHECKS: tuple[Callable[[Path], None], ...] = (
    check_root,
    check_lockdown,
    check_btf,
    check_bcc,
    check_capabilities,
    check_namespace,
)


def check() -> None:
    """Raise DaemonError for the first thing that is missing."""
    for each in CHECKS:
        each(Path("/"))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
