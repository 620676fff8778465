from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from making import as_nobody, readable_by_all

from detbuild.compare.digest import CHUNK, Unreadable, digest


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
def test_it_is_the_sha256_of_the_contents(tmp_path: Path, size: int) -> None:
    contents = os.urandom(size)
    (tmp_path / "f").write_bytes(contents)
    assert digest(str(tmp_path / "f")) == hashlib.sha256(contents).hexdigest()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "link").symlink_to("f")
    with pytest.raises(Unreadable, match="changed while"):
        digest(str(tmp_path / "link"))


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Unreadable, match="changed while"):
        digest(str(tmp_path / "fifo"))


def test_a_file_that_vanished_is_named_as_changed(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="changed while"):
        digest(str(tmp_path / "gone"))


def test_a_file_that_grows_while_it_is_read_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 10)
    read = os.read

    def read_and_append(descriptor: int, size: int) -> bytes:
        contents = read(descriptor, size)
        if len(contents) == 10:
            with path.open("ab") as stream:
                stream.write(b"y")
        return contents

    monkeypatch.setattr(os, "read", read_and_append)
    with pytest.raises(Unreadable, match="changed while"):
        digest(str(path))


def test_a_file_without_permission_says_so() -> None:
    with readable_by_all() as top:
        (top / "f").touch(mode=0o000)
        with as_nobody(), pytest.raises(Unreadable, match="Permission denied"):
            digest(str(top / "f"))
