"""Input that is damaged, hostile or moving: each has a defined result, nothing hangs, nothing is written elsewhere."""

from __future__ import annotations

import io
import os
import shutil
import socket
import stat
import subprocess
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from making import make_deb, make_ipk, make_rpm

from detbuild.compare import Comparing, Options
from detbuild.compare.limits import Limits
from detbuild.compare.model import Comparison, Ending, Finding


def compare(a: Path, b: Path, options: Options | None = None) -> Comparison:
    with Comparing(a, b, options or Options(deep=False)) as comparing:
        list(comparing.run())
    return comparing.result


def notes(finding: Finding) -> str:
    return " ".join(proof.note for cause in finding.causes for proof in cause.evidence)


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    for side in "ab":
        (tmp_path / side).mkdir()
    return tmp_path / "a", tmp_path / "b"


@pytest.fixture(autouse=True)
def _nothing_is_written_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scratch files go to one place and are gone at the end; the working directory stays as it was."""
    scratch, home = tmp_path / "scratch", tmp_path / "home"
    scratch.mkdir()
    home.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(home)
    yield
    monkeypatch.setattr("tempfile.tempdir", None)
    assert not [path for path in scratch.iterdir() if path.name.startswith("detbuild")]
    assert not list(home.iterdir())


@pytest.mark.parametrize("kind", ["deb", "ipk", "rpm"])
def test_a_truncated_package_differs_and_says_that_it_is_damaged(trees: tuple[Path, Path], kind: str) -> None:
    if kind == "rpm" and not shutil.which("rpmbuild"):
        pytest.skip("needs rpmbuild (Debian: rpm)")
    makers = {"deb": lambda: make_deb(trees[0], "x", "x", "text\n" * 500), "ipk": lambda: make_ipk(trees[0], "x", "x")}
    made = makers.get(kind, lambda: make_rpm(trees[0], "x", "x"))()
    (trees[1] / made.name).write_bytes(made.read_bytes()[: made.stat().st_size * 2 // 3])
    (finding,) = compare(*trees).findings
    assert "damaged" in notes(finding)
    assert finding.cause == "unknown" or "unknown" in {cause.name for cause in finding.causes}


@pytest.mark.parametrize("place", [0, 8, 40, 66, 100, 132, 200, 300])
def test_a_corrupt_package_differs_and_nothing_breaks(trees: tuple[Path, Path], place: int) -> None:
    made = make_deb(trees[0], "x", "x", "text\n" * 500)
    data = bytearray(made.read_bytes())
    data[place : place + 8] = b"\xff" * 8
    (trees[1] / made.name).write_bytes(data)
    (finding,) = compare(*trees).findings
    assert finding.causes
    assert finding.inspected
    assert finding.inspected.ending is Ending.COMPLETE


def test_archives_inside_archives_are_opened_to_a_depth_and_no_further(trees: tuple[Path, Path]) -> None:
    for side, tree in zip("ab", trees, strict=True):
        inner = f"side {side}\n".encode()
        for number in range(12):
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as archive:
                member = tarfile.TarInfo(f"level{number}")
                member.size = len(inner)
                archive.addfile(member, io.BytesIO(inner))
            inner = stream.getvalue()
        (tree / "x.tar").write_bytes(inner)
    (finding,) = compare(*trees).findings
    assert "not opened beyond 8" in notes(finding)


def test_a_zip_bomb_costs_its_time_and_nobody_else(trees: tuple[Path, Path]) -> None:
    bomb = trees[0].parent / "bomb.zip"
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeroes", "w", force_zip64=True) as out,
    ):
        for _ in range(1536):
            out.write(bytes(1 << 20))
    for tree, tail in zip(trees, (b"", b"x"), strict=True):
        (tree / "bomb.zip").write_bytes(bomb.read_bytes())
        (tree / "text").write_bytes(b"at 2026-11-21" + tail)
        with zipfile.ZipFile(tree / "bomb.zip", "a") as archive:
            archive.writestr("tail", b"end" + tail)
    started = time.monotonic()
    result = compare(*trees, Options(deep=False, limits=Limits(seconds=1), jobs=1))
    assert time.monotonic() - started < 30
    endings = {finding.artefact: finding.inspected.ending for finding in result.findings if finding.inspected}
    assert endings == {"bomb.zip": Ending.OVER_TIME, "text": Ending.COMPLETE}
    assert "ran over time" in notes(result.findings[0])


# What each format allows behind its stream, so that the bytes differ and what they unpack to does not.
PADDING = {"xz": bytes(4), "zstd": b"\x50\x2a\x4d\x18\4\0\0\0more"}


@pytest.mark.parametrize("program", PADDING)
def test_a_compressed_bomb_is_read_in_pieces_and_within_its_memory(trees: tuple[Path, Path], program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"needs {program}")
    size, memory = 320 << 20, 256 << 20
    with subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE) as zeroes:
        packed = subprocess.run([program, "-q", "-1"], stdin=zeroes.stdout, stdout=subprocess.PIPE, check=True).stdout
    assert len(packed) < size / 1000
    (trees[0] / "bomb").write_bytes(packed)
    (trees[1] / "bomb").write_bytes(packed + PADDING[program])
    (finding,) = compare(*trees, Options(deep=False, limits=Limits(120, memory))).findings
    assert finding.inspected
    assert finding.inspected.ending is Ending.COMPLETE
    assert finding.cause == "compression"


def test_members_with_hostile_names_lead_nowhere(trees: tuple[Path, Path], tmp_path: Path) -> None:
    for side, tree in zip("ab", trees, strict=True):
        with tarfile.open(tree / "x.tar", "w") as archive:
            for name in (
                "../../../escaped",
                "/tmp/absolute-escape-detbuild",
                "new\nline",
                "-rf",
                "a" * 3000,
                "odd\udcff",
            ):
                contents = f"{name[:5]} of {side}\n".encode("utf-8", "replace")
                member = tarfile.TarInfo(name)
                member.size = len(contents)
                archive.addfile(member, io.BytesIO(contents))
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, f"/etc/{side}"
            archive.addfile(link)
    (finding,) = compare(*trees).findings
    assert finding.causes
    assert not Path("/tmp/absolute-escape-detbuild").exists()
    assert not list(tmp_path.rglob("escaped"))


def test_loops_and_links_out_of_the_tree_are_never_followed(trees: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    for tree, target in zip(trees, ("..", "../outside"), strict=True):
        (tree / "loop").symlink_to("loop")
        (tree / "up").symlink_to(target)
    result = compare(*trees)
    assert dict(result.counts()) == {"Same": 1, "Different": 1, "Missing": 0, "Total": 2}


def test_devices_are_compared_by_their_numbers_and_never_opened(trees: tuple[Path, Path]) -> None:
    try:
        for tree, minor in zip(trees, (5, 7), strict=True):  # /dev/zero never ends, /dev/full cannot be written
            os.mknod(tree / "device", stat.S_IFCHR | 0o600, os.makedev(1, minor))
            os.mknod(tree / "same", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("needs the right to make devices")
    result = compare(*trees)
    (finding,) = result.findings
    assert (finding.artefact, finding.note) == (
        "device",
        "a character device 0x105 in A, a character device 0x107 in B",
    )
    assert result.same == 1


def test_sockets_and_fifos_are_never_opened(trees: tuple[Path, Path]) -> None:
    os.mkfifo(trees[0] / "fifo")
    os.mkfifo(trees[1] / "fifo")
    (trees[1] / "socket").write_text("no socket here")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(trees[0] / "socket"))
        result = compare(*trees)
    (finding,) = result.findings
    assert finding.note == "a socket in A, a regular file in B"
    assert result.same == 1


def test_files_that_change_or_vanish_meanwhile_are_told(
    trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for tree in trees:
        for number in range(40):
            (tree / f"{number:02d}").write_text("the same")
    from detbuild.compare import digest

    real = digest.digest

    def slow(path: str) -> str:
        if path.endswith("a/05"):
            os.unlink(path)
        if path.endswith("a/06"):
            Path(path).unlink()
            os.mkfifo(path)
        return real(path)

    monkeypatch.setattr("detbuild.compare.comparison.digest", slow)
    result = compare(*trees)
    assert (result.same, result.unknown, result.status) == (38, 2, 2)
    assert {trouble.message for trouble in result.troubles} == {digest.CHANGED}


def test_a_file_that_vanishes_before_it_is_taken_apart_is_told(trees: tuple[Path, Path]) -> None:
    for tree in trees:
        (tree / "x").write_text(tree.name)
    with Comparing(*trees, Options(deep=False)) as comparing:
        pool = comparing._pool
        real = pool.submit

        def submit(task):  # type: ignore[no-untyped-def]
            os.unlink(task.a)
            return real(task)

        pool.submit = submit  # type: ignore[method-assign]
        (finding,) = comparing.run()
    assert finding.inspected
    assert finding.inspected.ending is Ending.FAILED
    assert "No such file" in finding.inspected.detail
    assert finding.cause == "unknown"


def test_a_hundred_thousand_files_in_one_directory_take_seconds(trees: tuple[Path, Path]) -> None:
    for tree in trees:
        for number in range(100_000):
            os.close(os.open(f"{tree}/{number:06d}", os.O_CREAT | os.O_WRONLY))
    (trees[1] / "050000").write_text("x")
    started = time.monotonic()
    result = compare(*trees)
    assert (result.same, result.different) == (99_999, 1)
    assert time.monotonic() - started < 120


def test_files_of_five_gibibytes_are_read_in_pieces(trees: tuple[Path, Path]) -> None:
    """Sparse, so that they cost no disk; a few bytes in the middle differ, and the last one is on one side alone."""
    for tree, size in zip(trees, (5 << 30, (5 << 30) + 1), strict=True):
        with (tree / "large").open("wb") as stream:
            stream.truncate(size)
            stream.seek(4 << 30)
            stream.write(tree.name.encode() * 9)
    with Comparing(*trees, Options(deep=False, limits=Limits(300, 1 << 30))) as comparing:
        (finding,) = comparing.run()
    assert finding.inspected
    assert finding.inspected.ending is Ending.COMPLETE
    evidence = finding.causes[0].evidence[0]
    assert evidence.change.offset == 4 << 30


def test_a_tree_with_nothing_and_a_tree_with_itself(trees: tuple[Path, Path]) -> None:
    assert compare(*trees).status == 0
    (trees[0] / "x").write_text("x")
    assert dict(compare(*trees).counts())["Missing"] == 1
    result = compare(trees[0], trees[0])
    assert (result.status, len(result.warnings)) == (0, 1)


def test_leaving_in_the_middle_leaves_no_process(trees: tuple[Path, Path]) -> None:
    for tree in trees:
        for number in range(6):
            make_deb(tree, f"p{number}", "p", f"{tree.name} {number}\n")
    with Comparing(*trees, Options(deep=False)) as comparing:
        next(comparing.run())
        pids = [worker.pid for worker in comparing._pool.workers if worker.pid]  # type: ignore[attr-defined]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith(("inspect", "digest", "diffoscope"))
    ]
