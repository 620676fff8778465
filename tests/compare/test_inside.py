"""Each container is read from what a real program made, down to names, metadata and contents."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from making import make_rpm

from detbuild.compare.change import Collected, Facts
from detbuild.compare.inside import Member, opened
from detbuild.compare.inspect import Inspector

MOMENT = 1_600_000_000
UUID = "01234567-89ab-cdef-0123-456789abcdef"
CONTENTS = {"hello.txt": b"hello\n" * 10, "dir/big.bin": bytes(range(256)) * 4000, "dir/empty": b""}


def needs(*programs: str) -> pytest.MarkDecorator:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [program for program in programs if not shutil.which(program, path=path)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    for name, contents in CONTENTS.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
    (top / "link").symlink_to("hello.txt")
    for path in (top, *top.rglob("*")):
        os.utime(path, (MOMENT, MOMENT), follow_symlinks=False)
    return top


def sh(script: str, cwd: Path) -> None:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path, "TZ": "UTC"}
    done = subprocess.run(
        ["/bin/sh", "-ec", script], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def read(path: Path) -> dict[str, tuple[Member, bytes]]:
    reader = opened(path)
    assert reader, f"{path} was not taken for a container"
    return {member.name.removeprefix("./"): (member, b"".join(pieces)) for member, pieces in reader.members()}


MAKERS = {
    "tar": "tar -C tree -cf out .",
    "tar.xz": "tar -C tree -cJf out .",
    "tar.zst": "tar -C tree --zstd -cf out .",
    "cpio": "cd tree; find . | cpio -o -H newc > ../out",
    "cpio.gz": "cd tree; find . | cpio -o -H newc | gzip > ../out",
    "zip": "cd tree; zip -qry out.zip .; mv out.zip ../out",
    "squashfs": "mksquashfs tree out -quiet -no-progress",
    "ext4": "truncate -s 8M out; mkfs.ext4 -q -F -d tree out",
    "ext2": "truncate -s 8M out; mkfs.ext4 -t ext2 -q -F -d tree out",
    "ext4 of 1 KiB blocks": "truncate -s 8M out; mkfs.ext4 -b 1024 -q -F -d tree out",
}


@needs("mksquashfs", "unsquashfs", "mkfs.ext4", "cpio", "zip", "zstd")
@pytest.mark.parametrize("name", MAKERS)
def test_a_container_gives_its_members_with_contents_and_times(tmp_path: Path, tree: Path, name: str) -> None:
    sh(MAKERS[name], tmp_path)
    found = read(tmp_path / "out")
    for path, contents in CONTENTS.items():
        member, inside = found[path]
        assert (member.kind, inside) == ("file", contents)
        assert member.mtime == MOMENT
    assert (found["link"][0].kind, found["link"][0].target) in (("link", "hello.txt"), ("file", None))
    assert not [path for path in tmp_path.iterdir() if path.name not in ("tree", "out")]


@needs("mkfs.vfat", "mcopy")
@pytest.mark.parametrize("program", ["gzip", "bzip2", "xz"])
def test_nothing_compressed_is_an_empty_file_and_no_damage(tmp_path: Path, program: str) -> None:
    sh(f"{program} -c /dev/null > out", tmp_path)
    assert read(tmp_path / "out")["contents"][1] == b""


@pytest.mark.parametrize(("size", "bits"), [("1M", 12), ("16M", 16), ("64M", 32)])
def test_a_fat_of_each_width_gives_long_names_and_contents(tmp_path: Path, tree: Path, size: str, bits: int) -> None:
    (tree / "link").unlink()
    (tree / "A name that is longer than eight.txt").write_bytes(b"long")
    big = b"" if bits == 12 else CONTENTS["dir/big.bin"]
    (tree / "dir/big.bin").write_bytes(big)
    sh(f"truncate -s {size} out; mkfs.vfat -F {bits} out > /dev/null; mcopy -s -i out tree/* ::", tmp_path)
    found = read(tmp_path / "out")
    assert found["A name that is longer than eight.txt"][1] == b"long"
    assert found["dir/big.bin"][1] == big
    assert found["hello.txt"][1] == CONTENTS["hello.txt"]


@needs("mkfs.ext4")
def test_a_disk_gives_its_partitions(tmp_path: Path, tree: Path) -> None:
    sh("truncate -s 4M part; mkfs.ext4 -q -F -d tree part", tmp_path)
    table = bytearray(512)
    table[446:462] = struct.pack("<B3sB3sII", 0x80, b"\0" * 3, 0x83, b"\0" * 3, 2048, 8192)
    table[510:512] = b"\x55\xaa"
    disk = bytes(table) + bytes(2047 * 512) + (tmp_path / "part").read_bytes()
    (tmp_path / "out").write_bytes(disk)
    assert read(tmp_path / "out")["partition 1"][1] == (tmp_path / "part").read_bytes()


def test_an_installer_gives_its_script_and_its_archive(tmp_path: Path, tree: Path) -> None:
    sh("tar -C tree -cJf t .; printf '#!/bin/sh\\necho installing\\nexit 0\\nMARKER:\\n' | cat - t > out", tmp_path)
    found = read(tmp_path / "out")
    assert found["script"][1].endswith(b"MARKER:\n")
    assert found["payload"][1] == (tmp_path / "t").read_bytes()


def test_a_script_without_an_archive_is_no_container(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("#!/bin/sh\necho MARKER:\n")
    assert opened(tmp_path / "out") is None


@needs("rpmbuild")
def test_an_rpm_gives_its_header_and_its_files(tmp_path: Path) -> None:
    path = make_rpm(tmp_path, "libz1", "zlib")
    assert read(path)["usr/share/libz1"][1] == b"x\n"
    reader = opened(path)
    assert reader
    assert reader.header()["name"] == "libz1"


def start_of_payload(package: bytes) -> int:
    """Behind the lead, the signature's header, which is padded to eight bytes, and the header (rpm's format.md)."""
    position = 96
    for align in (8, 1):
        entries, size = struct.unpack_from(">8xII", package, position)
        position += 16 + 16 * entries + size
        position += -position % align
    return position


def cpio_of(*parts: tuple[bytes, bytes]) -> bytes:
    data = b""
    for name, contents in (*parts, (b"TRAILER!!!", b"")):
        fields = (7, 0o100644, 0, 0, 1, MOMENT, len(contents), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name + b"\0"
        data += head + bytes(-len(head) % 4) + contents + bytes(-len(contents) % 4)
    return data


@needs("rpmbuild")
def test_files_of_one_name_and_of_names_in_no_character_set_in_an_rpm_are_told_apart(tmp_path: Path) -> None:
    path = make_rpm(tmp_path, "libz1", "zlib")
    package = path.read_bytes()
    payload = cpio_of((b"./twice", b"1"), (b"./twice", b"2"), (b"./odd\xfe", b"3"), (b"./odd\xff", b"4"))
    path.write_bytes(package[: start_of_payload(package)] + gzip.compress(payload))
    found = [(os.fsencode(name), contents) for name, (_member, contents) in read(path).items()]
    assert found == [(b"twice", b"1"), (b"twice#2", b"2"), (b"odd\xfe", b"3"), (b"odd\xff", b"4")]


@needs("mkfs.ext4")
@pytest.mark.parametrize("kind", ["ext4", "ext2"])
@pytest.mark.parametrize("length", [10, 59, 60, 61, 900])
def test_where_a_link_in_an_ext4_image_points_is_told_however_long_it_is(
    tmp_path: Path, kind: str, length: int
) -> None:
    made = ["E2FSPROGS_FAKE_TIME=1600000000", f"mkfs.ext4 -t {kind} -b 1024 -q -F", f"-U {UUID} -E hash_seed={UUID}"]
    for side in "ab":
        tree = tmp_path / f"tree-{side}"
        tree.mkdir()
        (tree / "link").symlink_to("x" * (length - 1) + side)
        os.utime(tree / "link", (MOMENT, MOMENT), follow_symlinks=False)
        os.utime(tree, (MOMENT, MOMENT))
        sh(f"truncate -s 4M {side}; {' '.join(made)} -d tree-{side} {side}", tmp_path)
        assert read(tmp_path / side)["link"][0].target == "x" * (length - 1) + side
    changes = Collected()
    Inspector(Facts(), tmp_path, changes).pair(tmp_path / "a", tmp_path / "b")
    found = [change for change in changes.changes if change.where == ("./link", "target")]
    assert [(change.a[-1], change.b[-1]) for change in found] == [("a", "b")]


@needs("gcc", "ar")
def test_a_static_library_gives_long_names(tmp_path: Path) -> None:
    sh("echo 1 > a_name_that_is_longer_than_fifteen.o; echo 22 > b.o; ar rcD out *.o", tmp_path)
    found = read(tmp_path / "out")
    assert found["a_name_that_is_longer_than_fifteen.o"][1] == b"1\n"
    assert found["b.o"][0].mtime == 0


@pytest.mark.parametrize("name", ["tar.xz", "zip", "ext4", "squashfs", "cpio"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_truncated_container_is_damaged_and_nothing_else(tmp_path: Path, tree: Path, name: str, share: float) -> None:
    if name in ("ext4", "squashfs") and not shutil.which("mksquashfs"):
        pytest.skip("needs mksquashfs")
    sh(MAKERS[name], tmp_path)
    data = (tmp_path / "out").read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    changes = Collected()
    inspector = Inspector(Facts(), tmp_path, changes)
    inspector.pair(tmp_path / "out", tmp_path / "cut")
    assert changes.changes
    assert name == "ext4" or any("damaged" in change.line_a for change in changes.changes)
    assert not [path for path in tmp_path.iterdir() if path.name not in ("tree", "out", "cut")]
