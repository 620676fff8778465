"""A command's environment and umask are one for all under the rule identity, and the caller's under any other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

import pytest

from detbuild import Session, surroundings

CALLERS = (
    {"LC_ALL": "de_DE.UTF-8", "TZ": "Europe/Berlin", "USER": "ada", "HOME": "/h", "COLUMNS": "132", "PATH": "/bin"},
    {"PATH": "/bin", "LANG": "fr_FR", "LC_TIME": "C", "LANGUAGE": "fr", "USER": "eve", "LINES": "9", "HOME": "/h"},
)


def shown(policy: str, environment: Mapping[str, str], umask: int = 0o77) -> list[str]:
    session = Session(1_300_000_000, policy, "tracer")
    command = ["/bin/sh", "-c", "umask; exec env"] if umask != 0o77 else ["/usr/bin/env"]
    result = session.run(command, env=environment, umask=umask, stdout=subprocess.PIPE, check=True)
    return os.fsdecode(result.stdout).splitlines()


def test_two_callers_commands_have_one_environment() -> None:
    one, other = (shown("strict", caller) for caller in CALLERS)
    assert one == other == ["HOME=/h", "LC_ALL=C.UTF-8", "PATH=/bin", "TZ=UTC0", f"USER={surroundings.user()}"]


def test_two_callers_files_have_one_mode() -> None:
    assert shown("strict", CALLERS[0], 0o27)[0] == shown("strict", CALLERS[0], 0o2)[0] == "0022"


@pytest.mark.parametrize("policy", ["time", "strict -identity", "observe"])
def test_without_the_rule_a_command_has_its_callers_environment(policy: str) -> None:
    for caller in CALLERS:
        assert shown(policy, caller) == [f"{name}={value}" for name, value in caller.items()]
    assert shown(policy, CALLERS[0], 0o27)[0] == "0027"


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_a_locale_that_every_machine_has_is_kept(locale: str) -> None:
    assert b"LC_ALL=%b" % locale.encode() in surroundings.fixed([b"LC_ALL=" + locale.encode(), b"LANG=de_DE"])


def test_who_is_not_root_is_the_builder_that_the_password_file_tells_of() -> None:
    def become() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)

    if os.geteuid():
        pytest.skip("only root can become somebody else")
    script = "import os, pwd; print(os.environ['USER'], pwd.getpwuid(os.geteuid()).pw_name)"
    result = Session(1_300_000_000, "strict", "tracer").run(
        ["/usr/bin/python3", "-I", "-S", "-c", script],
        env={"USER": "ada"}, preexec_fn=become, cwd="/", stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    assert result.stdout == b"builder builder\n"


def test_entries_without_a_name_stay_and_the_first_of_two_stays_the_first() -> None:
    given = [b"b=2", b"a=1", b"b=1", b"nonsense", b"LC_ALL=C", b"=x"]
    assert surroundings.fixed(given) == [b"=x", b"LC_ALL=C", b"TZ=UTC0", b"a=1", b"b=2", b"b=1", b"nonsense"]
