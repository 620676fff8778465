# SPDX-License-Identifier: MIT
"""The daemon's configuration: a YAML file in which everything has a default and nothing unknown is let pass.

For example::

    group: builders
    limits:
      sessions_per_user: 64
    probes: kprobe
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from detbuild import plainyaml
from detbuild.engine import detbuildd
from detbuild.errors import DaemonError

PATH = Path("/etc/detbuild/detbuildd.yaml")
PROBES = ("auto", "fexit", "kprobe")


@dataclass(frozen=True)
class Settings:
    """What the BPF programs are loaded with.

    ``pins`` is a directory in a BPF file system. ``probes`` are fexit programs, kprobes, or what the kernel's
    preemption model asks for.
    """

    max_processes: int = 32768
    max_sessions: int = 4096
    pins: str = "/sys/fs/bpf/detbuild"
    probes: str = "auto"


@dataclass(frozen=True)
class Limits:
    """How much of the daemon there is in all, and for one user."""

    sessions: int = 4096
    sessions_per_user: int = 1024
    processes: int = 32768
    connections: int = 8192
    connections_per_user: int = 2048
    message: int = 65536  # bytes of one request


# The least and the most of each. A session has room for half of the processes, and a connection takes a descriptor.
RANGES = {
    "sessions": (1, 1 << 16),
    "sessions_per_user": (1, 1 << 16),
    "processes": (64, 1 << 20),
    "connections": (1, 1 << 16),
    "connections_per_user": (1, 1 << 16),
    "message": (1024, 1 << 24),
}


@dataclass(frozen=True)
class Config:
    """``state`` is the directory, for root alone, where a restarted daemon finds its sessions."""

    socket: str = detbuildd.SOCKET
    group: str = "detbuild"
    state: str = "/run/detbuild/sessions"
    pins: str = Settings.pins
    probes: str = Settings.probes
    limits: Limits = field(default_factory=Limits)

    @property
    def settings(self) -> Settings:
        return Settings(self.limits.processes, self.limits.sessions, self.pins, self.probes)


def load(path: Path = PATH, *, required: bool = False) -> Config:
    """The file's configuration; the defaults where there is no file and none is ``required``. Raises DaemonError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if not required:
            return Config()
        raise DaemonError(f"there is no configuration {path}", remedy="name another file with --config") from None
    except (OSError, UnicodeError) as error:
        raise DaemonError(f"cannot read the configuration {path}: {error}") from error
    try:
        data = plainyaml.load(text)
    except ValueError as error:
        raise DaemonError(f"the configuration {path} is not YAML: {error}") from error
    return parse(data)


def parse(data: Any) -> Config:
    """A configuration from what YAML says. Raises DaemonError for an unknown key or a value of the wrong kind."""
    values = _known(data, Config, "")
    if "limits" in values:
        values["limits"] = Limits(**_known(values["limits"], Limits, "limits."))
    for name in ("socket", "state", "pins"):
        if name in values and not values[name].startswith("/"):
            raise DaemonError(f"the configuration's {name} is {values[name]!r}", remedy="write an absolute path")
    config = Config(**values)
    if config.probes not in PROBES:
        raise DaemonError(
            f"the configuration's probes cannot be {config.probes!r}", remedy=f"the known ones are: {', '.join(PROBES)}"
        )
    return config


def _known(data: Any, kind: type[Config] | type[Limits], prefix: str) -> dict[str, Any]:
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise DaemonError(
            f"the configuration's {prefix.rstrip('.') or 'content'} is not a mapping",
            remedy="write lines of KEY: VALUE",
        )
    known, values = {each.name: each for each in fields(kind)}, dict(data)
    for key, value in data.items():
        if key not in known:
            raise DaemonError(
                f"the configuration has no key {prefix}{key}", remedy=f"the known keys are: {', '.join(known)}"
            )
        wanted = {"str": str, "int": int}.get(str(known[key].type))
        if key == "group" and type(value) is int:
            values[key] = str(value)
        elif wanted is str and (not isinstance(value, str) or not value):
            raise DaemonError(f"the configuration's {prefix}{key} is a text, not {value!r}", remedy="put it in quotes")
        if wanted is int:
            least, most = RANGES[key]
            if type(value) is not int or not least <= value <= most:
                raise DaemonError(
                    f"the configuration's {prefix}{key} is a number from {least} to {most}, not {value!r}",
                    remedy="write a number",
                )
    return values
