"""What the supervisor decides before an exec is what /proc tells after it, from which the tracer decides."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import supervised
from results import Nobody, build
from supervised import parsed, run

from detbuild import programs
from detbuild.engine import bell

EXECUTIONS = Path(__file__).with_name("executions.py")
BUSYBOX = shutil.which("busybox") or ""
LOADER = "/lib64/ld-linux-x86-64.so.2"
LONG = "x" * 100_000


def script(directory: Path, name: str, first: str, end: str = "\n") -> str:
    path = directory / name
    path.write_text(first + end)
    path.chmod(0o755)
    return str(path)


def make_programs(directory: Path) -> dict[str, dict[str, Any]]:
    """Case -> what ``executions`` is told; its files lie below ``directory``."""
    directory.chmod(0o755)
    (directory / "sub").mkdir()
    shutil.copy("/bin/true", directory / "plain")
    os.symlink(directory / "plain", directory / "make")
    os.symlink("../plain", directory / "sub" / "linked")
    os.link(directory / "plain", directory / "sub" / "tar")
    shutil.copy(build("execs", "static"), directory / "made")
    (directory / "made").chmod(0o755)
    (directory / "text").write_text("no format that a kernel knows\n")
    (directory / "text").chmod(0o755)
    (directory / "closed").write_text("#!/bin/sh\n")
    sh = script(directory, "sh-script", "#!/bin/sh")
    make = script(directory, "make-script", f"#! \t{directory}/make  -f\tone argument \t")
    bare = script(directory, "no-newline", "#!/bin/cat", "")
    nested = script(directory, "nested", f"#!{make} of another")
    relative = script(directory, "relative", "#!sub/linked -x")
    long = script(directory, "long", "#!/bin/cat " + "y" * 400)
    cut = script(directory, "cut", "#!/" + "z" * 300)
    deep = sh
    for depth in range(8):
        deep = script(directory, f"deep{depth}", f"#!{deep}")
    python = script(directory, "scons", "#!/usr/bin/env python3")
    target = str(directory / "sub" / "tar")
    cases: dict[str, dict[str, Any]] = {
        "a link": {"path": f"{directory}/make", "argv": ["make", "all"]},
        "a relative path": {"path": "sub/tar", "cwd": str(directory), "argv": ["tar", "-xf", "a.tar"]},
        "a path upwards": {"path": "../sub/../make", "cwd": f"{directory}/sub", "argv": ["make"]},
        "a hard link": {"path": target, "argv": ["tar", "-cf", "a.tar"]},
        "a shell": {"path": "/bin/sh", "argv": ["sh", "-c", ":"]},
        "a loader": {"path": LOADER, "argv": ["ld.so", f"{directory}/make", "-j2"]},
        "a script": {"path": sh, "argv": ["whatever", "-nt", "x"]},
        "a script with an argument": {"path": make, "argv": ["m", "a", "b"]},
        "a script without a newline": {"path": bare, "argv": ["m"]},
        "a script of a script": {"path": nested, "argv": ["m", "a"]},
        "a script with a relative interpreter": {"path": relative, "cwd": str(directory), "argv": ["m"]},
        "a relative script": {"path": "./sh-script", "cwd": str(directory), "argv": ["m", "1"]},
        "a script with a long line": {"path": long, "argv": ["m", "1"]},
        "a script whose interpreter is cut": {"path": cut, "argv": ["m"]},
        "five scripts": {"path": f"{directory}/deep3", "argv": ["m"]},
        "six scripts": {"path": f"{directory}/deep4", "argv": ["m"]},
        "too many scripts": {"path": deep, "argv": ["m"]},
        "env": {"path": python, "argv": ["scons", "-c"], "times": 2},
        "a descriptor": {"fd": f"{directory}/made", "argv": ["made", "1"]},
        "a script's descriptor": {"fd": sh, "argv": ["m", "1"]},
        "a script's descriptor that closes": {"fd": sh, "argv": ["m", "1"], "closed": True},
        "a name below a descriptor": {"fd": str(directory), "name": "make", "argv": ["make", "1"]},
        "a script below a descriptor": {"fd": str(directory), "name": "make-script", "argv": ["m", "1"]},
        "an absolute name beside a descriptor": {"fd": str(directory), "name": sh, "argv": ["m", "1"]},
        "a file in memory": {"memory": f"{directory}/made", "fd": "/", "argv": ["make", "1"]},
        "/proc/self/exe": {"path": "/proc/self/exe", "argv": ["python3", "-m", "scons", "x"]},
        "/dev/stdin's neighbour": {"path": f"/proc/self/root{directory}/make", "argv": ["make"]},
        "no arguments": {"path": target, "argv": []},
        "empty arguments": {"path": target, "argv": ["tar", "", "x", ""]},
        "many arguments": {"path": target, "argv": ["tar", *map(str, range(5000))]},
        "a long argument": {"path": target, "argv": ["tar", LONG, "-x", LONG]},
        "an argument with a newline": {"path": target, "argv": ["tar", "a\n-x\nb"]},
        "a file that is not there": {"path": f"{directory}/none", "argv": ["x"]},
        "a file below a file": {"path": f"{target}/none", "argv": ["x"]},
        "an empty name": {"path": "", "argv": ["x"]},
        "a directory": {"path": str(directory), "argv": ["x"]},
        "a file without the right": {"path": f"{directory}/closed", "argv": ["x"]},
        "a file without a format": {"path": f"{directory}/text", "argv": ["x"]},
    }
    for kind in ("dynamic", "static", "dynamic32", "static32"):
        own = str(build("execs", kind))
        cases[f"by a {kind} program"] = {"path": own, "argv": ["execs", target, "tar", "-x", ""], "times": 2}
    if BUSYBOX:
        os.symlink(BUSYBOX, directory / "sub" / "ls")
        cases["a busybox applet"] = {"path": f"{directory}/sub/ls", "argv": ["ls", "-l"]}
        cases["busybox by its argument"] = {"path": BUSYBOX, "argv": ["busybox", "touch", "-r", "a", "b"]}
    return cases


@pytest.fixture(scope="module")
def place(public: Path) -> Path:
    directory = public / "executions"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def cases(place: Path) -> dict[str, dict[str, Any]]:
    return make_programs(place)


Seen = dict[str, tuple[list[Any], list[list[int]]]]


def command(place: Path, cases: Iterable[dict[str, Any]], python: str = sys.executable) -> list[str]:
    """What looks at the executions of ``cases``."""
    with tempfile.NamedTemporaryFile("w", dir=place, suffix=".json", delete=False) as file:
        json.dump(list(cases), file)
    os.chmod(file.name, 0o644)
    shutil.copy(EXECUTIONS, place)
    return [python, "-I", "-S", str(place / EXECUTIONS.name), file.name]


def seen(cases: dict[str, dict[str, Any]], result: Any) -> Seen:
    """Case -> what /proc told, and the decisions of that process."""
    assert not result.err
    assert not result.gaps
    told = zip(cases, json.loads(result.out), strict=True)
    decisions = [(tid, [flags, command]) for tid, flags, _program, command in result.decisions]
    return {name: (row, [rest for tid, rest in decisions if tid == row[0]]) for name, row in told}


@pytest.fixture(scope="module")
def by_root(cases: dict[str, dict[str, Any]], place: Path) -> Seen:
    return seen(cases, run(*command(place, cases.values())))


@cache
def decided(executable: str, argv: tuple[str, ...]) -> list[int]:
    rule = programs.table().decide(executable, lambda: argv)
    words = [os.fsencode(word) for word in argv]
    return [int(bell.flags(rule)), bell.command_key(executable, words)]


def names() -> list[str]:
    """The cases, without making their files."""
    text = Path(__file__).read_text().split("cases: dict", 1)[1].split("if BUSYBOX", 1)[0]
    return [line.split('"')[1] for line in text.splitlines() if line.startswith('        "')]


def check(seen: Seen, case: str) -> None:
    (_, *told), decisions = seen[case]
    if isinstance(told[0], int):
        assert told[0] in errno.errorcode
    else:
        assert decisions[-1] == decided(told[0], tuple(told[1]))


@pytest.mark.parametrize("case", names())
def test_an_execution_is_decided_as_proc_tells_afterwards(by_root: Seen, case: str) -> None:
    check(by_root, case)


@pytest.mark.parametrize("kind", ["dynamic", "static", "dynamic32", "static32"])
def test_an_execution_by_a_program_of_any_kind_is_decided(by_root: Seen, kind: str) -> None:
    (_, executable, argv), decisions = by_root[f"by a {kind} program"]
    assert argv == ["tar", "-x", ""]
    assert decisions[-1] == decided(executable, tuple(argv))
    assert len(decisions) == 2


@pytest.mark.skipif(not BUSYBOX, reason="busybox is not installed")
@pytest.mark.parametrize("case", ["a busybox applet", "busybox by its argument"])
def test_an_applet_has_its_own_rule(by_root: Seen, case: str) -> None:
    check(by_root, case)


@pytest.mark.parametrize(
    "case",
    [
        "a file that is not there",
        "a file below a file",
        "an empty name",
        "a directory",
        "six scripts",
        "too many scripts",
    ],
)
def test_what_cannot_be_executed_is_not_decided(by_root: Seen, case: str) -> None:
    told, decisions = by_root[case]
    assert len(told) == 2
    assert not decisions


def test_as_many_scripts_as_the_kernel_takes_are_followed(by_root: Seen) -> None:
    (_, executable, argv), _ = by_root["five scripts"]
    assert executable.startswith("/")
    assert len(argv) == 6


def test_every_case_was_executed_or_refused_as_outside(
    cases: dict[str, dict[str, Any]], place: Path, by_root: Seen
) -> None:
    outside = json.loads(subprocess.run(command(place, cases.values()), capture_output=True, check=True).stdout)
    assert [row[1:] for row in outside] == [told[1:] for told, _ in by_root.values()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the root")
def test_names_are_looked_up_below_the_callers_own_root(place: Path) -> None:
    root = place / "root"
    (root / "bin").mkdir(parents=True)
    (root / "opt").mkdir()
    shutil.copy(build("execs", "static"), root / "opt" / "make")
    os.symlink("/opt/make", root / "bin" / "link")
    script(root / "bin", "script", "#!/bin/link -x")
    for n, below in enumerate([{"path": "/bin/link"}, {"path": "bin/script"}, {"path": "../opt/make", "cwd": "/bin"}]):
        case = {"root": str(root), "argv": ["make", str(n)], **below}
        check(seen({"chroot": case}, run(*command(place, [case]))), "chroot")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_names_are_looked_up_in_the_callers_own_mount_namespace(place: Path) -> None:
    hidden = place / "hidden"
    hidden.mkdir()
    case = {"path": f"{hidden}/make", "argv": ["make", "x"]}
    mounts = f'mount -t tmpfs none {hidden} && cp {build("execs", "static")} {hidden}/make && exec "$@"'
    result = run("unshare", "--mount", "sh", "-c", mounts, "sh", *command(place, [case]))
    if "unshare" in result.err:
        pytest.skip(f"no mount namespaces here: {result.err}")
    told = seen({"mounted": case}, result)
    assert told["mounted"][0][1] == f"{hidden}/make"
    check(told, "mounted")


def test_an_ordinary_users_executions_are_decided(
    cases: dict[str, dict[str, Any]], place: Path, as_nobody: Nobody
) -> None:
    shutil.copy(Path(__file__).with_name("supervised.py"), place)
    words = command(place, cases.values(), "/usr/bin/python3")
    told = seen(cases, parsed(as_nobody(str(place / "supervised.py"), *words)))
    for case in cases:
        check(told, case)


def test_what_a_program_out_of_reach_executes_is_a_gap(place: Path, as_nobody: Nobody) -> None:
    """Whoever may execute but not read a program may not look into its process either."""
    closed = place / "closed-program"
    shutil.copy(build("execs", "static"), closed)
    closed.chmod(0o711)
    shutil.copy(Path(__file__).with_name("supervised.py"), place)
    result = parsed(as_nobody(str(place / "supervised.py"), str(closed), "/bin/echo", "echo", "hello"))
    assert result.out == "hello\n"
    assert [gap.split(":")[0] for gap in result.gaps] == ["program out of reach"]
    assert str(closed) in result.gaps[0]
    assert [flags for _, flags, _, _ in result.decisions] == [0, 0]


FORMATS = r"""
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77
cd /proc/sys/fs/binfmt_misc
printf ':ending:E::odd::%s:' "$1" > register
printf ':magic:M:2:\\x01ODD::%s:P' "$1" > register
printf ':masked:M::AXB:\\xff\\x00\\xff:%s:' "$1" > register
printf ':off:M::#!/off::/bin/false:' > register; echo 0 > off
shift; exec "$@"
"""


def test_formats_of_this_machine_are_run_by_their_interpreters(place: Path) -> None:
    interpreter = str(place / "sub" / "tar")
    files = {"by-name.odd": b"x", "by-magic": b"..\1ODD...", "by-mask": b"A?B", "neither": b"#!/off", "short": b".."}
    for name, content in files.items():
        (place / name).write_bytes(content)
        (place / name).chmod(0o755)
    cases = {name: {"path": str(place / name), "argv": ["called", "-x"]} for name in files}
    words = ["sh", "-c", FORMATS, "sh", interpreter, sys.executable, str(Path(supervised.__file__))]
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *words, *command(place, cases.values())],
        env={**os.environ, "PYTHONPATH": str(supervised.LIBRARY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip(f"no formats of one's own here: {result.stderr}")
    found = seen(cases, parsed(result))
    assert {name: told[2] if len(told) > 2 else told[1] for name, (told, _) in found.items()} == {
        "by-name.odd": [interpreter, str(place / "by-name.odd"), "-x"],
        "by-magic": [interpreter, str(place / "by-magic"), "called", "-x"],
        "by-mask": [interpreter, str(place / "by-mask"), "-x"],
        "neither": errno.ENOENT,
        "short": errno.ENOEXEC,
    }
    for case in cases:
        check(found, case)
