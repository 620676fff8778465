"""Directories in name order under the rule order, whatever the file system and however they are read."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detbuild import Session
from detbuild.engine.order import getdents
from detbuild.linux import directory
from detbuild.linux.x86_64 import I386, NATIVE

MANY = 10_007  # a prime: no buffer ends with the directory
NAMES = [f"entry-{number * 7919 % MANY}" for number in range(MANY)]


@pytest.fixture(scope="module", params=["/dev/shm", "the temporary directory", "overlay"])
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of MANY files, on tmpfs, on what is below /tmp, and merged of two layers by an overlay."""
    base = tmp_path_factory.mktemp("crowded")
    if request.param == "/dev/shm":
        if not os.path.isdir(request.param):
            pytest.skip("this machine has no /dev/shm")
        base = Path(tempfile.mkdtemp(prefix="detbuild-", dir=request.param))
    layers = [base / name for name in ("lower", "upper", "work", "merged")]
    for layer in layers:
        layer.mkdir()
    lower, upper, work, merged = layers
    if request.param != "overlay":
        _fill(merged, NAMES)
        yield merged
        shutil.rmtree(base)
        return
    _fill(lower, NAMES[: MANY // 2])
    _fill(upper, NAMES[MANY // 2 :])
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no overlay can be mounted here: {mounted.stderr.strip()}")
    yield merged
    subprocess.run(["umount", str(merged)], check=True)


def _fill(place: Path, names: list[str]) -> None:
    for name in names:
        (place / name).touch()


def run(here: Path, snippet: str, policy: str = "time +order") -> Any:
    """What a Python snippet prints as JSON, in a session."""
    with Session(1_300_000_000, policy, engine="tracer") as session:
        command = [sys.executable, "-I", "-S", "-c", f"import json, os\n{snippet}"]
        done = session.run(command, cwd=here, capture_output=True, text=True, timeout=120)
    assert not done.stderr
    assert not session.audit.gaps
    return json.loads(done.stdout)


# libc's own directory streams: Python has no telldir.
STREAMS = """
import ctypes
libc = ctypes.CDLL(None)
class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("reclen", ctypes.c_uint16),
                ("type", ctypes.c_ubyte), ("name", ctypes.c_char * 256)]
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Dirent)
libc.readdir.argtypes = libc.telldir.argtypes = libc.rewinddir.argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
stream = libc.opendir(b".")
def read(count=1 << 30):
    found = []
    while len(found) < count and (entry := libc.readdir(stream)):
        found.append(entry.contents.name.decode())
    return found
"""


def test_every_entry_is_listed_once_by_name(crowded: Path) -> None:
    found = run(crowded, "print(json.dumps(os.listdir()))")
    assert found == sorted(NAMES)
    assert os.listdir(crowded) != found


def test_telldir_and_seekdir_lead_to_the_same_entry(crowded: Path) -> None:
    places, read, again = run(
        crowded,
        STREAMS + "places, names = [], []\nwhile True:\n places.append(libc.telldir(stream))\n"
        " found = read(1)\n if not found: break\n names += found\n"
        "again = []\nfor at in range(len(names) - 1, -1, -97):\n libc.seekdir(stream, places[at])\n"
        " again.append([at, read(1)[0]])\nprint(json.dumps([places, names, again]))",
    )
    assert read == [".", "..", *sorted(NAMES)]
    assert len(set(places)) == len(places)
    assert [read[at] for at, _ in again] == [name for _, name in again]


def test_rewinding_shows_what_was_made_and_removed(tmp_path: Path) -> None:
    _fill(tmp_path, ["b", "c", "d"])
    first, second = run(
        tmp_path,
        STREAMS + "first = read()\nos.unlink('c'); open('a', 'w')\nlibc.rewinddir(stream)\n"
        "print(json.dumps([first, read()]))",
    )
    assert first == [".", "..", "b", "c", "d"]
    assert second == [".", "..", "a", "b", "d"]


def test_a_directory_that_is_emptied_while_it_is_read_loses_no_entry(tmp_path: Path) -> None:
    names = [f"{number}" for number in range(3001)]
    _fill(tmp_path, names)
    seen = run(
        tmp_path,
        STREAMS + "seen = 0\nwhile found := read(1):\n if found[0][0] != '.': os.unlink(found[0]); seen += 1\n"
        "print(json.dumps(seen))",
    )
    assert seen == len(names)
    assert os.listdir(tmp_path) == []


def test_rm_and_cp_and_find_work_on_a_crowded_directory(crowded: Path, tmp_path: Path) -> None:
    with Session(1_300_000_000, "strict", engine="tracer") as session:
        script = (
            'cp -r "$1" copy && find copy -type f | wc -l && find copy -delete && cp -r "$1" two && rm -r two && ls -A'
        )
        done = session.run(["sh", "-c", script, "-", crowded], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == ([str(MANY)], "")


def test_a_child_reads_on_where_its_parent_stopped(tmp_path: Path) -> None:
    _fill(tmp_path, [f"{number:04}" for number in range(2003)])
    parent, child, after = run(
        tmp_path,
        STREAMS + "r, w = os.pipe()\nparent = read(100)\nif not os.fork():\n"
        " os.write(w, json.dumps(read()).encode().ljust(65536)); os._exit(0)\n"
        "os.wait()\nprint(json.dumps([parent, json.loads(os.read(r, 65536)), libc.telldir(stream) == 100]))",
    )
    assert parent + child == [".", "..", *sorted(f"{number:04}" for number in range(2003))]
    assert after


@pytest.mark.parametrize(
    ("abi", "call", "size", "result"),
    [
        (NATIVE, "getdents64", 8, -22),
        (NATIVE, "getdents", 8, -22),
        (I386, "getdents", 8, -22),
        (I386, "getdents", 0, -22),
    ],
)
def test_a_buffer_that_is_too_small_is_the_callers_own_fault(
    tmp_path: Path, abi: Any, call: str, size: int, result: int
) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    assert getdents(os.getpid(), abi, call, [descriptor, 0, size], {}) == result
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
    os.close(descriptor)


def test_a_buffer_that_is_none_leaves_the_position(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="Bad address"):
        getdents(os.getpid(), NATIVE, "getdents64", [descriptor, 4096, 512], {})
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
    os.close(descriptor)


def test_what_is_no_directory_gets_the_kernels_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "removed").mkdir()
    outcomes = (("file", os.O_RDONLY), (".", os.O_PATH), ("removed", os.O_RDONLY))
    found, real = [], []
    for name, flags in outcomes:
        descriptor = os.open(tmp_path / name, flags)
        if name == "removed":
            (tmp_path / name).rmdir()
        found.append(getdents(os.getpid(), NATIVE, "getdents64", [descriptor, 0, 512], {}))
        with pytest.raises(OSError, match="getdents64") as refused:
            directory.entries(descriptor)
        real.append(-(refused.value.errno or 0))
        os.close(descriptor)
    assert found == real == [-errno.ENOTDIR, -errno.EBADF, -errno.ENOENT]
    assert getdents(os.getpid(), NATIVE, "getdents64", [9999, 0, 512], {}) == -errno.EBADF


def test_a_thread_reads_on_after_its_process_s_first_thread_has_ended(tmp_path: Path) -> None:
    _fill(tmp_path, ["b", "a", "c"])
    found = run(
        tmp_path,
        "import ctypes, threading, time\ndef look():\n time.sleep(0.3)\n"
        " os.write(1, json.dumps(os.listdir('.')).encode()); os._exit(0)\n"
        "threading.Thread(target=look).start()\nctypes.CDLL(None).syscall(60, 0)",
    )
    assert found == ["a", "b", "c"]


def test_entries_are_what_the_kernel_lists(tmp_path: Path) -> None:
    _fill(tmp_path, ["file"])
    (tmp_path / "directory").mkdir()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    found = {entry.name: entry for entry in directory.entries(descriptor)}
    os.close(descriptor)
    assert found.keys() == {b".", b"..", b"file", b"directory"}
    assert found[b"file"].inode == (tmp_path / "file").stat().st_ino
    assert (found[b"file"].kind, found[b"directory"].kind) == (8, 4)
