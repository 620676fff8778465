"""What people call a running program."""

from __future__ import annotations

import pytest

from detbuild import command


@pytest.mark.parametrize(
    ("executable", "argv", "name"),
    [
        ("/usr/bin/date", "date +%s", "date"),
        ("/usr/bin/date", "", "date"),
        ("/usr/bin/perl.real", "perl -w -I lib build/gen.pl out", "gen.pl"),
        ("/usr/bin/perl", "perl -e print", "perl"),
        ("/usr/bin/dash", "/bin/sh ./mkversion.sh -o x", "mkversion.sh"),
        ("/usr/bin/dash", "sh -e -x config.status", "config.status"),
        ("/usr/bin/dash", "sh -ec date config", "dash"),
        ("/usr/bin/bash", "bash -o pipefail -eu run.sh", "run.sh"),
        ("/usr/bin/bash", "bash --rcfile x -- run.sh", "run.sh"),
        ("/usr/bin/bash", "-bash", "bash"),
        ("/usr/bin/bash", "bash -s", "bash"),
        ("/usr/bin/python3.11", "python3 -B tool/__main__.py", "tool"),
        ("/usr/bin/python3.11", "python3 -m mesonbuild.main", "mesonbuild.main"),
        ("/usr/bin/python3.11", "python3 -c pass", "python3.11"),
        ("/bin/busybox", "date -u", "date"),
        ("/bin/busybox", "busybox sh configure", "configure"),
        ("/lib/ld-linux-x86-64.so.2", "ld.so --library-path /x /bin/date", "date"),
        ("/usr/bin/make", "make -f other.mk", "make"),
        (
            "/usr/bin/qemu-aarch64",
            "qemu-aarch64 -r 5.15 -L root -E LD_LIBRARY_PATH=root/lib root/g-ir-scanner -v",
            "g-ir-scanner",
        ),
        ("/usr/bin/qemu-arm-static", "/usr/bin/qemu-arm-static -strace /bin/sh ./mkversion.sh", "mkversion.sh"),
        ("/usr/bin/qemu-x86_64", "qemu-x86_64 /usr/bin/perl gen.pl", "gen.pl"),
        ("/usr/bin/qemu-x86_64", "qemu-x86_64 -version", "qemu-x86_64"),
        ("/usr/bin/qemu-system-x86_64", "qemu-system-x86_64 -m 1G disk", "qemu-system-x86_64"),
    ],
)
def test_a_program_is_known_by_its_script_or_its_own_name(executable: str, argv: str, name: str) -> None:
    assert command.title(executable, argv.split()) == name
