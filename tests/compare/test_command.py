"""The command as people run it: real packages, real diffoscope, a process of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from making import make_deb, make_ipk, make_rpm, readable_by_all

GOLDEN = Path(__file__).parent.parent / "data/compare"
ENTRANCE = "import sys; from detbuild.cli.main import compare_main; sys.exit(compare_main())"
COMMANDS = {
    "detbuild compare": [sys.executable, "-m", "detbuild", "compare"],
    "detbuild-compare": [sys.executable, "-c", ENTRANCE],
}
Done = subprocess.CompletedProcess[str]


def run(*arguments: object, cwd: Path, command: str = "detbuild-compare", **environment: str) -> Done:
    return subprocess.run(
        [*COMMANDS[command], *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=120,
        check=False,
        env={**os.environ, "TZ": "UTC"} | environment,
    )


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two deploy trees in a/ and b/: one package the same, one different, one on each side alone."""
    top = tmp_path_factory.mktemp("deploy")
    for tree, line in (("a", "built on Monday\n"), ("b", "built on Friday\n")):
        make_deb(top / tree / "all", "hello", "hello")
        make_deb(top / tree / "all", "libz1", "zlib", line)
        (top / tree / "latest").symlink_to(f"{line.split()[2]}.img")
    make_deb(top / "a/all", "hello-doc", "hello")
    make_ipk(top / "b/all", "sed", "sed")
    return top


def by_finding(text: str) -> list[str]:
    """What was printed of each finding, which come as they are done, and the closing lines last."""
    *found, last = re.split(r"^(?=only in|different  |Same: )", text, flags=re.MULTILINE)
    return [*sorted(found), last]


def test_the_text_is_as_it_always_was(deploy: Path) -> None:
    done = run("a", "b", "--text", cwd=deploy)
    assert by_finding(done.stdout) == by_finding((GOLDEN / "report.txt").read_text())
    assert (done.returncode, done.stderr) == (1, "")


def test_the_json_is_as_it_always_was(deploy: Path, tmp_path: Path) -> None:
    done = run("a", "b", "--json", tmp_path / "out.json", cwd=deploy)
    assert done.returncode == 1, done.stderr
    # Seconds, and what depends on the compressor's version: not part of the format.
    text = re.sub(r'("(?:seconds|size)": )[0-9.]+', r"\g<1>0", (tmp_path / "out.json").read_text())
    text = re.sub(r'("sha256": )(?:null|"[0-9a-f]{64}")', r'\g<1>"..."', text)
    text = re.sub(r'("remedy": ).*', r'\g<1>"...",', text)
    assert json.loads(text) == json.loads((GOLDEN / "report.json").read_text())


def test_both_names_are_one_command(deploy: Path) -> None:
    short, long = (run("a", "b", cwd=deploy, command=command) for command in COMMANDS)
    assert (by_finding(short.stdout), short.returncode) == (by_finding(long.stdout), long.returncode)


def test_the_last_four_lines_are_the_counts_whatever_is_asked_for(deploy: Path, tmp_path: Path) -> None:
    outputs = ["--text", "--html", tmp_path / "report", "--json", tmp_path / "out.json", "--jobs", 1]
    done = run("a", "b", *outputs, cwd=deploy)
    assert done.stdout.endswith("\nSame: 1\nDifferent: 2\nMissing: 2\nTotal: 5\n")
    assert f"Report: {tmp_path}/report/index.html\n" in done.stdout


def test_the_same_twice_is_status_0(deploy: Path, tmp_path: Path) -> None:
    shutil.copytree(deploy / "a", tmp_path / "copy", symlinks=True)
    done = run(deploy / "a", tmp_path / "copy", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "Same: 4\nDifferent: 0\nMissing: 0\nTotal: 4\n")


def test_empty_trees_are_status_0_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    done = run("a", "b", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Same: 0\nDifferent: 0\nMissing: 0\nTotal: 0\n", "")


@pytest.mark.parametrize(("b", "reason"), [("nothing", "No such file"), ("file", "not a directory")])
def test_what_is_no_directory_is_status_2(tmp_path: Path, b: str, reason: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "file").touch()
    done = run("a", b, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr


def test_an_unreadable_file_is_status_2_after_everything_else() -> None:
    with readable_by_all() as top:
        for tree in ("a", "b"):
            (top / tree).mkdir()
            (top / tree / "closed").write_text(tree)
            (top / tree / "open").write_text(tree)
        (top / "a/closed").chmod(0o000)
        # After the imports: the interpreter itself may lie where nobody else can read it.
        code = f"import os, detbuild.cli.compare; os.geteuid() or os.seteuid(65534); {ENTRANCE}"
        command = [sys.executable, "-c", code, "a", "b"]
        done = subprocess.run(command, cwd=top, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "different  open: unknown: 'a' / 'b'\nSame: 0\nDifferent: 1\nMissing: 0\nTotal: 2\n"
    assert "a/closed: cannot be read: Permission denied" in done.stderr
    assert "1 of 2 artefacts could not be compared" in done.stderr


def test_a_tree_compared_with_itself_is_warned_about(deploy: Path) -> None:
    done = run("a", "a", cwd=deploy)
    assert done.returncode == 0
    assert "warning: A and B are one directory" in done.stderr


def test_names_of_any_bytes_pass_through_a_plain_locale(tmp_path: Path) -> None:
    for tree in (b"a", b"b"):
        directory = os.fsencode(tmp_path) + b"/" + tree
        os.mkdir(directory)
        for name in (b"odd \xff", b"new\nline", "é".encode(), b"\x1b[2J"):
            with open(directory + b"/" + name, "wb") as stream:
                stream.write(b"in " + tree)
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = run("a", "b", "--text", "--html", "report", "--json", "out.json", cwd=tmp_path, **plain)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    named = [line.split(": ")[0] for line in lines]
    assert "different  new\\nline" in named
    assert "different  odd \\xff" in named
    assert "different  \\x1b[2J" in named
    assert "\x1b" not in done.stdout
    assert lines[-4:] == ["Same: 0", "Different: 4", "Missing: 0", "Total: 4"]
    names = [finding["artefact"] for finding in json.loads((tmp_path / "out.json").read_text())["findings"]]
    assert "new\nline" in names


@pytest.mark.skipif(not shutil.which("rpmbuild"), reason="needs rpmbuild (Debian: rpm)")
def test_every_package_format_is_named_with_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    make_deb(tmp_path / "a", "libz1", "zlib")
    make_ipk(tmp_path / "a", "libz1", "zlib")
    make_rpm(tmp_path / "a", "libz1", "zlib")
    done = run("a", "b", cwd=tmp_path)
    named = [line.partition("  ")[2] for line in done.stdout.splitlines()[:-4]]
    assert ["(package libz1, recipe zlib)" in line for line in named] == [True, True, True]


def test_pkgdata_names_a_recipe_that_the_package_does_not(tmp_path: Path) -> None:
    make_deb(tmp_path / "a", "libz1", None)
    (tmp_path / "b").mkdir()
    (tmp_path / "pkgdata/runtime-reverse").mkdir(parents=True)
    (tmp_path / "pkgdata/runtime").mkdir()
    (tmp_path / "pkgdata/runtime-reverse/libz1").write_text("PN: zlib\n")
    assert "(package libz1, recipe unknown)" in run("a", "b", cwd=tmp_path).stdout
    assert "(package libz1, recipe zlib)" in run("a", "b", "--pkgdata", "pkgdata", cwd=tmp_path).stdout


def test_what_is_excluded_is_not_counted(deploy: Path) -> None:
    done = run("a", "b", "--exclude", "libz*", "--exclude", "latest", "--exclude", "all/hello-doc*", cwd=deploy)
    assert done.stdout.endswith("Same: 1\nDifferent: 0\nMissing: 1\nTotal: 2\n")


@pytest.mark.parametrize("option", ["--html", "--json"])
def test_a_report_inside_a_compared_tree_is_refused(deploy: Path, option: str) -> None:
    done = run("a", "b", option, "b/report", cwd=deploy)
    assert done.returncode == 2
    assert "which is being compared" in done.stderr
    assert not (deploy / "b/report").exists()


def test_an_unwritable_report_is_refused_before_the_work(deploy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("a", "b", "--html", tmp_path / "file", cwd=deploy)
    assert (done.returncode, done.stdout) == (2, "")
    done = run("a", "b", "--json", tmp_path / "no/out.json", cwd=deploy)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("option", ["--jobs", "--timeout", "--memory"])
@pytest.mark.parametrize("value", ["0", "-1", "many", "²", "3000000"])
def test_limits_are_whole_numbers_that_the_kernel_takes(deploy: Path, option: str, value: str) -> None:
    done = run("a", "b", option, value, cwd=deploy)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{option}: '{value}' is not a whole number from 1 to 2000000" in done.stderr or value == "-1"


def test_the_longest_time_is_one_that_every_process_takes(deploy: Path) -> None:
    done = run("a", "b", "--text", "--timeout", 2_000_000, cwd=deploy)
    assert by_finding(done.stdout) == by_finding((GOLDEN / "report.txt").read_text())
    assert (done.returncode, done.stderr) == (1, "")


def test_limits_are_those_that_were_given(deploy: Path) -> None:
    done = run("a", "b", "--text", "--memory", 16, cwd=deploy)
    assert done.returncode == 1
    assert "diffoscope ran over memory: more than 16 MiB wanted" in done.stdout


def test_a_run_that_is_terminated_leaves_nothing(deploy: Path, tmp_path: Path) -> None:
    fake = tmp_path / "bin/diffoscope"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid; sleep 300\n")
    fake.chmod(0o755)
    code = f"import sys; sys.executable = {str(fake)!r}; {ENTRANCE}"
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", code, deploy / "a", deploy / "b", "--text"],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.DEVNULL,
    )
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
    process.terminate()
    assert process.wait(60) == 130
    assert not list((tmp_path / "tmp").iterdir())
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def on_terminal(arguments: list[str], cwd: Path) -> str:
    """Everything that a command shows where stdout and stderr are one terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [*COMMANDS["detbuild-compare"], *arguments], cwd=cwd, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # Linux's way to say that the other side is closed
                break
            shown += chunk
        process.wait(60)
    os.close(ours)
    return shown.decode()


def test_a_terminal_gets_a_bar_and_a_tree_and_then_the_counts(deploy: Path) -> None:
    shown = on_terminal(["a", "b", "--text"], deploy)
    assert "\x1b[" in shown
    assert "━" in shown, "the progress bar"
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r", "")
    assert re.search(r"recipe zlib: timestamp\n.*different  all/libz1_1.0-r0_all.deb\n.*'Monday' / 'Friday'", plain)
    assert "+built on Friday" in plain
    assert plain.endswith("Same: 1\nDifferent: 2\nMissing: 2\nTotal: 5\n")


def test_a_pipe_gets_neither_colour_nor_bar(deploy: Path) -> None:
    done = run("a", "b", "--text", cwd=deploy, TERM="xterm", FORCE_COLOR="1")
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
