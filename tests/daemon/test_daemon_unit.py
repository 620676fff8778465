"""The unit, the example of a configuration and the manual say what the daemon does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from daemons import NOBODY, Daemon, as_user, child, executor, needs_root, open_session
from fake import EXECUTES_EPOCH

from detbuild.daemon import config, machine
from detbuild.engine import detbuildd

TOP = Path(__file__).resolve().parents[2]
FILES = TOP / "recipes-devtools/detbuildd/files"
SERVICE = (FILES / "detbuildd.service").read_text()
SETTINGS = dict(re.findall(r"^([A-Za-z]+)=(.*)$", SERVICE, re.M))
LEFT = frozenset(SETTINGS["CapabilityBoundingSet"].split())
USER = 12345


def test_the_example_configuration_holds_the_defaults() -> None:
    text = re.sub(r"^#(\w+:|  )", r"\1", (FILES / "detbuildd.yaml").read_text(), flags=re.M)
    assert config.parse(yaml.safe_load(text)) == config.Config()
    assert set(yaml.safe_load(text)) == set(asdict(config.Config()))
    assert set(yaml.safe_load(text)["limits"]) == set(asdict(config.Limits()))


def test_the_example_as_it_stands_changes_nothing() -> None:
    assert config.load(FILES / "detbuildd.yaml", required=True) == config.Config()


def test_the_manual_has_every_key_with_its_default() -> None:
    manual = (TOP / "docs/daemon.md").read_text()
    known = asdict(config.Config())
    limits = known.pop("limits")
    for key, value in known.items():
        assert f"| `{key}` | `{value}` |" in manual
    for key, value in limits.items():
        row = re.search(rf"^\| `limits:` `{key}` \| {value} \| (.*) \|$", manual, re.M)
        assert row, key
        assert "{} to {}".format(*config.RANGES[key]) in row[1]


def test_the_socket_unit_listens_where_clients_look() -> None:
    unit = (FILES / "detbuildd.socket").read_text()
    assert f"ListenStream={detbuildd.SOCKET}\n" in unit
    assert "SocketMode=0660\n" in unit
    assert f"SocketGroup={config.Config.group}\n" in unit


def test_the_unit_leaves_what_the_daemon_needs_and_explains_each_capability() -> None:
    assert set(machine.CAPABILITIES) <= LEFT
    for name in LEFT:
        assert re.search(rf"^#   {name} ", SERVICE, re.M), name


@contextmanager
def confined(capabilities: frozenset[str]) -> Iterator[Daemon]:
    """A daemon with no other capabilities, as the unit starts it."""
    assert SETTINGS["NoNewPrivileges"] == "yes"
    with tempfile.TemporaryDirectory(prefix="detbuildd-") as name:
        os.chmod(name, 0o755)
        with Daemon(Path(name), group=NOBODY, capabilities=capabilities) as daemon:
            yield daemon


def opened(daemon: Daemon, **fields: int) -> str:
    """What a user's process that executes a program when it is told to is answered: "ready", or why not."""

    def work() -> str:
        with executor("/bin/sleep") as opener, child() as supervisor, daemon.client() as peer:
            answer = open_session(peer, opener.pid, supervisor.pid, **fields)
            return str(answer.get("refused", answer["kind"])).replace(str(opener.pid), "PID")

    return str(as_user(USER, work))


@needs_root
def test_with_the_units_capabilities_the_daemon_sees_what_a_users_process_executes() -> None:
    with confined(LEFT) as daemon:
        assert opened(daemon) == "ready"
        refusal = "process PID executed a program while it was put into a session"
        assert opened(daemon, epoch=EXECUTES_EPOCH) == refusal


@needs_root
def test_a_daemon_that_cannot_see_what_a_process_executes_refuses_it() -> None:
    with confined(LEFT - {"CAP_DAC_READ_SEARCH"}) as daemon:
        assert opened(daemon) == "the auxiliary vector of process PID cannot be read (Permission denied)"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for path in FILES.glob("detbuildd.s*"):
        (tmp_path / path.name).write_text(path.read_text().replace("/usr/bin/detbuildd", "/bin/true"))
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
