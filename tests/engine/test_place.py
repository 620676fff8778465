"""Which command lines put the build's own path into what they make, and what the record says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from detbuild import Session
from detbuild.audit import BUILD_PATH
from detbuild.engine.place import Place

HERE = "/srv/build"


@pytest.mark.parametrize(
    "command",
    [
        ["gcc", '-DDIR="/srv/build"', "-c", "a.c"],
        ["gcc", '-DDIR="/srv/build/tmp/x"'],
        ["cc1", "a.c", "-D", 'DIR="/srv/build/tmp"'],
        ["gcc", '-DDIR=\\"/srv/build\\"'],
        ["sed", "-e", "s|/bin/sh|/bin/bash|", "-e", "s|[@]GREP@|/srv/build/tmp/hosttools/grep|g"],
        ["sed", "s,@DIR@,/srv/build,;p"],
        ["sed", "-es:@DIR@:/srv/build:"],
        ["perl", "-pe", "s{DIR}{/srv/build}"],
    ],
)
def test_a_string_or_a_substitution_gets_into_what_is_made(command: list[str]) -> None:
    assert Place(HERE).is_embedded_by(line(command))


@pytest.mark.parametrize(
    "command",
    [
        ["gcc", "-I/srv/build/include", "-fmacro-prefix-map=/srv/build=/usr/src", "/srv/build/a.c"],
        ["cmake", "-DCMAKE_TOOLCHAIN_FILE=/srv/build/tmp/toolchain.cmake", "-DX:PATH=/srv/build"],
        ["sh", "-c", "sed -e 's|x|/srv/build|' a"],
        ["make", "CC=gcc --sysroot=/srv/build", "-C", "/srv/build"],
        ["gcc", '-DDIR="/usr/share"', "/srv/build/a.c"],
        ["gcc", '-DDIR="/srv/builder"'],
        ["/srv/build/tmp/hosttools/sed", "s|x|y|"],
        ["sed", "-f", "/srv/build/a.sed"],
    ],
)
def test_where_a_file_is_gets_into_nothing(command: list[str]) -> None:
    assert not Place(HERE).is_embedded_by(line(command))


def test_the_root_directory_is_no_place() -> None:
    assert not Place("/").is_embedded_by(line(["sed", "s|x|/|"]))


def line(command: list[str]) -> bytes:
    return b"".join(word.encode() + b"\0" for word in command)


@pytest.mark.parametrize(("policy", "told"), [("observe", 2), ("strict", 2), ("time", 0), ("time +order", 2)])
def test_the_record_names_the_program_under_every_policy_but_time(
    policy: str, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its place is where it was opened, wherever its programs go.
    monkeypatch.chdir(tmp_path)
    with Session(1, policy, "tracer") as session:
        command = f'cd /; for n in 1 2; do echo x | sed "s|x|{tmp_path}/x|"; done; echo y | sed "s|y|/|"'
        session.run(["sh", "-c", command], check=True, capture_output=True)
    found = {read.name: count for read, count in session.audit.leaks.items() if read.source == BUILD_PATH}
    assert found == ({"sed": told} if told else {})
